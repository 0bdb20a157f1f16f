"""Pub/sub: numbered messages, a bounded history, and subscribers of any speed.

Messages come, are kept and are sent on in batches, as their publishers made them, whatever is in
them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING

import msgpack

from corekit.errors import BackendRefused

from ..protocol import MESSAGES, Reply
from .limits import Limits

if TYPE_CHECKING:
    from .sessions import Session

logger = logging.getLogger("corekit.broker.pub_sub")

pack = msgpack.Packer(autoreset=True).pack

#: Batches that go into one command together, in bytes.
_BATCH = 256 * 1024

#: How long a channel without subscribers keeps its history, in seconds.
_IDLE = 300.0

#: Channels that one step of housekeeping looks at.
_STEP = 1000

#: Messages as their publisher sent them: how many, and the bytes that hold them.
Batch = tuple[int, bytes]


class Subscription:
    """A session's interest in a channel."""

    __slots__ = ("channel", "next", "session")

    def __init__(self, session: Session, channel: Channel) -> None:
        self.session = session
        self.channel = channel
        #: The next message that it lacks, while it lags behind.
        self.next = 0

    def __repr__(self) -> str:
        return f"<Subscription {self.channel.name!r} next={self.next}>"


class Channel:
    """A channel: its subscribers, and its latest messages."""

    __slots__ = (
        "_most",
        "bytes",
        "fresh",
        "fresh_bytes",
        "fresh_count",
        "history",
        "name",
        "next",
        "oldest",
        "subscriptions",
        "used_at",
    )

    def __init__(self, name: str, first: int, most: int) -> None:
        self.name = name
        self.next = first
        """The number of the next message."""
        self.history: deque[Batch] = deque()
        self.oldest = first
        """The number of the first message in the history."""
        self._most = most
        self.bytes = 0
        self.fresh: list[Batch] = []
        """What was published in this turn and not sent on yet; part of the history."""
        self.fresh_count = 0
        self.fresh_bytes = 0
        self.subscriptions: dict[bytes, Subscription] = {}
        self.used_at = 0.0

    def __repr__(self) -> str:
        return (
            f"<Channel {self.name!r} next={self.next} kept={self.next - self.first} "
            f"subscribers={len(self.subscriptions)}>"
        )

    @property
    def first(self) -> int:
        """The number of the oldest message that can be had again: at most *most* can."""
        return max(self.oldest, self.next - self._most)

    def add(self, count: int, payloads: bytes) -> None:
        """Take a batch of the next *count* messages."""
        batch = (count, payloads)
        size = len(payloads)
        self.next += count
        self.fresh.append(batch)
        self.fresh_count += count
        self.fresh_bytes += size
        self.history.append(batch)
        self.bytes += size

    def drop(self) -> int:
        """Forget the oldest batch and return its size."""
        count, payloads = self.history.popleft()
        self.oldest += count
        self.bytes -= len(payloads)
        return len(payloads)

    def find(self, number: int) -> tuple[int, int]:
        """Return where in the history the batch with message *number* is, and its first number."""
        place, first = 0, self.oldest
        while (following := first + self.history[place][0]) <= number:
            first = following
            place += 1
        return place, first


