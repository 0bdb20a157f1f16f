"""A backend that hangs or fails at one point, and calls that are cancelled there."""

from __future__ import annotations

import asyncio

import pytest

from corekit.errors import BackendRefused, BackendUnavailable, NotOpenError
from corekit.testing import eventually


def away():
    """Return the error of a backend that cannot be reached."""
    return BackendUnavailable("away")


async def cancelled_at(wire, point, call):
    """Begin *call*, cancel it when the adapter hangs at *point*."""
    wire.hangs.add(point)
    before = wire.reached[point]
    task = asyncio.create_task(call)
    await eventually(lambda: wire.reached[point] > before)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wire.let_go()


@pytest.mark.parametrize("point", ["open", "subscribe"])
async def test_open_that_fails_closes_and_can_be_repeated(cluster, point):
    """A failed open closes the adapter and raises its error; the next open works."""
    manager, wire, log = cluster.manager(), cluster.Wire(), cluster.Log()
    await manager.subscribe("c", log)
    wire.failures[point] = away()
    with pytest.raises(BackendUnavailable):
        await manager.open(wire)
    assert wire.closed
    with pytest.raises(NotOpenError):
        await manager.publish("c", 1)
    good = cluster.Wire()
    await manager.open(good)
    good.bring(1)
    await eventually(lambda: log.messages)
    await manager.close()


@pytest.mark.parametrize("point", ["open", "subscribe"])
async def test_open_that_is_cancelled_closes_and_can_be_repeated(cluster, point):
    """A cancelled open leaves nothing open."""
    manager, wire, log = cluster.manager(), cluster.Wire(), cluster.Log()
    await manager.subscribe("c", log)
    await cancelled_at(wire, point, manager.open(wire))
    assert wire.closed
    good = cluster.Wire()
    await manager.open(good)
    good.bring(1)
    await eventually(lambda: log.messages)
    await manager.close()


async def test_subscribing_while_it_opens(cluster):
    """A subscription made while open waits is taken up, once."""
    manager, wire, logs = cluster.manager(), cluster.Wire(), [cluster.Log() for _ in range(3)]
    await manager.subscribe("c", logs[0])
    wire.hangs = {"open"}
    opening = asyncio.create_task(manager.open(wire))
    await eventually(lambda: wire.reached["open"])
    await manager.subscribe("c", logs[1])
    wire.let_go()
    wire.hangs = {"subscribe"}
    await eventually(lambda: wire.reached["subscribe"])
    subscribing = asyncio.create_task(manager.subscribe("c", logs[2]))
    await asyncio.sleep(1)
    assert not subscribing.done()
    wire.let_go()
    await opening
    await subscribing
    assert wire.calls.count("subscribe") == 1
    wire.bring(1)
    await eventually(lambda: all(log.messages == [1] for log in logs))
    await manager.close()


async def test_failed_subscribe_changes_nothing(cluster):
    """Its error is raised, the handler is not subscribed, and it can be tried again."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        wire.failures["subscribe"] = away()
        with pytest.raises(BackendUnavailable):
            await manager.subscribe("c", log)
        wire.failures.clear()
        wire.bring(1)
        await asyncio.sleep(1)
        assert log.messages == []
        await manager.subscribe("c", log)
        wire.bring(2)
        await eventually(lambda: log.messages == [2])


async def test_cancelled_subscribe_changes_nothing(cluster):
    """A cancelled subscribe leaves no subscription, also in the next start."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await cancelled_at(wire, "subscribe", manager.subscribe("c", log))
        wire.bring(1)
        await asyncio.sleep(1)
        assert log.messages == []
        assert manager._known["c"].is_idle


async def test_overlapping_subscribes_of_which_one_fails(cluster):
    """Each subscribe of a handler has its own outcome: the second takes effect."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        wire.hangs = {"subscribe"}
        first = asyncio.create_task(manager.subscribe("c", log))
        await eventually(lambda: wire.reached["subscribe"])
        second = asyncio.create_task(manager.subscribe("c", log))
        await asyncio.sleep(1)
        first.cancel()
        await eventually(lambda: wire.reached["subscribe"] == 2)
        wire.let_go()
        await second
        assert first.cancelled()
        wire.bring(1)
        await eventually(lambda: log.messages == [1])


async def test_the_later_of_overlapping_calls_wins(cluster):
    """Subscribe and unsubscribe of one channel take effect in the order of the calls."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        for wanted in (False, True):
            wire.hangs = {"subscribe", "unsubscribe"}
            calls = [
                asyncio.create_task(call("c", log))
                for call in (manager.subscribe, manager.unsubscribe) * 2
                + (manager.subscribe,) * wanted
            ]
            await asyncio.sleep(1)
            wire.let_go()
            await asyncio.gather(*calls)
            assert bool(wire.subscribed) is wanted
            assert len(manager._known["c"].subscriptions) == wanted


