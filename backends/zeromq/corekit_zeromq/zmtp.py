"""ZMTP 3.1, the protocol of ZeroMQ, as DEALER and ROUTER speak it without keys. No I/O.

See https://rfc.zeromq.org/spec/37: a greeting of 64 bytes, then frames of flags, size and body.
"""

from __future__ import annotations

import struct
from typing import ClassVar

_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_MAJOR, _MINOR = 3, 1
_NULL = b"NULL".ljust(20, b"\0")
_GREETING_SIZE = 64
_MECHANISM = slice(12, 32)

_GREETING = (_SIGNATURE + bytes([_MAJOR, _MINOR]) + _NULL).ljust(_GREETING_SIZE, b"\0")

#: The signature and the major version.
_OPENING_SIZE = 11

_LONG, _COMMAND = 2, 4
_LONG_HEADER = struct.Struct(">BQ")
_LONG_SIZE = struct.Struct(">Q")

_LONGEST_CONTEXT = 16


class ForeignPeerError(Exception):
    """What came is not what such a socket without keys says."""


class OtherMechanismError(Exception):
    """The other side speaks ZMTP, with another mechanism than NULL."""


def _command(name: bytes, content: bytes) -> bytes:
    body = bytes([len(name)]) + name + content
    return bytes([_COMMAND, len(body)]) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def _ready(kind: bytes) -> bytes:
    return _command(b"READY", _property(b"Socket-Type", kind) + _property(b"Identity", b""))


def framed(message: bytes) -> bytes:
    """Return *message* as it is sent."""
    size = len(message)
    if size < 256:
        return bytes((0, size)) + message
    return _LONG_HEADER.pack(_LONG, size) + message


class Peer:
    """What one connection has said so far, and what has to be answered.

    Messages may be sent once `is_ready`.
    """

    opening: ClassVar[bytes]
    """What is sent first."""

    #: The types of the two sockets.
    _kind: ClassVar[bytes]
    _other: ClassVar[bytes]

    def __init__(self, largest: int) -> None:
        self.is_ready = False
        #: The largest frame that is taken, in bytes.
        self.largest = largest
        self._is_greeted = False
        self.answers: list[bytes] = []
        self._parts: list[bytes] = []
        self._held = 0
        self._wanted = 0

    def __repr__(self) -> str:
        state = "ready" if self.is_ready else "greeted" if self._is_greeted else "new"
        return f"<{type(self).__name__} {state} held={self._held}>"

    def take_answers(self) -> bytes:
        """Return what has to be sent now, once; worth a call when there are `answers`."""
        answers = b"".join(self.answers)
        self.answers.clear()
        return answers

    def read(self, buffer: memoryview, size: int) -> list[bytes]:
        """Take the first *size* bytes of *buffer*, as `take` does."""
        if self.is_ready and not self._held and size > 9:
            # At rest they are one message: what follows its head is copied, and no more is done.
            head = buffer[0]
            if head == _LONG:
                begin, length = 9, _LONG_SIZE.unpack_from(buffer, 1)[0]
            else:
                begin, length = 2, buffer[1]
            if not head & ~_LONG and begin + length == size and length <= self.largest:
                return [buffer[begin:size].tobytes()]
        return self.take(buffer[:size])

    def take(self, data: bytes | memoryview) -> list[bytes]:
        """Return the messages that *data* completes; *data* itself is not kept.

        Raises ForeignPeerError and OtherMechanismError; the connection is of no use then.
        """
        if self._held and not (data := self._joined(data)):
            return []
        messages: list[bytes] = []
        position = 0 if self._is_greeted else self._greet(bytes(data[:_GREETING_SIZE]))
        end = len(data) if self._is_greeted else 0
        while position < end:
            head = data[position]
            begin = position + (9 if head & _LONG else 2)
            self._wanted = begin - position
            if begin > end:
                break
            size = (
                _LONG_SIZE.unpack_from(data, position + 1)[0] if head & _LONG else data[begin - 1]
            )
            if size > self.largest:
                raise ForeignPeerError(f"a frame of {size} bytes")
            self._wanted += size
            stop = begin + size
            if stop > end:
                break
            if self.is_ready and not head & ~_LONG:
                messages.append(bytes(data[begin:stop]))
            elif head & ~_LONG == _COMMAND:
                self._obey(bytes(data[begin:stop]))
            else:
                raise ForeignPeerError(f"a frame with flags {head & ~_LONG}")
            position = stop
        if position < len(data):
            self._parts.append(bytes(data[position:]))
            self._held = len(data) - position
        return messages

    def _joined(self, data: bytes | memoryview) -> bytes:
        """Return what was held back with *data* behind it; nothing while that is too little."""
        self._parts.append(bytes(data))
        self._held += len(data)
        if self._held < self._wanted:
            return b""
        whole = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        return whole

    def _greet(self, data: bytes) -> int:
        """Return where the greeting ends, 0 if it has not come to its end."""
        # Told at the first byte that is wrong: a foreign server may wait for us, and say no more.
        signature = data[:1] + data[9:10]
        is_foreign = signature != b"\xff\x7f"[: len(signature)]
        if is_foreign or (len(data) > 10 and data[10] < _MAJOR):
            raise ForeignPeerError("it does not speak ZMTP 3")
        mechanism = data[_MECHANISM]
        self._wanted = _GREETING_SIZE
        if len(mechanism) < len(_NULL):
            return 0
        if mechanism != _NULL:
            raise OtherMechanismError(mechanism.rstrip(b"\0").decode("latin-1"))
        if len(data) < _GREETING_SIZE:
            return 0
        self._is_greeted = True
        self.answers += [_GREETING[len(self.opening) :], _ready(self._kind)]
        return _GREETING_SIZE

    def _obey(self, body: bytes) -> None:
        length = body[0] if body else 0
        name, content = body[1 : 1 + length], body[1 + length :]
        if name == b"READY" and not self.is_ready:
            if _property(b"Socket-Type", self._other) not in content:
                raise ForeignPeerError(f"it is no {self._other.decode()}")
            self.is_ready = True
        elif name == b"PING" and 2 <= len(content) <= 2 + _LONGEST_CONTEXT:
            self.answers.append(_command(b"PONG", content[2:]))
        elif name != b"PONG" or not self.is_ready:
            raise ForeignPeerError(f"the command {name[:20]!r}")


class Dealer(Peer):
    """A connection to a ROUTER.

    Its greeting is held back after the first bytes until the ROUTER has told its mechanism: libzmq
    closes the connection, before it tells, as soon as it sees one that is not its own.
    """

    opening = _GREETING[:_OPENING_SIZE]
    _kind, _other = b"DEALER", b"ROUTER"


class Router(Peer):
    """A connection from a DEALER."""

    opening = _GREETING
    _kind, _other = b"ROUTER", b"DEALER"
