"""The ids of messages that were published lately, so that a repeated publish is recognised."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from itertools import islice

#: Ids in one part. Sorting one part takes a few milliseconds.
_PART = 32_768


class _Part:
    """Ids of one stretch of time: eight bytes each, instead of the hundred of a set's entry."""

    __slots__ = ("ids", "last")

    def __init__(self, ids: Iterable[int], last: float) -> None:
        self.ids = array("q", sorted(ids))
        self.last = last

    def __contains__(self, wanted: int) -> bool:
        place = bisect_left(self.ids, wanted)
        return place < len(self.ids) and self.ids[place] == wanted


class RecentIds:
    """Remembers (channel, id) pairs for a time, at most a number of them.

    Keeps 64-bit hashes, keyed per process: of a million remembered ids, one in 10**13 new ones is
    taken for a repeated one.
    """

    def __init__(self, window: float, most: int) -> None:
        self._window = window
        self._most = most
        self._parts: deque[_Part] = deque()
        self._newest: set[int] = set()

    def __repr__(self) -> str:
        return f"<RecentIds {len(self)}>"

    def __len__(self) -> int:
        return len(self._newest) + sum(len(part.ids) for part in self._parts)

    def add(self, channel: str, id: str, now: float) -> None:  # noqa: A002 - the message's id
        """Remember the id."""
        self._newest.add(hash((channel, id)))
        if len(self._newest) >= _PART:
            self._parts.append(_Part(self._newest, now))
            self._newest.clear()
            self.forget(now)

    def contains(self, channel: str, id: str) -> bool:  # noqa: A002
        """Tell whether the id is remembered."""
        wanted = hash((channel, id))
        return wanted in self._newest or any(wanted in part for part in self._parts)

    def load(self, ids: Iterable[tuple[str, str]], now: float) -> None:
        """Remember ids of the former life, of which the latest come first."""
        hashes = iter(map(hash, ids))
        while part := list(islice(hashes, _PART)):
            self._parts.appendleft(_Part(part, now))

    def forget(self, now: float) -> None:
        """Forget what is too old, or too much."""
        while self._parts and (
            self._parts[0].last < now - self._window or len(self) > self._most + _PART
        ):
            self._parts.popleft()