@pytest.mark.parametrize("error", [away(), BackendRefused("no")])
async def test_unsubscribe_from_an_absent_backend(cluster, caplog, error):
    """Unsubscribing works though the backend is away; subscribing again works after it."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log)
        wire.failures["unsubscribe"] = error
        await manager.unsubscribe("c", log)
        assert "shop/channel/c" in caplog.text
        wire.bring(1)
        await manager.subscribe("c", log)
        assert wire.calls.count("subscribe") == 2
        wire.bring(2)
        await eventually(lambda: log.messages)
        assert log.messages == [2]


async def test_cancelled_unsubscribe_has_unsubscribed(cluster):
    """A cancelled unsubscribe has ended the subscription."""
    async with cluster.wired() as (manager, wire):
        log = cluster.Log()
        await manager.subscribe("c", log)
        await cancelled_at(wire, "unsubscribe", manager.unsubscribe("c", log))
        wire.bring(1)
        await asyncio.sleep(1)
        assert log.messages == []
        await manager.subscribe("c", log)
        wire.bring(2)
        await eventually(lambda: log.messages == [2])


async def test_failed_publish_raises_and_stops_nobody(cluster):
    """The backend's error comes out of its own publish; the next one works."""
    async with cluster.wired() as (manager, wire):
        wire.failures["publish"] = away()
        with pytest.raises(BackendUnavailable):
            await manager.publish("c", 1)
        wire.failures.clear()
        await manager.publish("c", 2)
        assert len(wire.published) == 1


async def test_numbers_are_never_used_twice(cluster):
    """Failed, cancelled and overlapping publishes: all numbers differ, in the order of calls."""
    async with cluster.wired() as (manager, wire):
        await cancelled_at(wire, "publish", manager.publish("c", 1))
        wire.failures["publish"] = away()
        with pytest.raises(BackendUnavailable):
            await manager.publish("c", 2)
        wire.failures.clear()
        wire.hangs = {"publish"}
        publishing = [asyncio.create_task(manager.publish("c", n)) for n in (3, 4, 5)]
        await eventually(lambda: wire.reached["publish"] == 4)
        publishing[1].cancel()
        wire.let_go()
        await asyncio.gather(*publishing, return_exceptions=True)
        serializer = manager.channels.context.serializer
        numbers = [serializer.unseal(payload, 4)[2] for _, payload in wire.published]
        assert numbers == [3, 5]


@pytest.mark.parametrize("point", ["subscribe", "unsubscribe", "publish"])
async def test_close_while_a_call_hangs(cluster, point):
    """Close does not wait for calls that hang in the adapter."""
    manager, wire, log = cluster.manager(), cluster.Wire(), cluster.Log()
    await manager.open(wire)
    if point == "unsubscribe":
        await manager.subscribe("c", log)
    wire.hangs = {point}
    wire.failures[point] = NotOpenError("closed")
    call = manager.publish("c", 1) if point == "publish" else getattr(manager, point)("c", log)
    calling = asyncio.create_task(call)
    await eventually(lambda: wire.reached[point])
    await manager.close()
    wire.let_go()
    with pytest.raises(NotOpenError):
        await calling


async def test_cancelled_close_has_closed(cluster):
    """Cancelled while it waits for a handler, close cancels the handler and closes the adapter."""
    manager, wire = cluster.manager(), cluster.Wire()
    ended = []

    async def working(message):
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(message)

    await manager.open(wire)
    await manager.subscribe("c", working)
    wire.bring(1)
    await asyncio.sleep(1)
    closing = asyncio.create_task(manager.close())
    await asyncio.sleep(1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert wire.closed
    assert ended == [1]
    with pytest.raises(NotOpenError):
        await manager.publish("c", 1)


async def test_closing_twice_and_unopened(cluster):
    """Close of what is not open does nothing."""
    manager, wire = cluster.manager(), cluster.Wire()
    await manager.close()
    await manager.open(wire)
    await manager.close()
    await manager.close()
    assert wire.calls == ["open", "close"]


async def test_a_handler_that_runs_while_open_fails(cluster):
    """What an open has begun when it fails is ended with it."""
    manager, wire = cluster.manager(), cluster.Wire()
    ended = []

    async def working(message):
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(message)

    await manager.subscribe("c", working)
    await manager.subscribe("d", working)
    wire.hangs, wire.failures = {"subscribe"}, {}
    opening = asyncio.create_task(manager.open(wire))
    await eventually(lambda: wire.reached["subscribe"] == 1)
    wire.bring(1)
    await asyncio.sleep(1)
    wire.failures["subscribe"] = away()
    wire.let_go()
    with pytest.raises(BackendUnavailable):
        await opening
    assert ended == [1]
