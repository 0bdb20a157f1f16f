"""One subscription: its turn, its failures, its buffer, its end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import weakref
from contextlib import suppress

import pytest

from corekit.managers.handler_context import inside_handler
from corekit.testing import eventually


class Slow:
    """A handler that waits in each call until it is let go on."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.ended: list[object] = []
        self.gaps = 0
        self.going = asyncio.Semaphore(0)

    async def __call__(self, message: object) -> None:
        self.begun.append(message)
        try:
            await self.going.acquire()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append(message)

    def gap(self, channel: str) -> None:
        self.begun.append("gap")

    def go_on(self, times: int = 1) -> None:
        for _ in range(times):
            self.going.release()


async def test_one_at_a_time(cluster):
    """The next message is handled when the handler has ended with the one before."""
    async with cluster.wired() as (manager, wire):
        slow = Slow()
        await manager.subscribe("c", slow)
        wire.bring(1, 2, 3)
        for n in (1, 2, 3):
            await eventually(lambda n=n: slow.begun == list(range(1, n + 1)))
            await asyncio.sleep(1)
            assert slow.begun == list(range(1, n + 1))
            slow.go_on()


async def test_a_slow_handler_slows_nobody(cluster):
    """Other handlers, of this channel and of others, and publishers go on."""
    async with cluster.running("a", "b") as (a, b):
        slow, log, other = Slow(), cluster.Log(), cluster.Log()
        await b.subscribe("c", slow)
        await b.subscribe("c", log)
        await b.subscribe("d", other)
        for n in range(10):
            await a.publish("c", n)
            await a.publish("d", n)
        await eventually(lambda: len(log.messages) == len(other.messages) == 10)
        assert slow.begun == [0]


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), asyncio.CancelledError(), StopIteration(), TimeoutError(),
     BaseExceptionGroup("several", [ValueError()])],
)  # fmt: skip
async def test_a_failing_handler_lives(cluster, caplog, error):
    """Whatever a handler raises is logged with channel and handler, and the next is handled."""
    seen = []

    async def failing(message):
        seen.append(message)
        if message == 1:
            raise error

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", failing)
        wire.bring(1, 2)
        await eventually(lambda: len(seen) == 2)
        (record,) = caplog.records
        assert record.name == "corekit.pub_sub"
        assert record.levelno == logging.ERROR
        assert "shop/channel/c" in record.message
        assert "failing" in record.message


async def test_a_handler_that_cancels_itself(cluster):
    """A handler that cancels its own task loses that message only."""
    seen = []

    async def cancelling(message):
        seen.append(message)
        if message == 1:
            asyncio.current_task().cancel()
            await asyncio.sleep(1)

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", cancelling)
        wire.bring(1)
        await asyncio.sleep(2)
        wire.bring(2)
        await eventually(lambda: seen == [1, 2])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_not_caught(cluster, error, caplog):
    """KeyboardInterrupt and SystemExit of a handler leave the loop."""

    async def ending(message):
        raise error

    async def main():
        manager, wire = cluster.manager(), cluster.Wire()
        await manager.open(wire)
        await manager.subscribe("c", ending)
        wire.bring(1)
        await asyncio.sleep(1)

    with pytest.raises(error):
        cluster.clock.run(main())


async def test_a_logged_failure_shows_no_message(cluster, caplog):
    """Log lines name channel and handler; what was sent stays out of them."""

    async def failing(message):
        raise ValueError("why")

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", failing, buffer=1, on_gap=lambda channel: 1 / 0)
        wire.bring_bodies("secret-1", "secret-2", "secret-3")
        wire.receiver.messages("shop/channel/c", [b"secret-4"])
        await asyncio.sleep(1)
        assert len(caplog.records) == 5  # overflow, unreadable, handler, on_gap twice
        assert "secret" not in caplog.text


async def test_overflow_drops_the_oldest_and_is_told_once(cluster, caplog):
    """A full buffer keeps the newest messages; one gap stands for those that went."""
    async with cluster.wired() as (manager, wire):
        slow = Slow()
        await manager.subscribe("c", slow, buffer=3, on_gap=slow.gap)
        wire.bring(1)
        await eventually(lambda: slow.begun)
        for n in range(2, 12):
            wire.bring(n)
        slow.go_on(10)
        await eventually(lambda: len(slow.begun) == 5)
        assert slow.begun == [1, "gap", 9, 10, 11]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "buffer of 3 overflowed" in record.message


