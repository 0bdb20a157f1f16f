"""Debouncing: equal messages become one, in bounded time."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corekit.testing import VirtualClock


class Timed:
    """A handler that keeps what it is given, and when."""

    def __init__(self, clock) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        self.calls: list[tuple[float, object]] = []

    async def __call__(self, message: object) -> None:
        self.calls.append((round(self._clock.monotonic() - self._start, 3), message))

    def gap(self, channel: str) -> None:
        self.calls.append((round(self._clock.monotonic() - self._start, 3), "gap"))


async def test_equal_messages_become_one_trailing_call(cluster, clock):
    """A burst of equal messages is one call, `debounce` seconds after the last of them."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=1)
        for n in range(50):
            wire.bring_bodies({"reload": "roles"}, start=n + 1)
            await asyncio.sleep(0.1)
        await asyncio.sleep(10)
        assert timed.calls == [(5.9, {"reload": "roles"})]


async def test_steady_messages_are_handled_by_max_wait(cluster, clock):
    """While equal messages keep coming, one call is made each `max_wait` from the first."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=1, max_wait=3)
        for n in range(100):
            wire.bring_bodies("m", start=n + 1)
            await asyncio.sleep(0.1)
        await asyncio.sleep(10)
        times = [when for when, _ in timed.calls]
        # The call after 9 s ends with the quiet after the last message, at 9.9 s.
        assert times == pytest.approx([3.0, 6.0, 9.0, 10.9], abs=0.25)


async def test_different_messages_do_not_disturb_each_other(cluster, clock):
    """Each message has its own quiet time; they are handled in the order in which it ended."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=1)
        wire.bring_bodies("a", "b", "c")
        await asyncio.sleep(0.5)
        wire.bring_bodies("a", start=4)
        await asyncio.sleep(10)
        assert timed.calls == [(1.0, "b"), (1.0, "c"), (1.5, "a")]


async def test_equal_is_same_value_and_type(cluster, clock):
    """1, 1.0 and True differ; the order of a dict does not count."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=1)
        different = [1, 1.0, True, "1", b"1", Decimal("1.0"), Decimal("1.00"), [1], (1,), {"1": 1}]
        same = [{"a": 1, "b": 2}, {"b": 2, "a": 1}]
        wire.bring_bodies(*different, *same)
        await asyncio.sleep(10)
        assert [repr(message) for _, message in timed.calls] == [
            repr(message) for message in [*different, same[0]]
        ]


async def test_two_debounced_handlers_are_both_called(cluster, clock):
    """Debouncing is each subscription's own."""
    async with cluster.wired() as (manager, wire):
        one, two, three = Timed(clock), Timed(clock), Timed(clock)
        await manager.subscribe("c", one, debounce=1)
        await manager.subscribe("c", two, debounce=2)
        await manager.subscribe("c", three)
        wire.bring_bodies("m", "m")
        await asyncio.sleep(10)
        assert (one.calls, two.calls) == ([(1.0, "m")], [(2.0, "m")])
        assert three.calls == [(0.0, "m"), (0.0, "m")]


async def test_after_its_call_a_message_is_new(cluster, clock):
    """What comes after the call, or while it runs, is held anew."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)

        async def slow(message):
            await timed(message)
            await asyncio.sleep(5)

        await manager.subscribe("c", slow, debounce=1)
        wire.bring_bodies("m")
        await asyncio.sleep(2)
        wire.bring_bodies("m", start=2)
        await asyncio.sleep(20)
        assert timed.calls == [(1.0, "m"), (6.0, "m")]


async def test_a_failing_debounced_handler_is_logged(cluster, caplog):
    """Debounced calls fail like others."""

    async def failing(message):
        raise ValueError

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", failing, debounce=1)
        wire.bring_bodies("a", "b")
        await asyncio.sleep(5)
        assert len(caplog.records) == 2


async def test_unsubscribing_drops_what_is_held(cluster, clock):
    """A debounced message is not handled after unsubscribe."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=1)
        wire.bring_bodies("m")
        await manager.unsubscribe("c", timed)
        await asyncio.sleep(10)
        assert timed.calls == []


