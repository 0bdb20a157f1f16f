"""What of one queue is in memory: the messages that come next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol

from .journal import Journal
from .limits import Limits, Memory
from .records import Head, Message, place_of


class Owner(Protocol):
    """The queue that a window belongs to."""

    id: int
    name: str

    def bury_damaged(self, seq: int) -> None:
        """Make a message that is damaged on disk a dead letter."""
        ...

    def miss(self, count: int) -> None:
        """Take note that so many messages are not on disk."""
        ...


class Window:
    """The messages of a queue that can be had now, in the order of their seq.

    - `_ready`: messages without delay, up to the seq `_cursor`, in order; `_size` bytes;
    - `_returned`: seqs of messages that were given back or whose time has come, a heap;
    - on disk: `_backlog` messages without delay behind `_cursor`. `aside` are the seqs of those
      there that were taken out of turn: whoever is done with one has to remove it from `aside`.

    The queue is told of what is found to be damaged, or not to be there; it is in none of these
    any more.
    """

    __slots__ = (
        "_backlog",
        "_channel",
        "_cursor",
        "_journal",
        "_limits",
        "_memory",
        "_queue",
        "_ready",
        "_returned",
        "_size",
        "aside",
    )

    def __init__(
        self,
        queue: Owner,
        journal: Journal,
        limits: Limits,
        memory: Memory,
        *,
        backlog: int,
        after: int = 0,
    ) -> None:
        """Have nothing in memory of *backlog* messages on disk, behind the seq *after*."""
        self.aside: set[int] = set()
        self._queue = queue
        self._channel = queue.id
        self._journal = journal
        self._limits = limits
        self._memory = memory
        self._ready: deque[Message] = deque()
        self._size = 0
        self._returned: list[tuple[int, bool]] = []
        self._cursor = after
        self._backlog = backlog

    def __repr__(self) -> str:
        return (
            f"<Window {self._queue.name!r} ready={len(self._ready)} returned={len(self._returned)} "
            f"backlog={self._backlog}>"
        )

    def __bool__(self) -> bool:
        return bool(self._ready or self._backlog or self._returned)

    def close(self) -> None:
        """Give the memory back; the window is of no use any more."""
        self._memory.left += self._size
        self._size = 0

    # -- messages come in

    def add(self, messages: Sequence[Message], *, wanted: bool) -> None:
        """Take messages without delay that the journal was given, the newest of all.

        Those for which there is room are kept in memory if they are *wanted*: somebody consumes.
        """
        ready, limits, memory = self._ready, self._limits, self._memory
        for message in messages:
            size = len(message.body)
            if (
                wanted
                and not self._backlog
                and len(ready) < limits.window_count
                and self._size + size <= limits.window_bytes
                and memory.left >= size
            ):
                ready.append(message)
                self._size += size
                memory.left -= size
                self._cursor = message.seq
            else:
                self._backlog += 1

    def give_back(self, seq: int, *, timed: bool) -> None:
        """Take a message that was here before, or has become due; *timed*: it has, or had, a delay.

        It comes at its place.
        """
        heappush(self._returned, (seq, timed))

    @property
    def room(self) -> int:
        """How many messages more may be given back that nobody has had yet."""
        return 16 * self._limits.window_count - len(self._returned)

    # -- messages go out

    def take(self, count: int) -> list[Message]:
        """Take at most *count* messages, and about a window's bytes, out, the first in order."""
        taken: list[Message] = []
        room = self._limits.window_bytes
        while len(taken) < count and room > 0:
            # A read may give nothing: of messages that were claimed, or are damaged.
            while not self._ready and self._backlog:
                self._read(count - len(taken))
            if self._returned and (not self._ready or self._returned[0][0] < self._ready[0].seq):
                seq, timed = heappop(self._returned)
                place = place_of(self._channel, seq, timed=timed)
                message = self._journal.messages.one(place)
                if message is None:
                    self._queue.bury_damaged(seq)
                    continue
            elif self._ready:
                message = self._ready.popleft()
                self._size -= len(message.body)
                self._memory.left += len(message.body)
            else:
                break
            taken.append(message)
            room -= len(message.body)
        return taken

    def read_ahead(self) -> None:
        """Read more from the disk once half of the window has gone, if there is memory for it."""
        limits = self._limits
        if (
            self._backlog
            and 2 * len(self._ready) < limits.window_count
            and 2 * self._size < limits.window_bytes
            and self._memory.left >= limits.window_bytes
        ):
            self._read(limits.window_count)

    def _read(self, wanted: int) -> None:
        """Read the next messages from the disk: a window of them, or those *wanted*.

        The latter once the memory for windows is used up.
        """
        count = self._limits.window_count - len(self._ready)
        size = self._limits.window_bytes - self._size
        if self._memory.left < size:
            count = min(count, wanted)
        messages = self._journal.messages
        whole, damaged, last = messages.ready(self._channel, self._cursor, count, size)
        if last == self._cursor:
            missing, self._backlog = self._backlog, 0
            self._queue.miss(missing)
            return
        self._cursor = last
        for message in whole:
            if message.seq in self.aside:
                self.aside.remove(message.seq)
                continue
            self._backlog -= 1
            self._ready.append(message)
            self._size += len(message.body)
            self._memory.left -= len(message.body)
        for seq in damaged:
            if seq in self.aside:
                # Whoever holds it got it whole.
                self.aside.remove(seq)
                continue
            self._backlog -= 1
            self._queue.bury_damaged(seq)

    def withdraw(self, seq: int, head: Head) -> bool:
        """Take the message *seq* out of turn; False if it does not wait here."""
        if seq in self.aside:
            return False
        if head.due is None:
            if seq > self._cursor:
                self.aside.add(seq)
                self._backlog -= 1
                return True
            for message in self._ready:
                if message.seq == seq:
                    self._ready.remove(message)
                    self._size -= len(message.body)
                    self._memory.left += len(message.body)
                    return True
        returned = (seq, head.timed)
        if returned not in self._returned:
            return False
        self._returned.remove(returned)
        heapify(self._returned)
        return True
