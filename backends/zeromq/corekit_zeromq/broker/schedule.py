"""The messages of a queue that are held back until they are due."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, nsmallest

from .journal import Journal
from .limits import Limits
from .records import LAST_SEQ

_BEFORE_ALL = (float("-inf"), 0)
_BEHIND_ALL = (float("inf"), 0)


class Schedule:
    """What of one queue is due when.

    - `_first`: (due, seq) of those up to `_horizon`, a heap;
    - on disk: those beyond `_horizon`, which moves back, too, when many come that are due earlier.
      `aside` are those that were withdrawn, with their due time: on either side of it they are no
      more to be had. Whoever is done with one has to remove it from `aside`.
    """

    __slots__ = ("_channel", "_first", "_horizon", "_journal", "_most", "aside", "waiting")

    def __init__(
        self,
        channel: int,
        waiting: int,
        journal: Journal,
        limits: Limits,
        *,
        all_known: bool = False,
    ) -> None:
        """Have *waiting* messages on disk, to be read; *all_known*: none there is to be read."""
        self.waiting = waiting
        self.aside: dict[int, float] = {}
        self._channel = channel
        self._journal = journal
        self._most = limits.window_count
        self._first: list[tuple[float, int]] = []
        self._horizon = _BEHIND_ALL if all_known else _BEFORE_ALL

    def __repr__(self) -> str:
        return f"<Schedule waiting={self.waiting} in memory={len(self._first)}>"

    def add(self, due: float, seq: int) -> None:
        """Hold a message back that the journal was given."""
        self.waiting += 1
        if (due, seq) <= self._horizon:
            heappush(self._first, (due, seq))
            if len(self._first) > 4 * self._most:
                self._first = nsmallest(self._most, self._first)
                self._horizon = self._first[-1]

    def next_due(self) -> float | None:
        """Return when the next message is due; None if there is none."""
        if not self.waiting:
            return None
        while not self._first and self._horizon != _BEHIND_ALL:
            self._read()
        return self._first[0][0] if self._first else None

    def _read(self) -> None:
        # There was nothing in memory, and the rows are in order: that is a heap.
        rows = self._journal.messages.timed(self._channel, self._horizon, self._most)
        for due, seq, _ in rows:
            if seq not in self.aside:
                self._first.append((due, seq))
        self._horizon = (rows[-1][0], rows[-1][1]) if len(rows) == self._most else _BEHIND_ALL

    def take_due(self, now: float, count: int) -> list[int]:
        """Take at most *count* messages out that are due at *now*; return their seqs."""
        taken: list[int] = []
        while len(taken) < count:
            due = self.next_due()
            if due is None or due > now:
                break
            taken.append(heappop(self._first)[1])
            self.waiting -= 1
        return taken

    def withdraw(self, due: float, seq: int) -> bool:
        """Take the message *seq* out before its time; False if it does not wait any more."""
        if seq in self.aside:
            return False
        if (due, seq) <= self._horizon:
            if (due, seq) not in self._first:
                return False
            self._first.remove((due, seq))
            heapify(self._first)
        self.aside[seq] = due
        self.waiting -= 1
        return True

    def count_later(self, now: float) -> int:
        """Count the messages whose time has not come at *now*."""
        until = (now, LAST_SEQ)
        overdue = sum(one <= until for one in self._first)
        if self._horizon[0] <= now:
            overdue += self._journal.messages.count_due(self._channel, self._horizon, now)
            overdue -= sum(self._horizon < (due, seq) <= until for seq, due in self.aside.items())
        return self.waiting - overdue