async def test_each_overflow_is_told(cluster):
    """What is dropped after a gap was told is told again, before the next message."""
    async with cluster.wired() as (manager, wire):
        slow = Slow()
        await manager.subscribe("c", slow, buffer=1, on_gap=slow.gap)
        wire.bring(1)
        await eventually(lambda: slow.begun == [1])
        wire.bring(2, 3)
        slow.go_on()
        await eventually(lambda: slow.begun == [1, "gap", 3])
        wire.bring(4, 5, 6)
        slow.go_on(2)
        await eventually(lambda: slow.begun == [1, "gap", 3, "gap", 6])


async def test_a_gap_alone_does_not_overflow(cluster, caplog):
    """A gap at the head of a full buffer costs no message."""
    async with cluster.wired() as (manager, wire):
        slow = Slow()
        await manager.subscribe("c", slow, buffer=2, on_gap=slow.gap)
        wire.bring(1)
        await eventually(lambda: slow.begun)
        wire.lose()
        wire.bring(2)
        wire.bring(3)
        slow.go_on(3)
        await eventually(lambda: slow.begun == [1, "gap", 2, 3])
        assert not caplog.records


async def test_overflow_disturbs_no_other_subscription(cluster):
    """Another handler of the channel gets everything and hears of no gap."""
    async with cluster.wired() as (manager, wire):
        slow, log = Slow(), cluster.Log()
        await manager.subscribe("c", slow, buffer=1)
        await manager.subscribe("c", log, on_gap=log.gap)
        for n in range(1, 50):
            wire.bring(n)
            await asyncio.sleep(0.01)
        assert log.messages == list(range(1, 50))


async def test_subscribing_again_replaces_the_options(cluster):
    """The same handler again: other options, what is buffered stays, nothing comes twice."""
    async with cluster.wired() as (manager, wire):
        slow = Slow()
        await manager.subscribe("c", slow)
        wire.bring(1, 2, 3, 4)
        await eventually(lambda: slow.begun)
        await manager.subscribe("c", slow, buffer=2, on_gap=slow.gap)
        slow.go_on(9)
        await eventually(lambda: slow.begun == [1, "gap", 3, 4])
        assert wire.calls.count("subscribe") == 1


async def test_unsubscribing_drops_the_buffer_and_ends_no_call(cluster):
    """After unsubscribe the running call ends undisturbed, and no other begins."""
    async with cluster.wired() as (manager, wire):
        slow = Slow()
        await manager.subscribe("c", slow)
        wire.bring(1, 2, 3)
        await eventually(lambda: slow.begun)
        await manager.unsubscribe("c", slow)
        slow.go_on(5)
        await asyncio.sleep(1)
        assert slow.begun == slow.ended == [1]


async def test_a_handler_may_unsubscribe_itself(cluster):
    """The call that unsubscribes its own handler goes on to its end."""
    seen = []

    async with cluster.wired() as (manager, wire):

        async def once(message):
            await manager.unsubscribe("c", once)
            await asyncio.sleep(1)
            seen.append(message)

        await manager.subscribe("c", once)
        wire.bring(1, 2)
        await asyncio.sleep(5)
        assert seen == [1]


async def test_a_handler_may_publish_to_its_own_channel(cluster):
    """A handler that publishes where it listens does not wait for itself."""
    async with cluster.running("a") as (a,):
        seen = []

        async def counting(message):
            seen.append(message)
            if message < 5:
                await a.publish("c", message + 1, skip_self=False)

        await a.subscribe("c", counting, buffer=1)
        await a.publish("c", 1, skip_self=False)
        await eventually(lambda: seen == [1, 2, 3, 4, 5])


async def test_close_lets_a_running_handler_end(cluster):
    """Close waits for the running call, which may still publish, and begins no other."""
    manager, wire = cluster.manager(), cluster.Wire()
    seen = []

    async def working(message):
        await asyncio.sleep(3)
        await manager.publish("d", message)
        seen.append(message)

    await manager.open(wire)
    await manager.subscribe("c", working)
    wire.bring(1, 2)
    await asyncio.sleep(1)
    await manager.close()
    assert seen == [1]
    assert [channel for channel, _ in wire.published] == ["shop/channel/d"]


