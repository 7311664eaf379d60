"""An association with a Storage SCP, over which results are sent (PS3.7, PS3.8).

pynetdicom gives an association a thread that looks for what the peer asks for a thousand times a
second, and that may take the answer for which the sender waits; the result is sent again then,
30 s later. An association that only sends needs none: here the sender itself looks whether the peer
has ended it, before it sends. A peer that sends anything but one answer to each result, or an
answer to another, is aborted; PDUs and answers are limited in size and time (`upper_layer`).
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AddressInformation, AssociationSocket

from chestxray.serving.gateway.config import StoreSCP
from chestxray.serving.gateway.logs import place
from chestxray.serving.gateway.upper_layer import (
    Command,
    LimitedMessages,
    NotAllowedError,
    UpperLayer,
    warn,
)

_MOST_MESSAGES: Final = 2**16 - 1  # a message ID has 16 bits
_OF_COMMAND: Final = 1  # bit of a fragment's control header (PS3.8 annex E.2)
_ANY_ADDRESS: Final = {socket.AF_INET: "", socket.AF_INET6: "::0"}


class OutgoingAssociation(Association):
    """An association that is used by one thread, and has none of its own.

    Args:
        ae: with the presentation contexts to propose, and timeouts.
        to: the peer.
        tls: context for TLS; None without.

    Attributes:
        is_established: whether the peer has accepted it, and nobody was seen to end it.
    """

    def __init__(self, ae: AE, to: StoreSCP, tls: ssl.SSLContext | None) -> None:
        super().__init__(ae, "requestor")
        self._layer = _UpperLayer(self, float(ae.network_timeout or 0))
        self._layer.take_place_of(self.dul)
        self.dimse = self._answers = _Answers(self)
        self._last_message = 0
        self._is_paused = True  # there is no thread that pynetdicom must wait for
        self._address(to, tls)
        self._propose(ae)
        self._was_connected = False
        self.bind(evt.EVT_CONN_OPEN, self._connected)
        self.bind(evt.EVT_DATA_SENT, _acknowledge_at_once)
        self.request()
        if not self.is_established:
            self._layer.close()

    @property
    def is_usable(self) -> bool:
        """Whether something can be sent: the peer neither released nor aborted it."""
        self._layer.work()
        return self.is_established and self.dul.is_alive() and self.dul.peek_next_pdu() is None

    @property
    def why_not(self) -> str:
        """Why it is not established."""
        if self.is_rejected:
            return "was rejected"
        if self.rejected_contexts:
            return "could not be opened: the archive accepts no class of results in Explicit VR"
        if not self._was_connected:
            return "could not be opened: there is no connection"
        return "could not be opened: the archive closed the connection, or does not answer"

    def store(self, result: Path | Dataset) -> int | None:
        """Send a result by C-STORE.

        Args:
            result: a DICOM file, sent as it is; or a data set, which is encoded.

        Returns:
            The status of the answer; None where the association ended before there was one.

        Raises:
            ValueError: the peer has accepted no context for it, or it cannot be encoded.
            OSError: the file cannot be read. The association has ended: half of it may be sent.
        """
        self._last_message = self._last_message % _MOST_MESSAGES + 1
        self._answers.awaited = self._last_message
        try:
            answer = self.send_c_store(result, msg_id=self._last_message)
        except OSError:
            self.abort()
            raise
        finally:
            self._answers.awaited = None
        return int(answer.Status) if "Status" in answer else None

    def end(self) -> None:
        """Release the association, or answer the peer that did so first."""
        if self.is_usable:
            self.release()
        elif self.is_established:
            if self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
            self.kill()

    def _connected(self, event: evt.Event) -> None:
        """Turn Nagle's algorithm off: it holds the end of a report for 40 ms."""
        self._was_connected = True
        _set_for_tcp(event, socket.TCP_NODELAY)

    def _address(self, to: StoreSCP, tls: ssl.SSLContext | None) -> None:
        peer = AddressInformation.from_addr_port(to.host, to.port)
        own = AddressInformation(_ANY_ADDRESS[peer.address_family], 0)
        connection = AssociationSocket(self, address=own)
        connection.tls_args = (tls, to.host) if tls else None
        self.set_socket(connection)
        self.acceptor.address_info, self.acceptor.ae_title = peer, to.ae_title
        self.requestor.address_info = own

    def _propose(self, ae: AE) -> None:
        own = self.requestor
        own.ae_title, own.maximum_length = ae.ae_title, ae.maximum_pdu_size
        own.implementation_class_uid = ae.implementation_class_uid
        own.implementation_version_name = ae.implementation_version_name
        contexts = ae.requested_contexts
        for number, context in enumerate(contexts):
            context.context_id = 2 * number + 1  # odd, PS3.8 section 9.3.2.2
        own.requested_contexts = contexts