class PubSub:
    """All channels. Messages of one turn are sent on together, encoded once for all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.channels: OrderedDict[str, Channel] = OrderedDict()
        """By name. The one that was published to longest ago comes first: it is forgotten first."""
        self._fresh: dict[Channel, None] = {}
        self._kept = 0
        # No number of a forgotten channel is used again when the channel comes back, and there is
        # always a hole before the first one: who saw an earlier message is told of a gap.
        self._first = 1

    def __repr__(self) -> str:
        return f"<PubSub channels={len(self.channels)} kept={self._kept}>"

    def __len__(self) -> int:
        return len(self.channels)

    def _open(self, name: str) -> Channel:
        channel = self.channels.get(name)
        if channel is None:
            if len(self.channels) >= self._limits.channels and not self._forget_oldest():
                raise BackendRefused(
                    f"the broker has {self._limits.channels} channels in use, its limit"
                )
            channel = Channel(name, self._first, self._limits.history_count)
            self.channels[name] = channel
        return channel

    def _forget_oldest(self) -> bool:
        for channel in self.channels.values():
            if not channel.subscriptions and channel not in self._fresh:
                self._forget(channel)
                return True
        return False

    def _forget(self, channel: Channel) -> None:
        self._first = max(self._first, channel.next + 1)
        self._kept -= channel.bytes
        del self.channels[channel.name]

    def keep_house(self, now: float) -> None:
        """Forget some of the channels that nobody used for long; called about once a second."""
        for channel in list(islice(self.channels.values(), _STEP)):
            if channel.used_at > now - _IDLE:
                return
            if channel.subscriptions or channel in self._fresh:
                channel.used_at = now
                self.channels.move_to_end(channel.name)
            else:
                self._forget(channel)

    # -- publishing

    def publish(self, name: str, count: int, payloads: bytes) -> None:
        """Take a batch of *count* messages; `flush` sends it on."""
        channel = self.channels.get(name) or self._open(name)
        if channel.fresh_bytes + len(payloads) > _BATCH:
            self._send(channel)
        channel.add(count, payloads)
        self._kept += len(payloads)
        self._fresh[channel] = None

    def flush(self) -> None:
        """Send on what was published in this turn; `trim` has to follow before it ends."""
        for channel in self._fresh:
            self._send(channel)

    def trim(self, now: float) -> None:
        """Bring the histories of what was published to in this turn back to their bounds."""
        for channel in self._fresh:
            self._trim(channel)
            channel.used_at = now
            self.channels.move_to_end(channel.name)
        self._fresh.clear()
        while self._kept > self._limits.history_total:
            self._drop_oldest_history()

    def _send(self, channel: Channel) -> None:
        if not channel.fresh:
            return
        first = channel.next - channel.fresh_count
        if channel.subscriptions:
            command = pack((MESSAGES, channel.name, first, channel.fresh))
            bound = self._limits.outstanding
            for subscription in channel.subscriptions.values():
                session = subscription.session
                if channel.name in session.lagging:
                    continue
                if session.outstanding > bound:
                    # It reads too slowly: from here on the history is its buffer.
                    subscription.next = first
                    session.lagging[channel.name] = subscription
                else:
                    session.send(command)
        channel.fresh = []
        channel.fresh_count = channel.fresh_bytes = 0

    def _trim(self, channel: Channel) -> None:
        history, most = channel.history, self._limits.history_bytes
        while history and (channel.bytes > most or channel.oldest + history[0][0] <= channel.first):
            self._kept -= channel.drop()

    def _drop_oldest_history(self) -> None:
        for channel in self.channels.values():
            if channel.history:
                while channel.history:
                    self._kept -= channel.drop()
                return
        self._kept = 0

    # -- subscribing

    def subscribe(self, session: Session, name: str, expected: int | None) -> Subscription:
        """Subscribe *session*; what it lacks from *expected* on is sent by `catch_up`.

        *expected* None: what was published before is of no interest.
        Raises BackendRefused beyond the limits.
        """
        subscription = session.subscriptions.get(name)
        if subscription is None:
            if len(session.subscriptions) >= self._limits.subscriptions:
                raise BackendRefused(
                    f"a session subscribes at most {self._limits.subscriptions} channels"
                )
            channel = self._open(name)
            self._send(channel)
            subscription = Subscription(session, channel)
            channel.subscriptions[session.id] = subscription
            session.subscriptions[name] = subscription
        else:
            channel = subscription.channel
            self._send(channel)
        if expected is None:
            session.lagging.pop(name, None)
        else:
            subscription.next = expected
            session.lagging[name] = subscription
        return subscription

    def unsubscribe(self, session: Session, name: str) -> None:
        """Forget the subscription, if there is one."""
        subscription = session.subscriptions.pop(name, None)
        session.lagging.pop(name, None)
        if subscription is not None:
            channel = subscription.channel
            self._send(channel)
            del channel.subscriptions[session.id]

    def catch_up(self, session: Session) -> None:
        """Send *session* what its subscriptions lack, or that they missed it."""
        for name, subscription in list(session.lagging.items()):
            channel = subscription.channel
            self._send(channel)
            if not channel.first <= subscription.next <= channel.next:
                logger.info("session %s missed messages on %r", session.name, name)
                session.send(pack((Reply.GAP, name, channel.next)))
                subscription.next = channel.next
            while subscription.next < channel.next:
                if session.outstanding > self._limits.outstanding:
                    return
                self._replay(channel, subscription)
            del session.lagging[name]

    def _replay(self, channel: Channel, subscription: Subscription) -> None:
        # Batches go whole. Who has some messages of the first one already sees it by the number.
        place, first = channel.find(subscription.next)
        subscription.next = first
        batches: list[Batch] = []
        size = 0
        for count, payloads in islice(channel.history, place, None):
            if batches and size + len(payloads) > _BATCH:
                break
            batches.append((count, payloads))
            size += len(payloads)
            subscription.next += count
        command = pack((MESSAGES, channel.name, first, batches))
        subscription.session.send(command)
