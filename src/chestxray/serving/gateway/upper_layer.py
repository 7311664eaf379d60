"""What a peer may send on a connection, in bytes, messages and time (PS3.8, PS3.7).

pynetdicom believes the length of every PDU, waits for its bytes without a limit, and keeps all of a
message in memory. Here a length is checked before its bytes are read, a PDU must arrive in time,
and a data set goes to a spool as it arrives, without being copied on the way.

Its two threads look for work a thousand times a second, which takes 4 % of a core for each open
association; here they wait for it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, Final

from pynetdicom import _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ, P_DATA_TF
from pynetdicom.pdu_items import PresentationDataValueItem
from pynetdicom.pdu_primitives import P_DATA

from chestxray.errors import ChestXrayError
from chestxray.serving.gateway.logs import place
from chestxray.serving.gateway.spool import Spool

# Else pynetdicom describes each message for a log that nobody writes.
_config.LOG_HANDLER_LEVEL = "none"

_ASSOCIATE: Final = (0x01, 0x02)
_P_DATA: Final = 0x04
_PDU_TYPES: Final = range(0x01, 0x08)
_MAX_ASSOCIATE: Final = 2**20
_MAX_SHORT: Final = 4  # reject, release, abort
_MAX_ITEMS: Final = 8192  # 128 presentation contexts of 64 transfer syntaxes
_CONTEXT: Final = 0x20
_USER_INFORMATION: Final = 0x50
_READ_BYTES: Final = 2**16

_DATA_RECEIVED: Final = "Evt10"  # of pynetdicom's state machine: P-DATA-TF PDU received
_LONGEST_WAIT: Final = 0.1  # seconds: timers and the end of the process are looked for so often

_MAX_COMMAND: Final = 2**14
_MAX_WAITING: Final = 4  # requests; a peer must await each answer (PS3.7 annex D.3.3.3)
_log = logging.getLogger(__name__)


class NotAllowedError(ChestXrayError):
    """A peer sent what it must not send; the message quotes nothing of it."""


class UpperLayer(DULServiceProvider):
    """Reads PDUs within limits of size and time.

    Args:
        association: whose connection it reads.
        seconds: maximum time of one PDU from its first byte to its last.
    """

    def __init__(self, association: Association, seconds: float) -> None:
        super().__init__(association)
        self._seconds = seconds

    def take_place_of(self, made: DULServiceProvider) -> None:
        """Serve the association, which has not begun, in place of the layer that it made."""
        self.socket, self.event_queue = made.socket, made.event_queue
        self.assoc.dul = self
        self.assoc.acse_timeout = self.assoc.acse_timeout  # sets the timers of the new layer
        self.assoc.network_timeout = self.assoc.network_timeout

    def wait(self, seconds: float, waker: socket.socket | None = None) -> None:
        """Wait until there is something to read, at most for so long.

        Args:
            seconds: the longest time.
            waker: ends the wait too, when it can be read.
        """
        connection: Any = self.socket
        if connection is None or self._has_decrypted(connection.socket):
            return
        with contextlib.suppress(OSError, ValueError):  # it was closed
            waiting = [one for one in (connection.socket, waker) if one is not None]
            select.select(waiting, [], [], seconds)

    def _has_decrypted(self, connection: socket.socket | None) -> bool:
        """Tell whether TLS holds what was sent, which `select` does not see."""
        return isinstance(connection, ssl.SSLSocket) and bool(connection.pending())

    def _decode_pdu(self, content: bytearray) -> tuple[Any, str]:
        """Decode a PDU; the values of data are not copied, as pynetdicom does four times."""
        if content[0] != _P_DATA:
            return super()._decode_pdu(content)
        pdu, whole, at = P_DATA_TF(), memoryview(content), 6
        while at < len(content):
            if at + 6 > len(content):
                raise NotAllowedError("a presentation data value is cut off")
            length, context = struct.unpack_from(">LB", content, at)
            if not 2 <= length <= len(content) - at - 4:
                raise NotAllowedError(
                    "a presentation data value does not have the length it claims"
                )
            value: Any = PresentationDataValueItem()
            value.presentation_context_id = context
            value.presentation_data_value = whole[at + 5 : at + 4 + length]
            pdu.presentation_data_value_items.append(value)
            at += 4 + length
        return pdu, _DATA_RECEIVED

    def _read_pdu_data(self) -> None:
        try:
            content = self._pdu()
            if content is None:
                self.close()
                return
            if content[0] in _ASSOCIATE:
                _check_items(content)
            pdu, event = self._decode_pdu(content)
        except OSError:  # closed, or too slow
            self.close()
        except Exception as error:  # noqa: BLE001 (whatever a hostile PDU raises)
            warn(self.assoc, f"a PDU was refused: {_shown(error)}")
            self.refuse()
        else:
            self._recv_pdu.put(pdu)
            self.event_queue.put(event)

    def _pdu(self) -> bytearray | None:
        """Read one PDU; give None where the connection ends before it does."""
        end = time.monotonic() + self._seconds
        head = bytearray(6)
        if not self._read_into(memoryview(head), end):
            return None
        kind, length = struct.unpack(">BxL", head)
        if kind not in _PDU_TYPES:
            raise NotAllowedError("it does not speak DICOM: unknown type of PDU")
        limit = self._limit(kind)
        if length > limit:
            raise NotAllowedError(
                f"a PDU of type {kind:02X} announces {length} bytes, at most {limit} are allowed"
            )
        content = head + bytes(length)
        return content if self._read_into(memoryview(content)[6:], end) else None

    def _read_into(self, content: memoryview, end: float) -> bool:
        connection: Any = self.socket
        while content:
            connection.socket.settimeout(max(end - time.monotonic(), 0.001))
            received = connection.socket.recv_into(content, min(len(content), _READ_BYTES))
            if not received:
                return False
            content = content[received:]
        connection.socket.settimeout(self._seconds)
        return True

    def _limit(self, kind: int) -> int:
        """Give the maximum length of a type of PDU; that of data is negotiated."""
        if kind == _P_DATA:
            own = self.assoc.requestor if self.assoc.is_requestor else self.assoc.acceptor
            return int(own.maximum_length or 0)
        return _MAX_ASSOCIATE if kind in _ASSOCIATE else _MAX_SHORT

    def refuse(self) -> None:
        """Abort at once: what follows on the connection cannot be understood."""
        abort = A_ABORT_RQ()
        abort.source, abort.reason_diagnostic = 0x02, 0x06  # provider: invalid PDU parameter
        try:
            self._send(abort)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        connection: Any = self.socket
        connection.close()  # it tells the state machine


class ServingUpperLayer(UpperLayer):
    """Waits for what is to be read or sent, and wakes its association (`Messages`) for it.

    Args:
        association: whose connection it reads.
        seconds: as of `UpperLayer`.
    """

    def __init__(self, association: Association, seconds: float) -> None:
        super().__init__(association, seconds)
        self._run_loop_delay = 0  # it waits in `_is_transport_event`
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)
        self.to_user_queue = _UserQueue(association)

    def run_reactor(self) -> None:
        """Run until the connection has ended, then wake the association that waits for it."""
        messages: Any = self.assoc.dimse
        # None ends the wait for a message, which pynetdicom's types do not foresee.
        to_user: Any = self.to_user_queue
        try:
            super().run_reactor()
        finally:
            messages.discard()
            to_user.put(None)
            self._waker.close()
            self._woken.close()

    def send_pdu(self, primitive: Any) -> None:  # noqa: ANN401
        """Have a primitive sent, and wake the thread that sends it."""
        super().send_pdu(primitive)
        with contextlib.suppress(OSError):  # it has ended, or was woken often enough
            self._waker.send(b"\0")

    def _is_transport_event(self) -> bool:
        """Wait until there is something to read or to send, or for a moment; then do as before.

        A loop handles one event: where another one is left, such as the request that came together
        with the connection, nothing is waited for.
        """
        if self.event_queue.empty():
            self.wait(_LONGEST_WAIT, self._woken)
            with contextlib.suppress(OSError):
                self._woken.recv(_READ_BYTES)
        return super()._is_transport_event()


class _UserQueue(queue.Queue[Any]):
    """What the other side asks of an association, which is woken for it."""

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ANN401
        """Put a primitive, and end the wait for a message."""
        super().put(item, block, timeout)
        self._association.dimse.msg_queue.put((None, None))


class LimitedMessages(DIMSEServiceProvider):
    """Assembles messages by `_receive`, which raises `NotAllowedError`: such a message aborts."""

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the next fragments; a complete message is queued."""
        try:
            self._receive(primitive)
        except Exception as error:  # noqa: BLE001 (whatever a hostile message raises)
            warn(self.assoc, f"a message was refused: {_shown(error)}")
            self.discard()
            upper_layer: Any = self.dul
            upper_layer.refuse()

    def discard(self) -> None:
        """Drop what has come of a message."""
        self.message = None

    def _receive(self, primitive: P_DATA) -> None:
        raise NotImplementedError


