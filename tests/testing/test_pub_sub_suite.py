"""The pub/sub suite can fail: each wrong adapter fails exactly the clauses that it breaks."""

from __future__ import annotations

import asyncio
import fnmatch
import inspect

import pytest

from corekit.memory.pub_sub import Exchange, MemoryPubSub
from corekit.testing import VirtualClock
from corekit.testing.pub_sub import PubSubSuite


def broken(adapter):
    """Return the names of the clauses that *adapter* fails, without their `test_`."""
    failed = set()
    for name, method in inspect.getmembers(PubSubSuite, inspect.isfunction):
        if not name.startswith("test_"):
            continue
        suite, exchange = PubSubSuite(), Exchange()
        suite.clock = VirtualClock()
        suite.name = "suite/channel/abc"
        suite.burst = 3000
        made = []

        def make(exchange=exchange, made=made):
            made.append(adapter(exchange))
            return made[-1]

        async def interrupt(made=made):
            for each in made:
                each.cut()

        suite.make_adapter = make
        if hasattr(adapter, "cut"):
            suite.interrupt = interrupt
        try:
            suite.clock.run(method(suite))
        except pytest.skip.Exception:
            pass
        except (Exception, pytest.fail.Exception):
            failed.add(name.removeprefix("test_"))
    return failed


class Right(MemoryPubSub):
    """Does everything."""

    breaks = ""


class OnlyOthers(MemoryPubSub):
    """Does not give a publisher its own messages."""

    breaks = "every_subscriber_gets_a_copy"

    async def publish(self, channel, payload):
        feed = self._feeds.get(channel)
        if feed is not None:
            self._exchange.remove(feed)
        try:
            await super().publish(channel, payload)
        finally:
            if feed is not None:
                self._exchange.add(feed)


class ToOne(MemoryPubSub):
    """Gives each message to the latest subscriber only, as a queue would."""

    breaks = "every_subscriber_gets_a_copy"

    async def publish(self, channel, payload):
        feeds = self._exchange.subscribers.get(channel, ())
        if feeds:
            feeds[-1].inbox.put(feeds[-1], payload, asyncio.get_running_loop())
        elif self._inbox is None:
            await super().publish(channel, payload)


class Elsewhere(MemoryPubSub):
    """Publishes on the channels that `others` says."""

    def others(self, channel, known):
        raise NotImplementedError

    async def publish(self, channel, payload):
        for other in self.others(channel, list(self._exchange.subscribers)) or [channel]:
            await super().publish(other, payload)


class Prefixes(Elsewhere):
    """A subscription gets what is published below its channel."""

    breaks = "nobody_else_gets_it channels_are_matched_exactly many_channels"

    def others(self, channel, known):
        return [other for other in known if channel.startswith(other) or other.startswith(channel)]


class Wildcards(Elsewhere):
    """A subscription is a pattern."""

    breaks = "channels_are_matched_exactly"

    def others(self, channel, known):
        return [other for other in known if fnmatch.fnmatchcase(channel, other)]


class Cases(Elsewhere):
    """Upper and lower case are the same."""

    breaks = "channels_are_matched_exactly"

    def others(self, channel, known):
        return [other for other in known if other.lower() == channel.lower()]


class CutNames(Elsewhere):
    """Only the first 255 characters of a channel count."""

    breaks = "long_channels"

    def others(self, channel, known):
        return [other for other in known if other[:255] == channel[:255]]


class TrimmedNames(Elsewhere):
    """Blanks around a channel do not count."""

    breaks = "channels_are_matched_exactly"

    def others(self, channel, known):
        return [other for other in known if other.strip() == channel.strip()]


class LateSubscriptions(MemoryPubSub):
    """`subscribe` returns before it is effective."""

    breaks = (
        "every_subscriber_gets_a_copy subscribing_is_effective_when_it_returns "
        "the_past_does_not_arrive subscribing_twice_is_subscribing_once subscribing_again "
        "channels_are_matched_exactly long_channels payloads_arrive_as_they_are many_channels "
        "order_of_one_publisher order_of_overlapping_calls a_burst_is_not_lost_silently "
        "a_publisher_that_never_pauses cancelled_publish cancelled_subscribe closing "
        "closing_sends_what_was_published unsubscribing coming_back"
    )

    async def subscribe(self, channel):
        self._opened()
        asyncio.get_running_loop().call_later(0.01, self._later, channel)

    def _later(self, channel):
        if self._inbox is not None:
            subscribing = super().subscribe(channel)
            with pytest.raises(StopIteration):
                subscribing.send(None)


