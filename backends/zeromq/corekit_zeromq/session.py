"""A client's side of a session: what is to be sent, what the broker may lack. No I/O."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from corekit.errors import SerializationError

from .protocol import (
    ACKNOWLEDGE_BYTES,
    ACKNOWLEDGE_FRAMES,
    PUBLISH,
    Op,
    decode,
    decode_batch,
    encode,
    packed,
)

Command = list[Any]

#: What may be unconfirmed before publishers have to wait, in bytes.
WINDOW = 8 * 1024 * 1024

#: A frame is closed when it holds so many bytes: large enough to make the cost of a frame small
#: beside that of its messages, small enough to keep both sides working at the same time.
FULL = 128 * 1024

#: What a message counts beside its payload, in bytes: about what it takes in memory. It also
#: bounds the messages in a frame (512), which whoever gets them has to buffer.
OVERHEAD = 256


#: A frame that the broker may lack: its number, its commands, and what they count, in bytes.
_Frame = tuple[int, list[Command], int]


class Remains(NamedTuple):
    """What a session that ended leaves behind."""

    transmitted: int
    """The number of its last frame that was ever given to a connection."""

    confirmed: int
    """The number of its last frame that the broker had."""

    unsent: list[tuple[str, list[bytes]]]
    """The publishes that were not, by channel."""

    uncertain: int
    """How many publishes were sent and not confirmed: those arrived or did not."""


class Session:
    """Collects commands in frames, numbers them, and keeps each until the broker has it.

    The last frame is open: commands are added to it, and `next_frame` closes it. A command that was
    added once is sent once, however often the connection breaks; `reset` begins a new session.
    """

    def __init__(self) -> None:
        self.identity = b""
        self.secret = b""
        self.epoch: int | None = None
        #: The room that is left in the window, in bytes; below 0 while it is overdrawn.
        self.room = WINDOW
        self._begin()
        #: The size at which a frame is closed, in bytes.
        self.full: float = FULL

    def _begin(self) -> None:
        self._kept: deque[_Frame] = deque()
        #: The last own frame that the broker has.
        self.confirmed = 0
        #: The last frame of the broker that arrived.
        self.received = 0
        #: The last own frame that was ever given to a connection, and to the present one.
        self.transmitted = 0
        self._cursor = 0
        self._acknowledged()
        #: The number of the frame that takes the next command.
        self.number = 1
        self._open()

    def _open(self) -> None:
        self._commands: list[Command] = []
        self._size = 0
        self._publishes: dict[str, list[bytes]] = {}
        #: The commands that these payloads stand in.
        self._unencoded: list[Command] = []
        self._acks: dict[int, list[bytes]] = {}

    def __repr__(self) -> str:
        return (
            f"<Session {self.identity.hex()[:8] or 'new'} epoch={self.epoch} "
            f"sent={self.transmitted} confirmed={self.confirmed} received={self.received} "
            f"room={self.room}>"
        )

    @property
    def last(self) -> int:
        """The number of the last frame that holds anything."""
        return self.number if self._commands else self.number - 1

    def add(self, command: Command, size: int = 0) -> int:
        """Let *command*, with a payload of *size* bytes, be sent; return its frame's number."""
        number = self.number
        self._commands.append(command)
        self.extend(size + OVERHEAD)
        return number

    def extend(self, cost: int) -> bool:
        """Count *cost* for what a command of the open frame got; return whether that filled it.

        A frame that is full should go now.
        """
        self.room -= cost
        self._size += cost
        if self._size < self.full:
            return False
        self._close_frame()
        return True

    def publish(self, channel: str, payload: bytes) -> bool:
        """Let *payload* be published; return whether that filled a frame, which should go now.

        Payloads of one channel share a command, across other commands in the frame: only the order
        within the channel matters.
        """
        payloads = self._publishes.get(channel)
        if payloads is None:
            payloads = self._publishes[channel] = []
            command = [PUBLISH, channel, 0, payloads]
            self._commands.append(command)
            self._unencoded.append(command)
        payloads.append(payload)
        # `extend` itself, but for the call: it is taken for each message.
        cost = len(payload) + OVERHEAD
        self.room -= cost
        self._size = size = self._size + cost
        if size < self.full:
            return False
        self._close_frame()
        return True

    def ack(self, consumer: int, token: bytes) -> int:
        """Let the delivery *token* be acknowledged; return its frame's number."""
        tokens = self._acks.get(consumer)
        if tokens is None:
            tokens = self._acks[consumer] = []
            self._commands.append([Op.ACK, consumer, tokens])
        tokens.append(token)
        self._size += OVERHEAD
        self.room -= OVERHEAD
        return self.number

    def withdraw(self, command: Command, number: int, size: int) -> bool:
        """Take *command*, added to frame *number*, back; return whether it was never sent.

        *size* is what was said when it was added, and what it was extended by.
        """
        if number <= self.transmitted:
            return False
        if command:
            command.clear()
            self._take_out(command, number, size + OVERHEAD)
        return True

    def _take_out(self, command: Command, number: int, cost: int) -> None:
        place = number - self.number
        # Maybe it is in none: it was added in another session.
        if not -len(self._kept) <= place <= 0:
            return
        _, commands, size = self._kept[place] if place else (0, self._commands, 0)
        if not any(one is command for one in commands):
            return
        self.room += cost
        if place:
            self._kept[place] = number, commands, size - cost
        else:
            self._size -= cost
        # Others keep their places; what is empty at the end would pile up, unsent.
        while commands and not commands[-1]:
            commands.pop()

    def _close_frame(self) -> None:
        for command in self._unencoded:
            payloads = command[3]
            command[2], command[3] = len(payloads), packed(payloads)
        self._kept.append((self.number, self._commands, self._size))
        self.number += 1
        self._open()

    def next_frame(self) -> bytes | None:
        """Return the next frame that the present connection has not had yet, encoded.

        None if there is none. The open frame is closed for it.
        """
        if self._cursor == self.number - 1:
            if not self._commands:
                return None
            self._close_frame()
        number, commands, _ = self._kept[self._cursor + 1 - self.number]
        # Marked first: a frame that fails on its way may have arrived.
        self._cursor = number
        if number > self.transmitted:
            self.transmitted = number
        if self._unacknowledged_frames:
            self._acknowledged()
        # None that was withdrawn is alone, or the last.
        if len(commands) > 1 and not all(commands):
            commands = [command for command in commands if command]
        # `encode` itself, but for the call: a lone message waits for it.
        return packed((number, self.received, commands))

    def empty(self) -> bytes:
        """Return a frame that only tells what was received, and that we are there."""
        self._acknowledged()
        return encode(0, self.received, [])

    def _acknowledged(self) -> None:
        self._unacknowledged_frames = 0
        self._unacknowledged_bytes = 0
        #: Whether so much arrived that the broker should be told.
        self.acknowledgement_due = False

    def take(self, data: bytes) -> list[Command]:
        """Return the commands of a frame that arrived; none if it arrived before.

        Raises SerializationError for what is no frame, and for a frame out of order.
        """
        number, received, commands = decode(data)
        if number:
            self._unacknowledged_frames += 1
            self._unacknowledged_bytes += len(data)
            self.acknowledgement_due = (
                self._unacknowledged_frames >= ACKNOWLEDGE_FRAMES
                or self._unacknowledged_bytes >= ACKNOWLEDGE_BYTES
            )
            if number <= self.received:
                commands = []
            elif number == self.received + 1:
                self.received = number
            else:
                raise SerializationError(f"frame {number} came after frame {self.received}")
        if received > self.confirmed:
            self.confirm(received)
        return commands

    def confirm(self, number: int) -> None:
        """Forget the frames up to *number*: the broker has them."""
        if number > self.transmitted:
            raise SerializationError(
                f"frame {number} is said to have arrived, sent were {self.transmitted}"
            )
        kept = self._kept
        while kept and kept[0][0] <= number:
            _, _, size = kept.popleft()
            self.room += size
        self.confirmed = number
        # Whatever it was told before: this connection needs them no more.
        self._cursor = max(self._cursor, number)

    def resume(self, received: int) -> None:
        """Go on over a new connection; the broker has our frames up to *received*."""
        if received < self.confirmed:
            raise SerializationError(f"frame {self.confirmed} had arrived, now {received} has")
        self.confirm(received)
        self._cursor = received

    def reset(self) -> Remains:
        """Begin a new session, with nothing to send."""
        unsent: list[tuple[str, list[bytes]]] = []
        uncertain = 0
        self._close_frame()
        for number, commands, _ in self._kept:
            for command in commands:
                if command and command[0] == Op.PUBLISH:
                    _, channel, count, batch = command
                    if number > self.transmitted:
                        unsent.append((channel, decode_batch(count, batch)))
                    else:
                        uncertain += count
        remains = Remains(self.transmitted, self.confirmed, unsent, uncertain)
        self.room = WINDOW
        self._begin()
        return remains