class Messages(LimitedMessages):
    """Assembles requests; only C-ECHO and C-STORE are taken.

    Args:
        association: whose messages they are.
        spool: makes the spool of a C-STORE request from its context ID and command set.
        max_bytes: maximum size of a data set.
    """

    def __init__(
        self, association: Association, spool: Callable[[int, Any], Spool], max_bytes: int
    ) -> None:
        super().__init__(association)
        self._spool = spool
        self._max_bytes = max_bytes
        self._data_sets: list[_DataSet] = []

    def get_msg(self, block: bool = False) -> Any:  # noqa: ANN401, ARG002
        """Wait for a message, or for a moment; give (None, None) where none came."""
        try:
            return self.msg_queue.get(timeout=_LONGEST_WAIT)
        except queue.Empty:
            return None, None

    def discard(self) -> None:
        """Remove the data sets that nobody handles."""
        self.message = None
        for data_set in self._data_sets:
            if not data_set.taken:
                data_set.close()
        self._data_sets.clear()

    def _receive(self, primitive: P_DATA) -> None:
        if self.message is None:
            self.message = self._empty_message()
        message = self.message
        if not message.decode_msg(primitive, self.assoc):
            return
        evt.trigger(self.assoc, evt.EVT_DIMSE_RECV, {"message": message})
        request = message.message_to_primitive()
        if not (isinstance(request, C_ECHO | C_STORE) and request.is_valid_request):
            raise NotAllowedError("only C-ECHO and C-STORE are supported")
        if self.msg_queue.qsize() >= _MAX_WAITING:
            raise NotAllowedError("it does not wait for answers")
        if message.context_id is None:
            raise NotAllowedError("it has no presentation context")
        self.message = None
        self.msg_queue.put((message.context_id, request))

    def _empty_message(self) -> DIMSEMessage:
        message = DIMSEMessage()
        message.encoded_command_set = Command()
        data_set: Any = _DataSet(lambda: self._open(message), self._max_bytes)
        message._data_set_file = data_set  # noqa: SLF001
        self._data_sets = [*(one for one in self._data_sets if not one.taken), data_set]
        return message

    def _open(self, message: DIMSEMessage) -> Spool:
        context = message.context_id
        if not isinstance(message, C_STORE_RQ) or context not in self.assoc._accepted_cx:  # noqa: SLF001
            raise NotAllowedError("a data set without a C-STORE request of an accepted context")
        return self._spool(context, message.command_set)