async def test_close_cancels_a_handler_that_goes_on(cluster):
    """A handler that runs past the grace time is cancelled."""
    manager, wire, slow = cluster.manager(), cluster.Wire(), Slow()
    await manager.open(wire)
    await manager.subscribe("c", slow)
    wire.bring(1)
    await eventually(lambda: slow.begun)
    start = cluster.clock.monotonic()
    await manager.close()
    assert slow.ended == ["cancelled"]
    assert cluster.clock.monotonic() - start == pytest.approx(5, abs=0.1)


async def test_close_ends_although_a_handler_swallows_its_cancellation(cluster, caplog):
    """A handler that cannot be cancelled is logged, and does not hold up the close."""
    manager, wire = cluster.manager(), cluster.Wire()
    free = asyncio.Event()
    seen = []

    async def stubborn(message):
        seen.append(message)
        while not free.is_set():
            with suppress(asyncio.CancelledError):
                await free.wait()

    await manager.open(wire)
    await manager.subscribe("c", stubborn)
    wire.bring(1)
    await eventually(lambda: seen)
    await manager.close()
    assert wire.closed
    assert "although they were cancelled" in caplog.text
    again = cluster.Wire()
    await manager.open(again)
    again.bring(1)
    await eventually(lambda: len(seen) == 2)
    free.set()
    await manager.close()


async def test_a_handler_may_close(cluster):
    """A handler that closes the manager does not wait for itself."""
    manager, wire = cluster.manager(), cluster.Wire()
    ended = asyncio.Event()

    async def closing(message):
        await manager.close()
        ended.set()

    await manager.open(wire)
    await manager.subscribe("c", closing)
    wire.bring(1)
    await asyncio.wait_for(ended.wait(), 2)
    assert wire.closed


async def test_code_can_tell_that_it_runs_in_a_handler(cluster):
    """A handler is known as one, so that stopping the App in it does not wait for itself."""
    seen = []

    async def asking(message):
        seen.append((inside_handler("a"), inside_handler("another")))

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", asking)
        wire.bring(1)
        await eventually(lambda: seen)
        assert seen == [(True, False)]
        assert not inside_handler("a")


async def test_nothing_is_delivered_while_closing(cluster):
    """What arrives once close has begun is not handled, then or after the next open."""
    manager, wire, slow = cluster.manager(), cluster.Wire(), Slow()
    await manager.open(wire)
    await manager.subscribe("c", slow, on_gap=slow.gap)
    wire.bring(1)
    await eventually(lambda: slow.begun)
    closing = asyncio.create_task(manager.close())
    await asyncio.sleep(1)
    wire.bring(2)
    wire.lose()
    slow.go_on(5)
    await closing
    await manager.open(cluster.Wire())
    await asyncio.sleep(1)
    assert slow.begun == [1]
    await manager.close()


async def test_no_task_while_idle(cluster):
    """A subscription that has had nothing to do for a moment costs no task."""
    async with cluster.wired() as (manager, wire):
        before = asyncio.all_tasks()
        log = cluster.Log()
        for n in range(100):
            await manager.subscribe(str(n), log)
        wire.bring(1, channel="shop/channel/5")
        await eventually(lambda: log.messages)
        await asyncio.sleep(3)
        assert asyncio.all_tasks() == before


def tasks_of(channel):
    """Return the tasks that hand on what comes on *channel*."""
    return [task for task in asyncio.all_tasks() if task.get_name() == f"pub/sub: shop/{channel}"]


async def test_messages_that_come_soon_share_a_task(cluster):
    """A task serves what comes within a moment; after longer than that there is another one."""
    tasks = []

    async def handler(message):
        tasks.append(asyncio.current_task())

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", handler)
        for number, pause in enumerate((0.9, 0.9, 0.9, 3, 0), 1):
            wire.bring(number)
            await asyncio.sleep(pause)
        await eventually(lambda: len(tasks) == 5)
        assert len({*tasks[:4]}) == 1
        assert tasks[4] is not tasks[3]
        assert tasks[3].done()


async def test_a_handler_that_outlasts_its_rest(cluster):
    """The time of a handler is no rest: its task goes on afterwards, and ends when it has one."""
    tasks = []

    async def handler(message):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(10)

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", handler)
        for number, pause in enumerate((10.5, 10.5, 3), 1):
            wire.bring(number)
            await asyncio.sleep(pause)
        assert len(tasks) == 3
        await asyncio.sleep(10)
        assert len({*tasks}) == 1
        assert tasks[0].done()