async def test_closing_drops_what_is_held(cluster, clock):
    """A debounced message is not handled after close, nor after the next open."""
    manager, wire, timed = cluster.manager(), cluster.Wire(), Timed(clock)
    await manager.subscribe("c", timed, debounce=1)
    await manager.open(wire)
    wire.bring_bodies("m")
    await manager.close()
    await manager.open(cluster.Wire())
    await asyncio.sleep(10)
    assert timed.calls == []
    await manager.close()


async def test_held_messages_are_bounded(cluster, clock):
    """Held messages count in the buffer: beyond it the oldest go and the gap is told."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=1, buffer=3, on_gap=timed.gap)
        wire.bring_bodies(*range(10))
        await asyncio.sleep(10)
        assert timed.calls == [(0.0, "gap"), (1.0, 7), (1.0, 8), (1.0, 9)]


async def test_a_gap_is_not_held(cluster, clock):
    """A gap is told at once, before debounced messages that came earlier."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=1, on_gap=timed.gap)
        wire.bring(1, 3)
        await asyncio.sleep(10)
        assert timed.calls == [(0.0, "gap"), (1.0, 1), (1.0, 3)]


async def test_other_options_release_what_is_held(cluster, clock):
    """Subscribing again handles at once what was held, and goes by the new times."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=100)
        wire.bring_bodies("a", "b")
        await asyncio.sleep(1)
        await manager.subscribe("c", timed, debounce=2)
        wire.bring_bodies("a", start=3)
        await asyncio.sleep(10)
        assert timed.calls == [(1.0, "a"), (1.0, "b"), (3.0, "a")]


async def test_one_timer_for_all(cluster):
    """However much is held, a subscription has one timer, and none after its end."""

    def timers():
        return sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)

    async with cluster.wired() as (manager, wire):
        log, before = cluster.Log(), timers()
        await manager.subscribe("c", log, debounce=60)
        wire.bring_bodies(*range(500))
        assert timers() == before + 1
        await manager.unsubscribe("c", log)
        assert timers() == before


async def test_messages_that_are_due_together(cluster, clock):
    """What became due while the loop stood still is handled in the order in which it did."""
    async with cluster.wired() as (manager, wire):
        timed = Timed(clock)
        await manager.subscribe("c", timed, debounce=1)
        wire.bring_bodies("a", "b")
        await asyncio.sleep(0.5)
        wire.bring_bodies("a", start=3)
        clock.jump(10)
        await asyncio.sleep(1)
        assert [message for _, message in timed.calls] == ["b", "a"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), max_size=30),
    st.integers(1, 10),
    st.none() | st.integers(0, 15),
)
def test_debounce_against_a_model(cluster_of, arrivals, debounce, extra):
    """Each call comes when the model says: quiet, or max_wait after the first."""
    max_wait = None if extra is None else debounce + extra
    clock = VirtualClock()
    cluster = cluster_of(clock)

    async def main():
        async with cluster.wired() as (manager, wire):
            timed = Timed(clock)
            await manager.subscribe("c", timed, debounce=debounce, max_wait=max_wait)
            for n, (pause, message) in enumerate(arrivals, 1):
                # Never at a whole second, when something may be due: who is first does not matter.
                await asyncio.sleep(pause + 1 / 64)
                wire.bring_bodies(message, start=n)
            await asyncio.sleep(1000)
            return timed.calls

    calls = clock.run(main())
    expected, now, held = [], 0.0, {}
    for pause, message in [*arrivals, (1000, None)]:
        now += pause + 1 / 64
        for key, (due, _) in sorted(held.items(), key=lambda item: item[1][0]):
            if due <= now:
                expected.append((due, key))
                del held[key]
        if message is not None:
            last = held[message][1] if message in held else now + (max_wait or 10**6)
            held[message] = (min(now + debounce, last), last)
    assert [message for _, message in calls] == [message for _, message in expected]
    assert [when for when, _ in calls] == pytest.approx([when for when, _ in expected], abs=0.01)
