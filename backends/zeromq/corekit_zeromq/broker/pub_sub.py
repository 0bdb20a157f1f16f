"""Pub/sub: numbered messages, a bounded history, and subscribers of any speed."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from itertools import islice
from typing import TYPE_CHECKING

import msgpack

from corekit.errors import BackendRefused

from ..protocol import Reply
from .limits import Limits

if TYPE_CHECKING:
    from .sessions import Session

logger = logging.getLogger("corekit.broker.pub_sub")

pack = msgpack.Packer(autoreset=True).pack

#: Payloads that go into one command together, in bytes.
_BATCH = 256 * 1024

#: How long a channel without subscribers keeps its history, in seconds.
_IDLE = 300.0

#: Channels that one step of housekeeping looks at.
_STEP = 1000


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
        "bytes",
        "fresh",
        "fresh_bytes",
        "history",
        "name",
        "next",
        "subscriptions",
        "used_at",
    )

    def __init__(self, name: str, first: int) -> None:
        self.name = name
        self.next = first
        """The number of the next message."""
        self.history: deque[bytes] = deque()
        self.bytes = 0
        self.fresh: list[bytes] = []
        """What was published in this turn and not sent on yet; part of the history."""
        self.fresh_bytes = 0
        self.subscriptions: dict[bytes, Subscription] = {}
        self.used_at = 0.0

    def __repr__(self) -> str:
        return (
            f"<Channel {self.name!r} next={self.next} kept={len(self.history)} "
            f"subscribers={len(self.subscriptions)}>"
        )

    @property
    def first(self) -> int:
        """The number of the oldest message that is kept."""
        return self.next - len(self.history)


class PubSub:
    """All channels. Messages of one turn are sent on together, encoded once for all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # The channel that was published to longest ago comes first: it is forgotten first.
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        self._fresh: dict[Channel, None] = {}
        self._kept = 0
        # No number of a forgotten channel is used again when the channel comes back, and there is
        # always a hole before the first one: who saw an earlier message is told of a gap.
        self._first = 1

    def __repr__(self) -> str:
        return f"<PubSub channels={len(self._channels)} kept={self._kept}>"

    def __len__(self) -> int:
        return len(self._channels)

    def _open(self, name: str) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            if len(self._channels) >= self._limits.channels and not self._forget_oldest():
                raise BackendRefused(
                    f"the broker has {self._limits.channels} channels in use, its limit"
                )
            channel = self._channels[name] = Channel(name, self._first)
        return channel

    def _forget_oldest(self) -> bool:
        for channel in self._channels.values():
            if not channel.subscriptions and not channel.fresh:
                self._forget(channel)
                return True
        return False

    def _forget(self, channel: Channel) -> None:
        self._first = max(self._first, channel.next + 1)
        self._kept -= channel.bytes
        del self._channels[channel.name]

    def keep_house(self, now: float) -> None:
        """Forget some of the channels that nobody used for long; called about once a second."""
        for channel in list(islice(self._channels.values(), _STEP)):
            if channel.used_at > now - _IDLE:
                return
            if channel.subscriptions:
                channel.used_at = now
                self._channels.move_to_end(channel.name)
            else:
                self._forget(channel)

    # -- publishing

    def publish(self, name: str, payloads: list[bytes], size: int) -> None:
        """Take *payloads*, of *size* bytes together; `flush` sends them on."""
        channel = self._channels.get(name) or self._open(name)
        if channel.fresh_bytes + size > _BATCH:
            self._send(channel)
        channel.fresh.extend(payloads)
        channel.fresh_bytes += size
        channel.next += len(payloads)
        channel.history.extend(payloads)
        channel.bytes += size
        self._kept += size
        self._fresh[channel] = None

    def flush(self, now: float) -> None:
        """Send on what was published in this turn."""
        for channel in self._fresh:
            self._send(channel)
            self._trim(channel)
            channel.used_at = now
            self._channels.move_to_end(channel.name)
        self._fresh.clear()
        while self._kept > self._limits.history_total:
            self._drop_oldest_history()

    def _send(self, channel: Channel) -> None:
        if not channel.fresh:
            return
        first = channel.next - len(channel.fresh)
        if channel.subscriptions:
            command = pack((Reply.MESSAGES, channel.name, first, channel.fresh))
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
        channel.fresh_bytes = 0

    def _trim(self, channel: Channel) -> None:
        surplus = len(channel.history) - self._limits.history_count
        while surplus > 0 or channel.bytes > self._limits.history_bytes:
            size = len(channel.history.popleft())
            channel.bytes -= size
            self._kept -= size
            surplus -= 1

    def _drop_oldest_history(self) -> None:
        for channel in self._channels.values():
            if channel.bytes:
                self._kept -= channel.bytes
                channel.bytes = 0
                channel.history.clear()
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
        start = subscription.next - channel.first
        batch: list[bytes] = []
        size = 0
        for place in range(start, len(channel.history)):
            payload = channel.history[place]
            if batch and size + len(payload) > _BATCH:
                break
            batch.append(payload)
            size += len(payload)
        command = pack((Reply.MESSAGES, channel.name, subscription.next, batch))
        subscription.session.send(command)
        subscription.next += len(batch)
