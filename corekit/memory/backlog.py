"""The messages behind `memory://` event queues. Knows nothing of loops; guarded by its lock."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ..errors import BackendRefused, QueueFull

logger = logging.getLogger("corekit.memory")

#: How long a `dedup_id` is remembered after its message was published, in seconds.
DEDUP_WINDOW = 120.0

#: How many of them; beyond this the oldest are forgotten once their messages have ended.
_MOST_DEDUP_IDS = 100_000

#: How many dead letters a channel keeps; beyond this the oldest are dropped.
MOST_DEAD = 10_000


@dataclass(slots=True, eq=False)
class Message:
    """A message from its publishing to its end."""

    id: str
    payload: bytes
    published_at: float
    dedup_id: str | None
    place: int = 0
    """Its place in the order of its channel."""
    attempt: int = 1
    deaths: int = 0
    error: str = ""
    died_at: float = 0.0


class Taker(Protocol):
    """Has credit on a channel."""

    credit: int

    def take(self, message: Message) -> None:
        """Have *message* until it is settled. Called with the lock held."""
        ...


class Channel:
    """One channel's messages, and who takes them."""

    __slots__ = (
        "alive",
        "consumers",
        "dead",
        "delayed",
        "in_flight",
        "name",
        "ready",
        "returned",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        #: How many messages have not ended.
        self.alive = 0
        self.ready: deque[Message] = deque()
        #: A heap of those that came back, or whose time has come: older than all in `ready`.
        self.returned: list[tuple[int, Message]] = []
        self.delayed = 0
        self.in_flight = 0
        self.dead: dict[str, Message] = {}
        #: How many consumers there are; those with credit are `waiting`, and take turns.
        self.consumers = 0
        self.waiting: deque[Taker] = deque()

    def __repr__(self) -> str:
        return (
            f"<Channel {self.name!r} ready={len(self)} delayed={self.delayed} "
            f"in_flight={self.in_flight} dead={len(self.dead)} consumers={self.consumers}>"
        )

    def __len__(self) -> int:
        return len(self.ready) + len(self.returned)

    @property
    def empty(self) -> bool:
        """Whether nothing is in it and nobody consumes it."""
        return not (self.consumers or self.dead or self.alive)

    def put_back(self, message: Message) -> None:
        """Make *message* deliverable at its old place."""
        heapq.heappush(self.returned, (message.place, message))

    def serve(self) -> None:
        """Give what is deliverable to those who wait for it, in turn."""
        waiting = self.waiting
        while waiting and (self.ready or self.returned):
            if self.returned and (not self.ready or self.returned[0][0] < self.ready[0].place):
                message = heapq.heappop(self.returned)[1]
            else:
                message = self.ready.popleft()
            taker = waiting[0]
            taker.credit -= 1
            if not taker.credit:
                waiting.popleft()
            elif len(waiting) > 1:
                waiting.rotate(-1)
            self.in_flight += 1
            taker.take(message)


class Backlog:
    """All channels of one hub. Callers hold `lock`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.channels: dict[str, Channel] = {}
        self._places = itertools.count(1)
        #: A heap of what is held back: when it is due, its place, its channel.
        self._delayed: list[tuple[float, int, Channel, Message]] = []
        self._dedup = _DedupWindow()

    def __repr__(self) -> str:
        return f"<Backlog channels={len(self.channels)} delayed={len(self._delayed)}>"

    def channel(self, name: str) -> Channel:
        """Return a channel, made if it does not exist."""
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = Channel(name)
        return found

    def drop_if_empty(self, channel: Channel) -> None:
        """Forget *channel* if nothing is in it and nobody consumes it."""
        if channel.empty:
            self.channels.pop(channel.name, None)

    def add(self, name: str, message: Message, *, now: float, delay: float, most: int) -> str:
        """Queue *message* and return its id, or that of the message that it repeats.

        Raises QueueFull if *most* messages are in the channel.
        """
        if message.dedup_id is not None:
            first = self._dedup.find(name, message.dedup_id, now)
            if first is not None:
                return first.id
        channel = self.channel(name)
        self._check_room(channel, most)
        channel.alive += 1
        message.place = next(self._places)
        if message.dedup_id is not None:
            self._dedup.add(name, message, now)
        if delay:
            self.delay(channel, message, now + delay)
        else:
            channel.ready.append(message)
            if channel.waiting:
                channel.serve()
        return message.id

    def delay(self, channel: Channel, message: Message, due: float) -> None:
        """Hold *message* back until *due*."""
        channel.delayed += 1
        heapq.heappush(self._delayed, (due, message.place, channel, message))

    @property
    def next_due(self) -> float | None:
        """When the next delayed message is due."""
        return self._delayed[0][0] if self._delayed else None

    def serve_due(self, now: float) -> None:
        """Make deliverable what was held back until *now*, at its place in the order."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, channel, message = heapq.heappop(self._delayed)
            channel.delayed -= 1
            channel.put_back(message)
            channel.serve()

    def end(self, channel: Channel, message: Message) -> None:
        """Forget *message*, which is in none of the lists any more."""
        channel.alive -= 1
        if message.dedup_id is not None:
            self._dedup.ended(channel.name, message)
        self.drop_if_empty(channel)

    def bury(self, channel: Channel, message: Message) -> None:
        """Keep *message* as a dead letter."""
        channel.alive -= 1
        channel.dead[message.id] = message
        if len(channel.dead) > MOST_DEAD:
            dropped = channel.dead.pop(next(iter(channel.dead)))
            logger.error(
                "channel %r: more than %d dead letters, the oldest is dropped: message %s",
                channel.name,
                MOST_DEAD,
                dropped.id,
            )
        if message.dedup_id is not None:
            self._dedup.ended(channel.name, message)

    def requeue(self, name: str, id: str, *, most: int) -> None:  # noqa: A002
        """Make the dead letter *id* the last message in order.

        Raises BackendRefused if there is none, QueueFull if *most* messages are in the channel.
        """
        channel = self.channels.get(name)
        if channel is None or id not in channel.dead:
            raise BackendRefused(f"channel {name!r} has no dead letter {id!r}")
        self._check_room(channel, most)
        channel.alive += 1
        message = channel.dead.pop(id)
        message.attempt, message.deaths, message.error = 1, 0, ""
        message.place = next(self._places)
        if message.dedup_id is not None:
            self._dedup.revived(name, message)
        channel.ready.append(message)
        channel.serve()

    def purge(self, name: str) -> int:
        """Remove what is ready, delayed or dead; return how many."""
        channel = self.channels.get(name)
        if channel is None:
            return 0
        channel.alive = channel.in_flight
        removed = list(self._removed(channel))
        for message in removed:
            if message.dedup_id is not None:
                self._dedup.ended(name, message)
        self.drop_if_empty(channel)
        return len(removed)

    def _removed(self, channel: Channel) -> Iterator[Message]:
        yield from channel.ready
        yield from (message for _, message in channel.returned)
        yield from channel.dead.values()
        channel.ready.clear()
        channel.returned.clear()
        channel.dead.clear()
        if channel.delayed:
            yield from (entry[3] for entry in self._delayed if entry[2] is channel)
            self._delayed = [entry for entry in self._delayed if entry[2] is not channel]
            heapq.heapify(self._delayed)
            channel.delayed = 0

    @staticmethod
    def _check_room(channel: Channel, most: int) -> None:
        if channel.alive >= most:
            raise QueueFull(f"channel {channel.name!r} holds {most} messages, as many as it may")


class _Known:
    """A `dedup_id` that is not to be queued again, and why."""

    __slots__ = ("alive", "key", "message", "recent", "until")

    def __init__(self, key: tuple[str, str], message: Message, until: float) -> None:
        self.key = key
        self.message = message
        self.until = until
        #: Whether its message is in the channel.
        self.alive = True
        #: Whether it was published within the window.
        self.recent = True


class _DedupWindow:
    """Remembers dedup ids until their message has ended and the window has passed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}
        self._recent: deque[_Known] = deque()

    def find(self, channel: str, dedup_id: str, now: float) -> Message | None:
        while self._recent and (
            self._recent[0].until <= now or len(self._recent) > _MOST_DEDUP_IDS
        ):
            known = self._recent.popleft()
            known.recent = False
            self._forget(known)
        found = self._known.get((channel, dedup_id))
        return None if found is None else found.message

    def add(self, channel: str, message: Message, now: float) -> None:
        key = (channel, message.dedup_id or "")
        known = self._known[key] = _Known(key, message, now + DEDUP_WINDOW)
        self._recent.append(known)

    def ended(self, channel: str, message: Message) -> None:
        known = self._known.get((channel, message.dedup_id or ""))
        if known is not None and known.message is message:
            known.alive = False
            self._forget(known)

    def revived(self, channel: str, message: Message) -> None:
        key = (channel, message.dedup_id or "")
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(key, message, 0.0)
            known.recent = False
        if known.message is message:
            known.alive = True

    def _forget(self, known: _Known) -> None:
        if not known.alive and not known.recent and self._known.get(known.key) is known:
            del self._known[known.key]
