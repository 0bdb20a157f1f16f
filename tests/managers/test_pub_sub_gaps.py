"""Gaps: what was missed is told, once, in its place; what comes twice is dropped."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import islice, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corekit.clock import SYSTEM_CLOCK
from corekit.errors import SerializationError
from corekit.lifecycle import Gate
from corekit.managers.channel import Channel
from corekit.managers.context import ManagerContext
from corekit.managers.envelope import NOT_SELF, ONLY_SELF, EnvelopeWriter
from corekit.managers.gaps import SequenceTracker, Verdict
from corekit.managers.subscription import GAP
from corekit.serialization import Serializer
from corekit.testing import eventually

serializer = Serializer()


def observed(tracker, *numbers, publisher=1):
    """Return the verdicts on *numbers*."""
    return [tracker.observe(publisher, number) for number in numbers]


def test_verdicts():
    """The first number is taken as it is, a jump is a gap, an older number a repetition."""
    assert observed(SequenceTracker(), 5, 6, 9, 10, 9, 5, 1, 11) == [
        Verdict.IN_ORDER,
        Verdict.IN_ORDER,
        Verdict.AFTER_GAP,
        Verdict.IN_ORDER,
        Verdict.REPEATED,
        Verdict.REPEATED,
        Verdict.REPEATED,
        Verdict.IN_ORDER,
    ]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 12)) | st.none(), max_size=60),
)
def test_tracker_against_a_model(steps):
    """Whatever comes in whatever order: the verdict is that of the plain definition."""
    tracker, highest, may_jump = SequenceTracker(), {}, set()
    for step in steps:
        if step is None:
            tracker.forgive()
            may_jump = set(highest)
            continue
        publisher, number = step
        verdict = tracker.observe(publisher, number)
        if publisher not in highest:
            assert verdict is Verdict.IN_ORDER
        elif number <= highest[publisher]:
            assert verdict is Verdict.REPEATED
            continue
        elif number == highest[publisher] + 1 or publisher in may_jump:
            assert verdict is Verdict.IN_ORDER
        else:
            assert verdict is Verdict.AFTER_GAP
        highest[publisher] = number
        may_jump.discard(publisher)


@given(
    st.sets(st.integers(2, 40), max_size=38),
    st.integers(1, 4),
)
def test_no_loss_between_two_messages_is_silent(lost, publishers):
    """Of any numbers that are lost between two that arrive, the tracker tells."""
    tracker = SequenceTracker()
    arriving = [n for n in range(1, 42) if n not in lost]
    for publisher in range(publishers):
        told = [n for n in arriving if tracker.observe(publisher, n) is Verdict.AFTER_GAP]
        assert told == [n for n in arriving if n > 1 and n - 1 in lost]


@given(st.lists(st.integers(1, 200), max_size=400), st.integers(2, 20))
def test_memory_is_bounded_and_the_busy_are_remembered(publishers, limit):
    """No more than *limit* publishers are remembered, and the latest half of them always."""
    tracker, order, sent = SequenceTracker(limit), [], {}
    for publisher in publishers:
        remembered = publisher in order[-(limit // 2) :]
        number = sent.get(publisher, 0) + 2
        verdict = tracker.observe(publisher, number)
        assert not remembered or verdict is Verdict.AFTER_GAP
        sent[publisher] = number
        order = [p for p in order if p != publisher] + [publisher]
        assert len(tracker) <= limit


@pytest.mark.parametrize("number", ["1", 0, -1, None, 1.5, True, float("nan")])
def test_what_is_no_number_is_refused(number):
    """A number that no publisher sends is damage."""
    with pytest.raises(SerializationError):
        SequenceTracker().observe(1, number)


def gap_of(channel="c"):
    """Return what `Log.gap` notes."""
    return f"gap {channel}"


async def test_a_missing_number_is_told_before_the_next_message(cluster):
    """on_gap is called with the channel, once, between the messages around the gap."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        wire.bring(4, 5)
        wire.bring(8, 9)
        wire.bring(11)
        await eventually(lambda: 11 in log.messages)
        assert log.messages == [4, 5, gap_of(), 8, 9, gap_of(), 11]


async def test_publishers_are_counted_apart(cluster):
    """Another publisher's numbers say nothing about this one's."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        for n in range(1, 4):
            wire.bring(n, publisher=1)
            wire.bring(n + 100, publisher=2)
        await eventually(lambda: len(log.messages) == 6)
        wire.bring(5, publisher=1)
        await eventually(lambda: log.messages[-2:] == [gap_of(), 5])


async def test_repeated_messages_are_dropped(cluster):
    """A replay after a reconnect delivers nothing twice."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        wire.bring(1, 2, 3)
        wire.bring(2, 3, 4)
        wire.bring(3, 4, 5)
        await eventually(lambda: 5 in log.messages)
        assert log.messages == [1, 2, 3, 4, 5]


