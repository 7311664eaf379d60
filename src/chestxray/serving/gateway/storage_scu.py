"""A Storage SCU: sends objects over an association, in the thread that asks for it (PS3.4 annex B).

pynetdicom runs two threads for an association, which look for work a thousand times a second, and
passes each PDU through queues. That took several times the processor time of what is sent here, and
so did the wait for answers: many archives send the end of an answer only when its beginning was
acknowledged, which Linux does 40 ms later unless told otherwise.

What the other side says is limited in size and time, and nothing of it is quoted.

References: PS3.7 sections 9.1.1 and 9.3.1 (C-STORE), annex D (user information); PS3.8 section 9.3
(PDUs).
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Self

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID

from chestxray.errors import ChestXrayError

_ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA = 0x02, 0x03, 0x04
_RELEASE_RQ: Final = struct.pack(">BxLxxxx", 0x05, 4)
_ABORT: Final = struct.pack(">BxLxxxx", 0x07, 4)
_APPLICATION: Final = b"1.2.840.10008.3.1.1.1"  # the DICOM application context (PS3.7 annex A)
_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001
_LOW: Final = 2  # priority: nobody waits for a result as for an image
_HAS_DATA_SET: Final = 1
_IS_COMMAND, _IS_LAST = 1, 2  # bits of a message control header
_OWN_MAX_LENGTH: Final = 16384
_LEAST_MAX_LENGTH: Final = 1024
_UNLIMITED: Final = 2**17
_BYTES_AT_ONCE: Final = 2**17
_MAX_ANSWER: Final = 2**16
_RELEASE_SECONDS: Final = 5.0


class AssociationError(ChestXrayError):
    """No association came about, or it ended before an answer came; the message says which."""


class Context(NamedTuple):
    """What objects are proposed and accepted: a SOP class in a transfer syntax, by their UIDs."""

    sop_class: str
    syntax: str


class StorageSCU:
    """An open association.

    Attributes:
        socket: its connection.
        accepted: the contexts that the other side accepts, with their numbers.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.socket = connection
        self.accepted: dict[Context, int] = {}
        self._seconds = seconds
        self._max_length = 0

    @classmethod
    def associate(
        cls,
        address: tuple[str, int],
        titles: tuple[str, str],
        contexts: Sequence[Context],
        tls: ssl.SSLContext | None,
        seconds: float,
    ) -> Self:
        """Open an association.

        Args:
            address: host and port of the other side.
            titles: AE title of the other side, and our own.
            contexts: that are proposed, 128 at most.
            tls: how to secure the connection; not at all where None.
            seconds: time limit of opening, of sending each 128 KiB, and of each answer.

        Raises:
            AssociationError: none came about.
        """
        try:
            connection = socket.create_connection(address, seconds)
        except OSError as error:
            raise AssociationError("could not be opened") from error
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                connection = tls.wrap_socket(connection, server_hostname=address[0])
            opened = cls(connection, seconds)
            connection.sendall(_request(titles, contexts))
            opened._negotiate(contexts)
        except (OSError, AssociationError) as error:
            connection.close()
            raise _told(error, "could not be opened") from error
        return opened

    @property
    def is_open(self) -> bool:
        """Whether the other side has neither closed the connection nor sent what nobody asked."""
        return not select.select([self.socket], [], [], 0)[0]

    def store(self, context: int, sop_class: str, uid: str, data_set: bytes) -> int:
        """Send an object; give the status that the other side answers.

        Raises:
            AssociationError: it gave no answer; the association has ended.
        """
        try:
            self._send(context, _IS_COMMAND, _command(sop_class, uid))
            self._send(context, 0, data_set)
            return _status(self._answer())
        except (OSError, AssociationError) as error:
            self._abort()
            raise _told(error, "the connection was lost before an answer came") from error

    def release(self) -> None:
        """End the association."""
        with contextlib.suppress(OSError, AssociationError):
            self.socket.settimeout(_RELEASE_SECONDS)
            self.socket.sendall(_RELEASE_RQ)
            self._pdu(time.monotonic() + _RELEASE_SECONDS)
        self.socket.close()

    def _abort(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(_ABORT)
        self.socket.close()

    def _negotiate(self, contexts: Sequence[Context]) -> None:
        """Read what the other side answers to the request."""
        kind, content = self._pdu(time.monotonic() + self._seconds)
        if kind == _ASSOCIATE_RJ:
            raise AssociationError("was rejected")
        if kind != _ASSOCIATE_AC:
            raise AssociationError("could not be opened")
        self._max_length = _OWN_MAX_LENGTH
        for item, found in _items(content[68:]):
            if item == 0x21 and len(found) >= 4 and found[2] == 0 and found[0] % 2:
                number = found[0] // 2
                if number < len(contexts):
                    self.accepted[contexts[number]] = found[0]
            elif item == 0x50:
                lengths = [part for sub, part in _items(found) if sub == 0x51 and len(part) == 4]
                self._max_length = int.from_bytes(lengths[0]) if lengths else 0
        self._max_length = self._max_length or _UNLIMITED
        if not self.accepted or self._max_length < _LEAST_MAX_LENGTH:
            raise AssociationError("accepts none of the results")

    def _send(self, context: int, flags: int, content: bytes) -> None:
        """Send a command or a data set, as many PDUs at once as make 128 KiB."""
        self.socket.settimeout(self._seconds)
        size = min(self._max_length, _BYTES_AT_ONCE) - 6
        starts = iter(range(0, len(content), size))
        while some := list(itertools.islice(starts, max(1, _BYTES_AT_ONCE // size))):
            pieces = []
            for at in some:
                part = content[at : at + size]
                bits = flags | (_IS_LAST if at + size >= len(content) else 0)
                lengths = len(part) + 6, len(part) + 2  # of the PDU, of its only value
                pieces += [struct.pack(">BxLLBB", _P_DATA, *lengths, context, bits), part]
            self.socket.sendall(b"".join(pieces))

    def _answer(self) -> bytes:
        """Give the command set of an answer, which has no data set."""
        end, command = time.monotonic() + self._seconds, bytearray()
        while True:
            kind, content = self._pdu(end)
            if kind != _P_DATA:
                raise AssociationError("the association was ended before an answer came")
            at = 0
            while at + 6 <= len(content):
                length, _, flags = struct.unpack_from(">LBB", content, at)
                if not flags & _IS_COMMAND or length < 2:
                    raise AssociationError("the answer is no answer to C-STORE")
                command += content[at + 6 : at + 4 + length]
                at += 4 + length
                if flags & _IS_LAST:
                    return bytes(command)
            if len(command) > _MAX_ANSWER:
                raise AssociationError("the answer is too long")

    def _pdu(self, end: float) -> tuple[int, bytes]:
        """Read a PDU, which must be complete at a time; give its type and content."""
        kind, length = struct.unpack(">BxL", self._read(6, end))
        if length > _MAX_ANSWER:
            raise AssociationError("the answer is too long")
        return kind, self._read(length, end)

    def _read(self, size: int, end: float) -> bytes:
        content = bytearray()
        while (missing := size - len(content)) > 0:
            if hasattr(socket, "TCP_QUICKACK"):  # Linux forgets it
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            received = self.socket.recv(missing)
            if not received:
                raise ConnectionError
            content += received
        return bytes(content)


def _told(error: OSError | AssociationError, of_connection: str) -> AssociationError:
    """Give what an error says; of the connection's own, what it means."""
    return AssociationError(of_connection if isinstance(error, OSError) else str(error))


def _request(titles: tuple[str, str], contexts: Sequence[Context]) -> bytes:
    """Encode an A-ASSOCIATE-RQ PDU (PS3.8 section 9.3.2)."""
    called, calling = (title.strip().ljust(16).encode("ascii") for title in titles)
    proposed = b"".join(
        _item(
            0x20,
            struct.pack(">Bxxx", 2 * number + 1)
            + _item(0x30, context.sop_class.encode())
            + _item(0x40, context.syntax.encode()),
        )
        for number, context in enumerate(contexts)
    )
    user = _item(0x51, struct.pack(">L", _OWN_MAX_LENGTH)) + _item(
        0x52, PYNETDICOM_IMPLEMENTATION_UID.encode()
    )
    content = struct.pack(">Hxx16s16s32x", 1, called, calling)
    content += _item(0x10, _APPLICATION) + proposed + _item(0x50, user)
    return struct.pack(">BxL", 0x01, len(content)) + content


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Give type and content of each item of a PDU."""
    at = 0
    while at + 4 <= len(content):
        kind, length = struct.unpack_from(">BxH", content, at)
        yield kind, content[at + 4 : at + 4 + length]
        at += 4 + length


def _command(sop_class: str, uid: str) -> bytes:
    """Encode the command set of a C-STORE request (PS3.7 section 9.3.1)."""
    command = b"".join((
        _element(0x0002, _padded(sop_class)),
        _element(0x0100, struct.pack("<H", _C_STORE_RQ)),
        _element(0x0110, struct.pack("<H", 1)),  # message ID
        _element(0x0700, struct.pack("<H", _LOW)),
        _element(0x0800, struct.pack("<H", _HAS_DATA_SET)),
        _element(0x1000, _padded(uid)),
    ))  # fmt: skip
    return _element(0x0000, struct.pack("<L", len(command))) + command


def _element(element: int, value: bytes) -> bytes:
    """Encode an element of group 0000, in Implicit VR Little Endian."""
    return struct.pack("<HHL", 0, element, len(value)) + value


def _padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def _status(command: bytes) -> int:
    """Give the status of a C-STORE response.

    Raises:
        AssociationError: it is none.
    """
    values, at = {}, 0
    while at + 8 <= len(command):
        group, element, length = struct.unpack_from("<HHL", command, at)
        values[group, element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    command_field, status = (values.get((0, element), b"") for element in (0x0100, 0x0900))
    if int.from_bytes(command_field, "little") != _C_STORE_RSP or len(status) != 2:
        raise AssociationError("the answer is no answer to C-STORE")
    return int.from_bytes(status, "little")
