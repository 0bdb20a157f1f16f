"""What is asked for, held, and given back."""

from __future__ import annotations

import asyncio

from corekit.managers.prefetch import MOST, PrefetchBuffer, PrefetchCount
from corekit.testing import eventually


async def consuming(queue, backend, process, **options):
    """Let *queue* consume, and return its consumer on *backend*."""
    await queue.open(backend)
    queue.subscribe("mail", process, **options)
    await queue.start_consuming()
    return backend.source


def handler(seconds, seen):
    """Return a handler that takes `seconds[0]` and writes down what it got."""

    async def process(message, context):
        seen.append(message)
        wait = seconds[0]
        if wait:
            await asyncio.sleep(wait)

    return process


def test_what_was_marked_is_held_until_it_is_gone(backend):
    """Whether it was taken out or given back; what came after the mark does not count."""

    class Consumer:
        def release(self, delivery, *, started):
            assert not started

    for leave in ("next", "give_back"):
        buffer = PrefetchBuffer(Consumer(), lambda: 0.0, in_order=False)
        assert not buffer.holds_marked
        buffer.add([backend.delivery(number) for number in range(2)])
        assert not buffer.holds_marked
        buffer.mark()
        buffer.next()
        assert buffer.holds_marked
        getattr(buffer, leave)()
        assert not buffer.holds_marked
        buffer.add([backend.delivery("later")])
        assert not buffer.holds_marked


def test_how_many_are_held_ready():
    """None before the first measurement, many for quick handlers, none for slow ones."""
    prefetch = PrefetchCount(1)
    assert prefetch.ahead == 0
    prefetch.measured(0.00001)
    assert prefetch.ahead == MOST
    for _ in range(50):
        prefetch.measured(0.01)
    assert prefetch.ahead == 5
    for _ in range(50):
        prefetch.measured(0.06)
    assert prefetch.ahead == 0
    for _ in range(100):
        prefetch.measured(0.00001)
    assert prefetch.ahead == MOST
    prefetch.stalled()
    assert prefetch.ahead == 0


async def test_slots_are_asked_for(queue, backend, clock):
    """At first as much credit is granted as there are slots."""
    source = await consuming(queue, backend, handler([1], []), concurrency=5)
    assert source.credit == 5
    await queue.close()


async def test_no_slots_are_bounded(queue, backend, clock):
    """Unlimited concurrency asks for a bounded number at a time, and runs all that comes."""
    seen = []
    source = await consuming(queue, backend, handler([10], seen), concurrency=0)
    assert source.credit == MOST
    for _ in range(5):
        source.deliver(*range(200))
        await asyncio.sleep(0.01)
    assert len(seen) == 1000
    assert source.credit <= MOST
    await asyncio.sleep(20)
    await queue.close()


async def test_concurrency_is_kept(queue, backend, clock):
    """Never more handlers run than `concurrency`, however much is held ready."""
    running = most = 0
    seconds = [0.001]

    async def process(message, context):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(seconds[0])
        running -= 1

    source = await consuming(queue, backend, process, concurrency=3)
    total = 0
    while total < 500:
        batch = source.deliver(*range(source.credit))
        total += len(batch)
        await eventually(lambda: source.credit > 0)
    await eventually(lambda: len(source.settled) == total)
    assert most == 3
    assert max(source.grants) > 3
    await queue.close()


async def test_quick_handlers_are_given_stock(queue, backend, clock):
    """Once handlers have proven quick, a stock is asked for, in few grants."""
    seen = []
    source = await consuming(queue, backend, handler([0], seen))
    source.deliver("first")
    await eventually(lambda: source.credit > 200)
    for number in range(200):
        source.deliver(number)
        await asyncio.sleep(0.0001)
    assert len(seen) == 201
    assert len(source.grants) <= 4
    await queue.close()


async def test_slow_handlers_hold_nothing(queue, backend, clock):
    """A handler that takes long is given one message at a time."""
    seen = []
    source = await consuming(queue, backend, handler([0.2], seen))
    for _ in range(5):
        assert source.credit == 1
        (delivery,) = source.deliver("x")
        await eventually(lambda: source.outcome(delivery))  # noqa: B023 - awaited in the loop
    await queue.close()