async def test_the_backends_gap_is_told_once(cluster):
    """What the backend told is not told again when the numbers show it."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        wire.bring(1, publisher=1)
        wire.bring(1, publisher=2)
        wire.lose()
        await eventually(lambda: gap_of() in log.messages)
        wire.bring(5, publisher=1)
        wire.bring(6, publisher=2)
        wire.bring(6, publisher=1)
        wire.bring(9, publisher=1)
        await eventually(lambda: 9 in log.messages)
        assert log.messages == [1, 1, gap_of(), 5, 6, 6, gap_of(), 9]


async def test_a_gap_without_a_next_message_is_told(cluster):
    """The backend's gap is told at once, not with the next message."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        wire.lose()
        wire.lose()
        await eventually(lambda: log.messages)
        await asyncio.sleep(1)
        assert log.messages == [gap_of()]


async def test_gaps_of_channels_without_subscribers_are_ignored(cluster):
    """A gap or message on a channel that nobody listens to is nothing."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        await manager.unsubscribe("c", log)
        for channel in ("shop/channel/c", "shop/channel/unknown"):
            wire.lose(channel)
            wire.bring(1, 5, channel=channel)
        await asyncio.sleep(1)
        assert log.messages == []


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"garbage" * 20, b"\x80\x04\x95pickle", b"\x95\x02\xa1a\x01\x01\x00",
     b"\x96\x01\xa1a\xa1p\x01\x00\x01", b"\x96\x01\xa1a\x91\x01\x05\x00\x01",
     b"\x96\x01\xa1a\x05\xa11\x00\x01", b"\x96\x01\xa1a\x05\xff\x00\x01",
     b"\x96\x01\xa1a\x05\x01\xa1x\x01", b"\x94\x01\xa1a\x05\x01"],
)  # fmt: skip
async def test_unreadable_messages_are_gaps(cluster, caplog, payload):
    """What cannot be read costs one log line a minute and is told; the subscription lives."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        wire.bring(1)
        for _ in range(30):
            wire.receiver.messages("shop/channel/c", [payload, payload])
        wire.bring(2)
        await eventually(lambda: 2 in log.messages)
        assert log.messages == [1, gap_of(), 2]
        assert len(caplog.records) == 1
        assert "shop/channel/c" in caplog.text
        await asyncio.sleep(61)
        wire.receiver.messages("shop/channel/c", [payload])
        await asyncio.sleep(1)
        assert "59 more before it" in caplog.text