class Retains(MemoryPubSub):
    """Gives a new subscriber the last message."""

    breaks = "the_past_does_not_arrive"

    async def publish(self, channel, payload):
        await super().publish(channel, payload)
        self._exchange.__dict__.setdefault("last", {})[channel] = payload

    async def subscribe(self, channel):
        known = channel in self._feeds
        await super().subscribe(channel)
        last = self._exchange.__dict__.get("last", {})
        if channel in last and not known:
            loop = asyncio.get_running_loop()
            self._inbox.put(self._feeds[channel], last[channel], loop)


class CountsSubscriptions(MemoryPubSub):
    """Each `subscribe` adds one more."""

    breaks = "subscribing_twice_is_subscribing_once unsubscribing"

    async def subscribe(self, channel):
        self._feeds.pop(channel, None)
        await super().subscribe(channel)


class KeepsSubscriptions(MemoryPubSub):
    """`unsubscribe` does nothing."""

    breaks = "unsubscribing"

    async def unsubscribe(self, channel):
        pass


class RefusesUnknown(MemoryPubSub):
    """`unsubscribe` wants a channel that is subscribed."""

    breaks = "unsubscribing_unknown_channels"

    async def unsubscribe(self, channel):
        self._drop(self._feeds[channel].channel)


class SubscribesOnce(MemoryPubSub):
    """A channel that was left is not received again."""

    breaks = "subscribing_again"

    async def subscribe(self, channel):
        left = self.__dict__.setdefault("left", set())
        if channel not in left or self._inbox is None:
            await super().subscribe(channel)

    async def unsubscribe(self, channel):
        if channel in self._feeds:
            self.__dict__.setdefault("left", set()).add(channel)
        await super().unsubscribe(channel)


class FewChannels(MemoryPubSub):
    """Takes no more than 100 channels, silently."""

    breaks = "many_channels"

    async def subscribe(self, channel):
        if len(self._feeds) < 100:
            await super().subscribe(channel)


class Changed(MemoryPubSub):
    """Publishes what `changed` makes of a payload; None: nothing."""

    def changed(self, payload):
        raise NotImplementedError

    async def publish(self, channel, payload):
        payload = self.changed(payload)
        if payload is not None or self._inbox is None:
            await super().publish(channel, payload)


class DropsEmpty(Changed):
    """An empty payload is no message."""

    breaks = "payloads_arrive_as_they_are"

    def changed(self, payload):
        return payload or None


class CStrings(Changed):
    """A zero byte ends a payload."""

    breaks = "payloads_arrive_as_they_are"

    def changed(self, payload):
        return payload.partition(b"\0")[0]


class DropsLarge(Changed):
    """Large payloads get lost."""

    breaks = "payloads_arrive_as_they_are"

    def changed(self, payload):
        return payload if len(payload) < 100_000 else None


class Views(Changed):
    """Gives memoryviews."""

    breaks = (
        "every_subscriber_gets_a_copy subscribing_is_effective_when_it_returns "
        "the_past_does_not_arrive subscribing_twice_is_subscribing_once unsubscribing "
        "subscribing_again channels_are_matched_exactly long_channels payloads_arrive_as_they_are "
        "many_channels order_of_one_publisher order_of_overlapping_calls "
        "a_burst_is_not_lost_silently a_publisher_that_never_pauses cancelled_publish "
        "cancelled_subscribe closing closing_sends_what_was_published coming_back"
    )

    def changed(self, payload):
        return memoryview(payload)


class Reversed(MemoryPubSub):
    """What is published in one turn of the loop arrives the other way round."""

    breaks = (
        "order_of_one_publisher order_of_overlapping_calls a_burst_is_not_lost_silently "
        "a_publisher_that_never_pauses"
    )

    async def publish(self, channel, payload):
        await super().publish(channel, payload)
        for feed in self._exchange.subscribers.get(channel, ()):
            feed.inbox._waiting.rotate(1)


class Overtaken(MemoryPubSub):
    """A large payload takes longer than a small one."""

    breaks = "order_of_overlapping_calls"

    async def publish(self, channel, payload):
        if 10_000 < len(payload) < 100_000:
            await asyncio.sleep(0)
        await super().publish(channel, payload)


class DropsSilently(MemoryPubSub):
    """Beyond a thousand waiting messages the oldest go, and nothing is said."""

    breaks = "a_burst_is_not_lost_silently"

    async def publish(self, channel, payload):
        await super().publish(channel, payload)
        for feed in self._exchange.subscribers.get(channel, ()):
            while len(feed.inbox._waiting) > 1000:
                feed.inbox._waiting.popleft()


class SamplesSilently(MemoryPubSub):
    """Loses one message of a thousand."""

    breaks = "a_burst_is_not_lost_silently a_publisher_that_never_pauses"

    async def publish(self, channel, payload):
        if payload != b"1000":
            await super().publish(channel, payload)