class _UpperLayer(UpperLayer):
    """Works in the thread that sends something, or waits for it."""

    def start(self) -> None:
        """Start no thread."""
        self.assoc._dul_ready.set()  # noqa: SLF001

    def is_alive(self) -> bool:
        """Tell whether the connection has not ended."""
        return not self._kill_thread

    def send_pdu(self, primitive: Any) -> None:  # noqa: ANN401
        """Send a primitive."""
        super().send_pdu(primitive)
        while self.is_alive() and not self.to_provider_queue.empty():
            self._step()

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:  # noqa: ANN401
        """Give what the peer asks of the association; None where there is nothing in time."""
        if wait:
            self.work_until(lambda: self.peek_next_pdu() is not None, timeout or 0)
        return super().receive_pdu()

    def stop_dul(self) -> bool:
        """Tell whether the connection has ended, after what is left to do."""
        self.work()
        return super().stop_dul()

    def work(self) -> None:
        """Handle what has come. That is little: what nobody awaits ends the connection."""
        while self.is_alive() and self._step():
            pass

    def work_until(self, done: Callable[[], bool], seconds: float) -> None:
        """Handle what comes.

        Args:
            done: whether nothing more is waited for.
            seconds: the longest time.
        """
        end = time.monotonic() + seconds
        while self.is_alive() and not done():
            left = end - time.monotonic()
            if left <= 0:
                return
            if not self._step():
                self.wait(left)

    def _step(self) -> bool:
        """Handle one event; give False where there is none."""
        if self.event_queue.empty():
            self._look()
        try:
            event = self.event_queue.get(block=False)
        except queue.Empty:
            return False
        try:
            self.state_machine.do_action(event)
        except Exception as error:  # noqa: BLE001 (whatever a hostile PDU raises)
            warn(self.assoc, f"what it sent cannot be handled: {place(error)}")
            self.refuse()
        return True

    def _look(self) -> None:
        """Look for an event: the end of a timer, then what is to be sent, then what has come."""
        if self.artim_timer.expired:
            self.event_queue.put("Evt18")
        elif not self._process_recv_primitive():
            self._is_transport_event()


class _Answers(LimitedMessages):
    """Takes one answer to each C-STORE request and nothing else.

    Attributes:
        awaited: ID of the message that is to be answered; None where none is.
    """

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self.awaited: int | None = None

    def get_msg(self, block: bool = False) -> Any:  # noqa: ANN401
        """Give an answer; (None, None) where none comes in time, or the peer ends it first."""
        if block:
            layer: Any = self.dul
            layer.work_until(
                lambda: not self.msg_queue.empty() or layer.peek_next_pdu() is not None,
                self.dimse_timeout or 0,
            )
        return super().get_msg()

    def _receive(self, primitive: P_DATA) -> None:
        if self.awaited is None:
            raise NotAllowedError("it sent what nobody had asked for")
        values: Any = primitive.presentation_data_value_list
        if any(not value[0] & _OF_COMMAND for _, value in values):
            raise NotAllowedError("an answer to C-STORE has no data set")
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.encoded_command_set = Command()
        if not self.message.decode_msg(primitive, self.assoc):
            return
        answer, context = self.message.message_to_primitive(), self.message.context_id
        if not isinstance(answer, C_STORE) or answer.MessageIDBeingRespondedTo != self.awaited:
            raise NotAllowedError("it did not answer the request")
        self.message = self.awaited = None
        self.msg_queue.put((context or 0, answer))


def _acknowledge_at_once(event: evt.Event) -> None:
    """Have the beginning of the answer acknowledged at once, as often as Linux forgets it.

    Many archives hold its end till then, which is 40 ms later otherwise.
    """
    if sys.platform == "linux":  # elsewhere there is no such option
        _set_for_tcp(event, socket.TCP_QUICKACK)


def _set_for_tcp(event: evt.Event, option: int) -> None:
    connection: Any = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        with contextlib.suppress(OSError):  # the other side has just closed it
            connection.socket.setsockopt(socket.IPPROTO_TCP, option, 1)