async def test_good_messages_around_an_unreadable_one_arrive(cluster):
    """One bad message in a batch costs the others nothing, and its gap stands in its place."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        batch = [cluster.sealed(1), b"bad", cluster.sealed(2), b"bad", cluster.sealed(4)]
        wire.receiver.messages("shop/channel/c", batch)
        await eventually(lambda: 4 in log.messages)
        assert log.messages == [1, gap_of(), 2, gap_of(), 4]


class Heard:
    """A channel of instance "a", and what its one subscriber is given; None stands for a gap."""

    def __init__(self):
        context = ManagerContext("shop", "a", SYSTEM_CLOCK, serializer, lambda *_: None)
        self.channel = Channel(context, Gate("c"), None, "c", "shop/channel/c")
        self.channel.subscriptions = [self]
        self.messages = []

    def put(self, batch, gaps):
        assert batch.count(GAP) == gaps
        assert not any(one is other is GAP for one, other in pairwise(batch))
        for message in batch:
            if message is not GAP:
                self.messages.append(message)
            elif self.messages[-1:] != [None]:
                self.messages.append(None)


#: One publisher's number after the other, sometimes with a jump, for everybody or not, from any
#: instance; or something else in between.
ARRIVING = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([1, 1, 1, 1, 2, 0, -1]),
            st.sampled_from([0, 0, 0, 0, NOT_SELF, ONLY_SELF]),
            st.sampled_from(["a", "b", "b", "b"]),
            st.sampled_from([7, 7, 7, 8]),
            st.sampled_from([bytes, bytes, bytes, str, tuple]),
        ),
        st.sampled_from(
            [
                b"bad",
                serializer.seal(("b", [], 1, 0), "publisher"),
                serializer.seal(("b", 7, None, 0), "number"),
                serializer.seal(("b", 7, 1, "x"), "audience"),
                serializer.seal(("b", 7, 1), "fewer"),
                serializer.seal([Decimal("sNaN")] * 4, "what cannot be compared"),
            ]
        ),
    ),
    max_size=40,
)


@given(ARRIVING, st.lists(st.integers(1, 9), max_size=20))
@example([(1, NOT_SELF, one, 7, tuple) for one in "bab"], [])
@example([(step, ONLY_SELF * (step < 0), "b", 7, tuple) for step in (1, 1, -1, 2)], [])
@example([(step, 0, "b", 7, bytes) for step in (1, 1, 1, -2, 1, 1, 1, 1)], [3])
def test_messages_arrive_together_as_one_by_one(arriving, portions):
    """However the payloads are divided: the same messages, gaps and repetitions."""
    payloads, numbers = [], {7: 0, 8: 0}
    for one in arriving:
        if isinstance(one, tuple):
            step, audience, instance, publisher, kind = one
            numbers[publisher] += step
            number = numbers[publisher]
            body = kind((publisher, abs(number)))
            head = instance, publisher, number, audience
            if number < 0:
                one = serializer.seal(head, body)
            else:
                one = EnvelopeWriter(serializer, instance, publisher).write(number, audience, body)
        payloads.append(one)
    one_by_one, together = Heard(), Heard()
    for payload in payloads:
        one_by_one.channel.receive([payload])
    rest = iter(payloads)
    for portion in [*portions, len(payloads)]:
        together.channel.receive(list(islice(rest, portion)))
    assert together.messages == one_by_one.messages


async def test_an_async_on_gap_is_awaited_in_turn(cluster):
    """on_gap may be async; the next message waits for it."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()

        async def on_gap(channel):
            log.messages.append("begin")
            await asyncio.sleep(1)
            log.messages.append("end")

        await manager.subscribe("c", log, on_gap=on_gap)
        wire.bring(1, 3)
        await eventually(lambda: 3 in log.messages)
        assert log.messages == [1, "begin", "end", 3]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_failing_on_gap_is_logged(cluster, caplog, is_async):
    """An error in on_gap is logged, and the message after the gap is handled."""

    def plain(channel):
        raise ValueError("no")

    async def later(channel):
        raise ValueError("no")

    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=later if is_async else plain)
        wire.bring(1, 3)
        await eventually(lambda: log.messages == [1, 3])
        (record,) = caplog.records
        assert "shop/channel/c: on_gap" in record.message


async def test_each_subscription_is_told(cluster):
    """Every subscription of the channel that wants to know is told, once."""
    async with cluster.wired() as (manager, wire):
        logs = [cluster.Log() for _ in range(3)]
        for log in logs:
            await manager.subscribe("c", log, on_gap=log.gap)
        deaf = cluster.Log()
        await manager.subscribe("c", deaf)
        wire.bring(1, 3)
        await eventually(lambda: 3 in deaf.messages)
        assert [log.messages for log in logs] == [[1, gap_of(), 3]] * 3
        assert deaf.messages == [1, 3]


async def test_a_failed_publish_is_a_gap_for_others_only(cluster):
    """Who misses a message because its publish failed is told; its publisher misses nothing."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        await manager.publish("c", 1)
        wire.failures["publish"] = ConnectionError("away")
        with pytest.raises(ConnectionError):
            await manager.publish("c", 2)
        wire.failures.clear()
        await manager.publish("c", 3)
        payloads = [payload for _, payload in wire.published]
        wire.receiver.messages("shop/channel/c", payloads)
        await asyncio.sleep(1)
        assert log.messages == []
    other, theirs = cluster.manager("other"), cluster.Wire()
    await other.open(theirs)
    await other.subscribe("c", log, on_gap=log.gap)
    theirs.receiver.messages("shop/channel/c", payloads)
    await eventually(lambda: 3 in log.messages)
    assert log.messages == [1, gap_of(), 3]
    await other.close()


async def test_a_gap_before_a_message_for_others_is_told(cluster):
    """What is missing before a message that is not for this instance may have been for it."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log, on_gap=log.gap)
        batch = [cluster.sealed(1), cluster.sealed(3, audience=2), cluster.sealed(4)]
        wire.receiver.messages("shop/channel/c", batch)
        wire.receiver.messages("shop/channel/c", [cluster.sealed(6, audience=3)])
        await eventually(lambda: len(log.messages) == 4)
        assert log.messages == [1, gap_of(), 4, gap_of()]


async def test_listening_again_begins_anew(cluster):
    """What was published while nobody listened is no gap for who comes later."""
    async with cluster.running("a", "b") as (a, b):
        log = cluster.Log()
        for n in range(3):
            await b.subscribe("c", log, on_gap=log.gap)
            await a.publish("c", n)
            await eventually(lambda n=n: n in log.messages)
            await b.unsubscribe("c", log)
            await a.publish("c", "unheard")
        assert log.messages == [0, 1, 2]