class DoublesCancelled(MemoryPubSub):
    """A cancelled publish is sent again."""

    breaks = "cancelled_publish"

    async def publish(self, channel, payload):
        await super().publish(channel, payload)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await super().publish(channel, payload)
            raise


class CancelledBreaks(MemoryPubSub):
    """After a cancelled publish nothing is sent any more."""

    breaks = "cancelled_publish"
    dead = False

    async def publish(self, channel, payload):
        if self.dead:
            return
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.dead = True
            raise
        await super().publish(channel, payload)


class CancelledSubscribes(MemoryPubSub):
    """A cancelled subscribe has subscribed all the same."""

    breaks = "cancelled_subscribe"

    async def subscribe(self, channel):
        await super().subscribe(channel)
        await asyncio.sleep(0)


class CancelledHalfSubscribes(MemoryPubSub):
    """After a cancelled subscribe the channel cannot be subscribed any more."""

    breaks = "cancelled_subscribe"

    async def subscribe(self, channel):
        asked = self.__dict__.setdefault("asked", set())
        if channel in asked and self._inbox is not None:
            return
        asked.add(channel)
        await asyncio.sleep(0)
        await super().subscribe(channel)

    async def unsubscribe(self, channel):
        self.__dict__.setdefault("asked", set()).discard(channel)
        await super().unsubscribe(channel)


class SpeaksAfterClose(MemoryPubSub):
    """Still delivers when it is closed."""

    breaks = "closing"

    async def close(self):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await super().close()


class ClosesOthers(MemoryPubSub):
    """Closing one adapter ends the subscriptions of all."""

    breaks = "closing"

    async def close(self):
        await super().close()
        self._exchange.subscribers.clear()


class SendsLater(MemoryPubSub):
    """Keeps what is published for a while, and drops it at close."""

    breaks = "closing_sends_what_was_published"

    async def publish(self, channel, payload):
        self._opened()
        self.__dict__.setdefault("outgoing", []).append((channel, payload))
        asyncio.get_running_loop().call_later(0.001, self._send)

    def _send(self):
        if self._inbox is not None:
            channel, payload = self.outgoing.pop(0)
            for feed in self._exchange.subscribers.get(channel, ()):
                feed.inbox.put(feed, payload, asyncio.get_running_loop())


class ClosesOnce(MemoryPubSub):
    """A second close, or one without open, is an error."""

    breaks = (
        "closing_twice_or_unopened closing closing_sends_what_was_published "
        "calls_need_an_open_adapter"
    )

    async def close(self):
        self._opened()
        await super().close()


class WorksClosed(MemoryPubSub):
    """Publishes and subscribes without being open."""

    breaks = "calls_need_an_open_adapter"

    async def publish(self, channel, payload):
        if self._inbox is not None:
            await super().publish(channel, payload)

    async def subscribe(self, channel):
        if self._inbox is not None:
            await super().subscribe(channel)


class Connected(MemoryPubSub):
    """Has a connection that can be cut; it is back a moment later, and says so."""

    breaks = ""

    def cut(self):
        for feed in self._feeds.values():
            self._exchange.remove(feed)
        asyncio.get_running_loop().call_later(0.5, self.back)

    def back(self):
        for feed in self._feeds.values():
            self._exchange.add(feed)
            feed.gap = True


class ComesBackSilently(Connected):
    """After a lost connection it does not say what was lost."""

    breaks = "coming_back"

    def back(self):
        super().back()
        for feed in self._feeds.values():
            feed.gap = False


class StaysAway(Connected):
    """After a lost connection it does not subscribe again."""

    breaks = "coming_back"

    def back(self):
        pass


class DeclaresAList(MemoryPubSub):
    """Its guarantees are no frozenset."""

    breaks = "guarantees_are_declared"
    guarantees = ("ordered",)


def wrong():
    """Return all adapters of this module that say what they break."""
    return [
        kind for kind in globals().values() if inspect.isclass(kind) and hasattr(kind, "breaks")
    ]


@pytest.mark.parametrize("adapter", wrong(), ids=lambda kind: kind.__name__)
def test_a_wrong_adapter_fails_its_clauses(adapter):
    """An adapter fails the clauses that it breaks, and passes all others."""
    assert broken(adapter) == set(adapter.breaks.split())


def test_every_clause_can_fail():
    """There is a wrong adapter for each clause."""
    clauses = {name.removeprefix("test_") for name in dir(PubSubSuite) if name.startswith("test_")}
    assert clauses == {clause for kind in wrong() for clause in kind.breaks.split()}