async def test_what_must_wait_is_given_back(queue, backend, clock):
    """When a quick handler turns out slow, what it holds is given back within 0.25 s."""
    seconds = [0]
    seen = []
    source = await consuming(queue, backend, handler(seconds, seen))
    source.deliver("first")
    await eventually(lambda: source.credit > 50)
    seconds[0] = 20
    running, *held = source.deliver(*range(50))
    begin = clock.monotonic()
    await eventually(lambda: source.outcome(held[-1]))
    assert clock.monotonic() - begin <= 0.25
    await asyncio.sleep(0)
    assert {source.outcome(d) for d in held} == {("release", False)}
    assert source.outcome(running) is None
    assert source.credit == 0
    await asyncio.sleep(19)
    assert seen == ["first", 0]
    await queue.close()


async def test_what_comes_late_must_not_wait_either(queue, backend, clock):
    """What was on its way when credit was taken back is given back within 0.25 s too."""
    seconds = [0]
    source = await consuming(queue, backend, handler(seconds, []))
    source.deliver("first")
    await eventually(lambda: source.credit > 50)
    seconds[0] = 20
    source.deliver(0, 1)
    await asyncio.sleep(0.3)
    assert source.credit == 0
    (late,) = source.deliver("late", spend=False)
    await asyncio.sleep(0.25)
    assert source.outcome(late) == ("release", False)
    await queue.close()


async def test_order_is_kept_when_messages_are_given_back(queue, backend, clock):
    """With one slot, what was on its way when older messages were given back waits for them."""
    seconds = [0]
    seen = []
    source = await consuming(queue, backend, handler(seconds, seen))
    source.deliver("first")
    await eventually(lambda: source.credit > 50)
    seconds[0] = 0.2
    _, second, third = source.deliver("one", "two", "three")
    await eventually(lambda: source.outcome(third))
    assert source.outcome(second) == ("release", False)
    await eventually(lambda: source.credit > 0)
    (younger,) = source.deliver("younger")
    assert source.outcome(younger) == ("release", False)
    await eventually(lambda: source.credit > 0)
    source.deliver(second)
    await eventually(lambda: source.credit > 0)
    source.deliver(third)
    await eventually(lambda: source.credit > 0)
    source.deliver("younger")
    await eventually(lambda: seen[-1] == "younger")
    assert seen == ["first", "one", "two", "three", "younger"]
    await queue.close()


async def test_foreign_messages_are_not_refused_for_ever(queue, backend, clock):
    """If another instance took what was given back, others are handled after a while."""
    seconds = [0]
    seen = []
    source = await consuming(queue, backend, handler(seconds, seen))
    source.deliver("first")
    await eventually(lambda: source.credit > 50)
    seconds[0] = 2
    source.deliver("one", "two")
    await eventually(lambda: len(source.settled) == 2)
    seconds[0] = 0
    await eventually(lambda: source.credit > 0)
    source.deliver("other")
    await eventually(lambda: seen[-1] == "other")
    await queue.close()


async def test_published_order(make_queue, make_adapter, clock):
    """One consumer of concurrency 1 handles in published order, quick and slow by turns."""
    queue = make_queue()
    await queue.open(make_adapter())
    seen = []

    async def process(message, context):
        seen.append(message)
        if message % 40 == 39:
            await asyncio.sleep(0.4)
        elif message % 7 == 0:
            await asyncio.sleep(0)

    queue.subscribe("mail", process)
    await queue.start_consuming()
    for number in range(500):
        await queue.publish("mail", number, timeout=100)
    await eventually(lambda: len(seen) == 500, within=1000)
    assert seen == list(range(500))
    await queue.close()


async def test_nobody_hoards(make_queue, make_adapter, clock):
    """What one instance cannot start, a free one gets, long before the first is done."""
    seconds = {"a": [0], "b": [0]}
    seen = {"a": [], "b": []}
    queues = {}
    for name in seen:
        queues[name] = queue = make_queue()
        await queue.open(make_adapter())
        queue.subscribe("mail", handler(seconds[name], seen[name]))
    await queues["a"].start_consuming()
    for _ in range(10):
        await queues["a"].publish("mail", 1)
    await eventually(lambda: len(seen["a"]) == 10)
    seconds["a"][0] = 1000
    for _ in range(100):
        await queues["a"].publish("mail", 2, timeout=2000)
    await asyncio.sleep(0.01)
    assert len(seen["a"]) == 11
    await queues["b"].start_consuming()
    await asyncio.sleep(0.3)
    assert len(seen["b"]) == 99
    for queue in queues.values():
        await queue.close()
