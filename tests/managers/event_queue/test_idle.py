"""`idle`: when this instance takes nothing."""

from __future__ import annotations

import asyncio

import pytest

from corekit.testing import eventually


class Gauge:
    """An `idle` that the test moves, and that knows when it was asked."""

    def __init__(self, clock):
        self.clock = clock
        self.answer = True
        self.asked = []

    def __call__(self):
        self.asked.append(self.clock.monotonic())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


async def consuming(queue, backend, process, idle, concurrency=4):
    """Let *queue* consume, and return its consumer on *backend*."""
    await queue.open(backend)
    queue.subscribe("mail", process, idle=idle, concurrency=concurrency)
    await queue.start_consuming()
    return backend.source


async def test_nothing_is_asked_for_while_not_idle(queue, backend, clock):
    """While `idle` says no, no credit is granted; it is asked at least every 0.25 s."""
    idle = Gauge(clock)
    idle.answer = False

    async def process(message, context):
        pass

    source = await consuming(queue, backend, process, idle)
    begin = clock.monotonic()
    await asyncio.sleep(10)
    assert source.grants == []
    gaps = [b - a for a, b in zip([begin, *idle.asked], idle.asked, strict=False)]
    assert max(gaps) <= 0.2501
    assert len(idle.asked) < 60
    idle.answer = True
    await asyncio.sleep(0.26)
    assert source.credit == 4
    await queue.close()


async def test_an_idle_that_unsubscribes(queue, backend, clock):
    """It may: nothing is asked for any more, though it said yes."""

    async def process(message, context):
        pass

    def idle():
        queue.unsubscribe("mail")
        return True

    source = await consuming(queue, backend, process, idle)
    await asyncio.sleep(1)
    assert source.grants == []
    assert source.closed
    await queue.close()


async def test_an_idle_that_ends_the_process(queue, backend, clock):
    """The subscribing in which it was asked raises that, and has changed nothing."""

    async def process(message, context):
        pass

    def idle():
        raise SystemExit

    await queue.open(backend)
    await queue.start_consuming()
    with pytest.raises(SystemExit):
        queue.subscribe("mail", process, idle=idle)
    await eventually(lambda: "subscriptions=0 workers=0" in repr(queue))
    assert backend.source.closed
    queue.subscribe("mail", process)
    assert backend.source.credit == 1
    await queue.close()


async def test_an_idle_that_subscribes_another_channel_anew(queue, backend, clock):
    """When consuming begins, only what is subscribed by then is consumed, and once."""

    async def old(message, context):
        pass

    async def new(message, context):
        pass

    def idle():
        queue.unsubscribe("text")
        queue.subscribe("text", new)
        return False

    queue.subscribe("mail", old, idle=idle)
    queue.subscribe("text", old)
    begun = []
    consume = backend.consume
    backend.consume = lambda channel, worker: begun.append(channel) or consume(channel, worker)
    await queue.open(backend)
    await queue.start_consuming()
    assert [channel.rpartition("/")[2] for channel in begun] == ["mail", "text"]
    await queue.close()


async def test_nothing_is_held_ready(queue, backend, clock):
    """With `idle`, no more is asked for than can start, however quick the handlers are."""

    async def process(message, context):
        pass

    source = await consuming(queue, backend, process, lambda: True)
    for _ in range(20):
        deliveries = source.deliver(*range(source.credit))
        await eventually(lambda: source.outcome(deliveries[-1]))  # noqa: B023 - awaited in the loop
        await asyncio.sleep(0.01)
        assert source.credit == 4
    await queue.close()


async def test_each_message_is_asked_for(queue, backend, clock):
    """It is asked before each message, after the handler before it ran to its first await."""
    running = 0

    async def process(message, context):
        nonlocal running
        running += 1
        await asyncio.sleep(5)
        running -= 1

    source = await consuming(queue, backend, process, lambda: running < 2)
    deliveries = source.deliver("a", "b", "c", "d")
    await asyncio.sleep(1)
    assert running == 2
    assert [source.outcome(d) for d in deliveries] == [
        None,
        None,
        ("release", False),
        ("release", False),
    ]
    assert source.credit == 0
    await asyncio.sleep(5)
    assert source.outcome(deliveries[0]) == source.outcome(deliveries[1]) == ("ack",)
    await queue.close()


async def test_quick_handlers_are_asked_for_too(queue, backend, clock):
    """Also handlers that never suspend are each asked for."""
    seen = []

    async def process(message, context):
        seen.append(message)

    source = await consuming(queue, backend, process, lambda: len(seen) < 2)
    deliveries = source.deliver("a", "b", "c", "d")
    await asyncio.sleep(1)
    assert seen == ["a", "b"]
    assert [source.outcome(d)[0] for d in deliveries] == ["ack", "ack", "release", "release"]
    await queue.close()


async def test_a_completion_asks_at_once(queue, backend, clock):
    """After a completion it is asked at once, not at the next look."""
    running = 0

    async def process(message, context):
        nonlocal running
        running += 1
        await asyncio.sleep(0.26)
        running -= 1

    idle = Gauge(clock)
    idle.answer = lambda: running < 1
    source = await consuming(queue, backend, process, idle)
    (delivery,) = source.deliver("a")
    await eventually(lambda: source.outcome(delivery))
    ended = clock.monotonic()
    assert idle.asked[-1] == pytest.approx(ended, abs=1e-6)
    assert source.credit == 4
    await queue.close()


async def test_a_failing_idle_means_no(queue, backend, clock, caplog):
    """An error in it means "not idle", and is logged once, not at each look."""
    idle = Gauge(clock)
    idle.answer = ZeroDivisionError("x")

    async def process(message, context):
        pass

    source = await consuming(queue, backend, process, idle)
    await asyncio.sleep(20)
    assert source.grants == []
    assert caplog.text.count("idle() failed") == 1
    idle.answer = True
    await asyncio.sleep(0.3)
    assert source.credit == 4
    await queue.close()


async def test_an_awaitable_answer_means_no(queue, backend, clock, caplog):
    """An `idle` that gives a coroutine is not idle, and the coroutine is not left behind."""

    async def answer():
        return True

    idle = Gauge(clock)
    idle.answer = answer

    async def process(message, context):
        pass

    source = await consuming(queue, backend, process, idle)
    await asyncio.sleep(1)
    assert source.grants == []
    assert "plain function" in caplog.text
    await queue.close()


async def test_other_instances_get_the_work(make_queue, make_adapter, clock):
    """What comes while this instance is not idle is handled by another one."""
    seen = {"busy": [], "free": []}
    queues = []
    for name in seen:
        queue = make_queue()

        async def process(message, context, name=name):
            seen[name].append(message)

        await queue.open(make_adapter())
        queue.subscribe(
            "mail", process, idle=lambda name=name: name == "free" or len(seen["busy"]) < 3
        )
        await queue.start_consuming()
        queues.append(queue)
    for number in range(50):
        await queues[0].publish("mail", number)
    await eventually(lambda: len(seen["busy"]) + len(seen["free"]) == 50)
    assert len(seen["busy"]) == 3
    for queue in queues:
        await queue.close()