@pytest.mark.parametrize("when", ["new", "resting", "woken"])
async def test_a_task_that_is_cancelled_between_messages(cluster, when):
    """Whoever cancels a subscription's task, at whatever moment: nothing waits for ever."""
    log = cluster.Log()
    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", log)
        wire.bring(1)
        if when != "new":
            await eventually(lambda: log.messages == [1])
        (task,) = tasks_of("channel/c")
        if when == "woken":
            wire.bring(2)
        task.cancel()
        if when == "resting":
            wire.bring(2)
        await asyncio.wait([task])
        expected = [1] if when == "new" else [1, 2]
        await eventually(lambda: log.messages == expected)
        wire.bring(3)
        await eventually(lambda: log.messages == [*expected, 3])
        assert len(tasks_of("channel/c")) == 1


async def test_a_handler_that_catches_its_cancellation(cluster, caplog):
    """The next message has a task that nobody has cancelled: its own error is logged as one."""
    seen = []

    async def catching(message):
        seen.append(message)
        if message == 1:
            asyncio.current_task().cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
        elif message == 2:
            raise asyncio.CancelledError

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", catching)
        wire.bring(1)
        await asyncio.sleep(0.1)
        wire.bring(2, 3)
        await eventually(lambda: seen == [1, 2, 3])
    (record,) = caplog.records
    assert "catching failed" in record.message


async def test_a_resting_task_keeps_no_message(cluster):
    """What was handled can be collected while the task waits for more."""
    seen = []

    async def noting(message):
        seen.append(weakref.ref(message))

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", noting)
        wire.bring_bodies({1, 2})
        await eventually(lambda: seen)
        await asyncio.sleep(0)
        gc.collect()
        assert len(tasks_of("channel/c")) == 1
        assert seen[0]() is None


@pytest.mark.parametrize("ending", ["unsubscribe", "close"])
async def test_the_end_of_a_subscription_at_rest(cluster, ending):
    """A task at rest keeps nobody waiting, and is gone with its subscription."""
    log = cluster.Log()
    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", log)
        wire.bring(1)
        await eventually(lambda: log.messages == [1])
        assert len(tasks_of("channel/c")) == 1
        begun = asyncio.get_running_loop().time()
        if ending == "close":
            await manager.close()
        else:
            await manager.unsubscribe("c", log)
            await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == begun
        assert tasks_of("channel/c") == []


async def test_a_handler_runs_in_the_context_of_its_subscription(cluster):
    """Context variables are those of the subscribe call, not of whoever publishes."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    async def looking(message):
        seen.append(variable.get())
        variable.set("by a handler")

    async with cluster.running("a", "b") as (a, b):
        variable.set("subscribing")
        await b.subscribe("c", looking)
        variable.set("publishing")
        for pause in (0.1, 5, 0.1):
            await a.publish("c", 1)
            await asyncio.sleep(pause)
        assert seen == ["subscribing"] * 3


async def test_what_a_handler_leaves_in_its_context(cluster, caplog):
    """It is gone by the next message, even if it says that it equals what was there, or raises."""

    class Odd:
        def __eq__(self, other):
            raise ValueError

        __hash__ = None

    equal, odd = contextvars.ContextVar("equal"), contextvars.ContextVar("odd")
    equal.set(first := [])
    odd.set(Odd())
    seen = []

    async def leaving(message):
        seen.append(equal.get())
        (equal if message == 1 else odd).set([] if message == 1 else Odd())

    async with cluster.wired() as (manager, wire):
        await manager.subscribe("c", leaving)
        for number in range(1, 4):
            wire.bring(number)
            await asyncio.sleep(0.1)
    assert len(seen) == 3
    assert all(each is first for each in seen)
    assert not caplog.records


async def test_the_context_is_kept_across_restarts(cluster):
    """After a restart handlers still run in the context in which they were subscribed."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    async def looking(message):
        seen.append(variable.get())

    manager = cluster.manager()
    variable.set("subscribing")
    await manager.subscribe("c", looking)
    variable.set("opening")
    for _ in range(2):
        wire = cluster.Wire()
        await manager.open(wire)
        wire.bring(1)
        await asyncio.sleep(1)
        await manager.close()
    assert seen == ["subscribing", "subscribing"]


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12")
async def test_eager_tasks(cluster):
    """A task that runs at once, inside the adapter's call, changes nothing."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    async with cluster.running("a", "b") as (a, b):
        log = cluster.Log()
        await b.subscribe("c", log)
        for n in range(5):
            await a.publish("c", n)
            await asyncio.sleep(0.1)
        assert log.messages == [0, 1, 2, 3, 4]