def _check_items(request: bytearray) -> None:
    """Check the number of items of an A-ASSOCIATE PDU before objects are made of them.

    Raises:
        NotAllowedError: it has more than an honest one can have.
    """
    count, users = 0, 0
    for kind, start, end in _items(request, 74, len(request)):
        count += 1
        users += kind == _USER_INFORMATION
        if kind in (_CONTEXT, _USER_INFORMATION):
            inner = _items(request, start + (4 if kind == _CONTEXT else 0), end)
            count += sum(1 for _ in itertools.islice(inner, _MAX_ITEMS))
        if count > _MAX_ITEMS or users > 1:
            raise NotAllowedError(f"an association request has more than {_MAX_ITEMS} items")


def _items(request: bytearray, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Give type, start and end of each item of a PDU (PS3.8 section 9.3.2)."""
    while at + 4 <= min(end, len(request)):
        kind, length = struct.unpack_from(">BxH", request, at)
        yield kind, at + 4, at + 4 + length
        at += 4 + length


class Command(BytesIO):
    """The command set of a message as it arrives."""

    def write(self, fragment: Any, /) -> int:  # noqa: ANN401
        """Append a fragment."""
        if self.tell() + len(fragment) > _MAX_COMMAND:
            raise NotAllowedError(f"a command set has more than {_MAX_COMMAND} bytes")
        return super().write(fragment)


class _DataSet:
    """The data set of a message as it arrives, in the form in which pynetdicom writes to a file.

    Args:
        open_spool: makes the spool, once a fragment arrives.
        max_bytes: maximum size of the data set.

    Attributes:
        spool: where it is; None before the first fragment.
        taken: whether a handler has it, who then closes it.
    """

    def __init__(self, open_spool: Callable[[], Spool], max_bytes: int) -> None:
        self.spool: Spool | None = None
        self.taken = False
        self.file = self
        self.name = ""
        self._open = open_spool
        self._max_bytes = max_bytes
        self._size = 0

    def write(self, fragment: bytes) -> None:
        """Append a fragment."""
        self._size += len(fragment)
        if self._size > self._max_bytes:
            mib = self._max_bytes // 2**20
            raise NotAllowedError(f"an object has more than {mib} MiB, see receive.object_mib")
        if self.spool is None:
            self.spool = self._open()
        self.spool.write(fragment)

    def flush(self) -> None:
        """Nothing to do: the file is synced when it is complete."""

    def close(self) -> None:
        """Remove what was not taken as an image."""
        if self.spool is not None:
            self.spool.discard()


def spool_of(event: evt.Event) -> Spool | None:
    """Take the spool of a C-STORE request; None where it has no data set."""
    request: Any = event.request
    data_set = request._dataset_file  # noqa: SLF001
    data_set.taken = True
    return data_set.spool  # type: ignore[no-any-return]


def warn(association: Association, reason: str) -> None:
    """Log that a connection is aborted, with the address of the peer."""
    peer = association.acceptor if association.is_requestor else association.requestor
    address: Any = peer.address_info
    extra = {"event": "connection-refused", "source": address.address}
    _log.warning("connection aborted: %s", reason, extra=extra)


def _shown(error: Exception) -> str:
    return str(error) if isinstance(error, NotAllowedError) else place(error)
