"""One message and its handler: what ends how."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import suppress

import pytest

from corekit.managers.event_queue import DeliveryContext
from corekit.managers.handler_context import inside_handler
from corekit.testing import eventually

VARIABLE = contextvars.ContextVar("variable", default="unset")


async def consuming(queue, backend, process, **options):
    """Let *queue* consume, and return its consumer on *backend*."""
    await queue.open(backend)
    queue.subscribe("mail", process, **options)
    await queue.start_consuming()
    return backend.source


async def settled(source, delivery):
    """Wait until *delivery* is settled, and return how."""
    await eventually(lambda: source.outcome(delivery) is not None, within=1000)
    return source.outcome(delivery)


async def test_returning_acknowledges(queue, backend, clock):
    """A handler that returns acknowledges its message, whatever it returns."""
    calls = []

    async def process(message, context):
        calls.append((message, context))
        return "ignored"

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver({"to": "a"}, timeout=20.0, attempt=3)
    assert await settled(source, delivery) == ("ack",)
    ((message, context),) = calls
    assert message == {"to": "a"}
    assert context == DeliveryContext(
        delivery.id, 3, "mail", delivery.published_at, pytest.approx(clock.time() + 20, abs=0.1)
    )
    await queue.close()


async def test_raising_buries_without_retries(queue, backend, clock, caplog):
    """A failed message without retries becomes a dead letter, with class and text of its error."""

    async def process(message, context):
        raise ValueError("no such address")

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("secret-payload")
    assert await settled(source, delivery) == ("bury", "ValueError: no such address")
    assert "mail" in caplog.text
    assert delivery.id in caplog.text
    assert "secret-payload" not in caplog.text
    await queue.close()


async def test_raising_retries(queue, backend, clock):
    """A failed message with retries left is retried, after the wait that its attempt calls for."""

    async def process(message, context):
        raise ValueError("no")

    source = await consuming(queue, backend, process)
    for attempt, least, most in ((1, 0.375, 0.625), (2, 0.75, 1.25), (3, 1.5, 2.5)):
        (delivery,) = source.deliver("x", max_retries=3, attempt=attempt)
        how, delay, error = await settled(source, delivery)
        assert (how, error) == ("retry", "ValueError: no")
        assert least <= delay <= most
    (delivery,) = source.deliver("x", max_retries=3, attempt=4)
    assert (await settled(source, delivery))[0] == "bury"
    await queue.close()


class BrokenError(Exception):
    """It has no text."""

    def __str__(self):
        raise RuntimeError("no text")


class EndlessError(BaseException):
    """It is no Exception."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (asyncio.CancelledError(), "CancelledError"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(3), "RuntimeError: coroutine raised StopIteration"),
        (StopAsyncIteration(), "StopAsyncIteration"),
        (ExceptionGroup("two", [ValueError("a")]), "ExceptionGroup: two (1 sub-exception)"),
        (BrokenError(), "BrokenError: (its text cannot be had)"),
        (EndlessError("x"), "EndlessError: x"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("y" * 10_000), "ValueError: yyy"),
        (ValueError("\udcff"), "ValueError: ?"),
    ],
)
@pytest.mark.parametrize("suspends", [False, True])
async def test_every_exception_is_a_failure(queue, backend, clock, error, text, suspends):
    """Whatever a handler raises, even by itself a CancelledError, is its failure; others go on."""

    async def process(message, context):
        if suspends:
            await asyncio.sleep(0.001)
        if message == "bad":
            raise error

    source = await consuming(queue, backend, process)
    (bad,) = source.deliver("bad")
    how, kept = await settled(source, bad)
    assert how == "bury"
    assert kept.startswith(text)
    assert len(kept.encode()) <= 4096
    assert len(kept) <= 2048
    (good,) = source.deliver("good")
    assert await settled(source, good) == ("ack",)
    await queue.close()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("suspends", [False, True])
def test_the_end_of_the_process_gives_back(make_queue, make_backend, kind, suspends, clock):
    """KeyboardInterrupt and SystemExit give the message back, and end the program."""
    backend = make_backend()

    async def process(message, context):
        if suspends:
            await asyncio.sleep(0.001)
        raise kind

    async def main():
        queue = make_queue()
        source = await consuming(queue, backend, process)
        source.deliver("x")
        try:
            await asyncio.sleep(10)
        finally:
            await queue.close()

    with pytest.raises(kind):
        clock.run(main())
    assert [entry[1:] for entry in backend.source.settled] == [("release", True)]
    assert backend.closed


async def test_timeouts_cancel(queue, backend, clock):
    """A handler past its timeout is cancelled, and has failed."""
    cancelled_at = []

    async def process(message, context):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled_at.append(clock.time())
            assert clock.time() >= context.deadline
            raise

    source = await consuming(queue, backend, process, concurrency=3)
    start = clock.time()
    slow, retried = source.deliver("a", timeout=7.0) + source.deliver(
        "b", timeout=2.0, max_retries=1
    )
    assert (await settled(source, retried))[0] == "retry"
    assert await settled(source, slow) == ("bury", "TimeoutError: the handler ran longer than 7 s")
    assert [at - start for at in cancelled_at] == pytest.approx([2, 7], abs=0.01)
    await queue.close()


async def test_a_timeout_is_a_failure_however_the_handler_ends(queue, backend, clock):
    """A handler that was cancelled at its timeout has failed, even if it then returns or raises."""

    async def process(message, context):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            if message == "raises":
                raise ValueError from None

    source = await consuming(queue, backend, process, concurrency=2)
    for delivery in source.deliver("returns", "raises", timeout=1.0):
        assert await settled(source, delivery) == (
            "bury",
            "TimeoutError: the handler ran longer than 1 s",
        )
    await queue.close()


async def test_a_timeout_inside_a_handler_is_its_own(queue, backend, clock):
    """A handler may use asyncio.timeout; cancellation that it asked for stays inside."""

    async def process(message, context):
        try:
            async with asyncio.timeout(1):
                await asyncio.sleep(10)
        except TimeoutError:
            pass

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x")
    assert await settled(source, delivery) == ("ack",)
    await queue.close()


async def test_a_handler_that_swallows_its_cancellation(queue, backend, clock, caplog):
    """It has failed at the timeout; a second later its slot is free, and the leak is logged."""
    end = asyncio.Event()
    started = []

    async def process(message, context):
        started.append((message, clock.monotonic()))
        if message == "stubborn":
            while not end.is_set():
                with suppress(asyncio.CancelledError):
                    await end.wait()

    source = await consuming(queue, backend, process)
    begin = clock.monotonic()
    (stubborn,) = source.deliver("stubborn", timeout=5.0, max_retries=1)
    assert (await settled(source, stubborn))[0] == "retry"
    assert clock.monotonic() - begin == pytest.approx(6, abs=0.1)
    await eventually(lambda: source.credit > 0)
    (other,) = source.deliver("other")
    assert await settled(source, other) == ("ack",)
    assert caplog.text.count("still runs") == 1
    await asyncio.sleep(65)
    assert caplog.text.count("still runs") == 3
    end.set()
    await asyncio.sleep(1)
    assert source.outcomes() == [(stubborn.id, "retry"), (other.id, "ack")]
    assert "abandoned=0" in repr(next(iter(queue._workers.values())))
    await queue.close()


async def test_poison_is_buried_unseen(queue, backend, clock):
    """A message that ten deliveries in a row died with is buried without running."""
    seen = []

    async def process(message, context):
        seen.append(message)

    source = await consuming(queue, backend, process)
    (poison,) = source.deliver("poison", deaths=10, max_retries=100)
    how, error = await settled(source, poison)
    assert how == "bury"
    assert error.startswith("poison")
    (nearly,) = source.deliver("nearly", deaths=9)
    assert await settled(source, nearly) == ("ack",)
    assert seen == ["nearly"]
    await queue.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x80\x04\x95",
        b"{}",
        b"\x05",
        b"\x95\x02\xcb\x40\x2e\x00\x00\x00\x00\x00\x00\x00\x01\x01",  # another version
    ],
)
async def test_what_cannot_be_read_is_buried(queue, backend, clock, payload):
    """An unreadable payload is buried at once, spends no retry, and disturbs nobody."""

    async def process(message, context):
        raise AssertionError

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver(payload)
    how, error = await settled(source, delivery)
    assert how == "bury"
    assert error.startswith("SerializationError: ")
    await queue.close()


@pytest.mark.parametrize(
    "head",
    [
        {"timeout": 0.0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"timeout": "15"},
        {"timeout": 1e99},
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
        {"waits": -1.0},
        {"waits": float("nan")},
        {"waits": "1"},
        {"waits": [1.0, "2"]},
        {"waits": None},
    ],
)
async def test_bad_envelopes_are_buried(queue, backend, clock, head):
    """An envelope with a field that no publisher writes is as unreadable as any."""

    async def process(message, context):
        raise AssertionError

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x", **head)
    assert (await settled(source, delivery))[1].startswith("SerializationError: ")
    await queue.close()


async def test_handlers_do_not_see_each_others_context(queue, backend, clock):
    """A context variable that one handler sets is unset in the next, and outside."""
    seen = []

    async def process(message, context):
        seen.append(VARIABLE.get())
        VARIABLE.set(message)
        if message == "b":
            await asyncio.sleep(0)

    source = await consuming(queue, backend, process, concurrency=2)
    deliveries = source.deliver("a", "b")
    await settled(source, deliveries[1])
    deliveries += source.deliver("c")
    await settled(source, deliveries[2])
    assert seen == ["unset"] * 3
    assert VARIABLE.get() == "unset"
    await queue.close()


async def test_a_handler_that_suspended_had_its_task_for_itself(queue, backend, clock):
    """Only handlers that never suspend share a task: what goes by tasks is not mixed up."""
    tasks = []

    async def process(message, context):
        tasks.append(asyncio.current_task())
        await asyncio.sleep(message)

    source = await consuming(queue, backend, process)
    for _ in range(3):
        (delivery,) = source.deliver(0.001)
        await settled(source, delivery)
        await eventually(lambda: source.credit > 1)
    deliveries = source.deliver(0.001, 0.001, 0.001)
    await settled(source, deliveries[-1])
    assert len(set(tasks)) == 6
    await queue.close()


async def test_a_task_that_was_cancelled_before_it_began(queue, backend, clock):
    """Its message is given back, with no death, and its slot is free."""

    async def process(message, context):
        raise AssertionError

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x")
    (task,) = [t for t in asyncio.all_tasks() if delivery.id in t.get_name()]
    task.cancel()
    assert await settled(source, delivery) == ("release", False)
    await eventually(lambda: source.credit == 1)
    await queue.close()


async def test_a_cancelled_task_is_not_used_again(queue, backend, clock):
    """A handler that cancels its own task does not cancel the next message's."""

    async def process(message, context):
        if message == "self":
            asyncio.current_task().cancel()
        else:
            await asyncio.sleep(0)

    source = await consuming(queue, backend, process, concurrency=2)
    deliveries = source.deliver("self", "other")
    assert await settled(source, deliveries[0]) == ("ack",)
    assert await settled(source, deliveries[1]) == ("ack",)
    await queue.close()


async def test_code_knows_that_it_is_inside_a_handler(queue, backend, clock):
    """`inside_handler` is true in a handler and its children, and nowhere else."""
    answers = []

    async def child():
        answers.append(inside_handler("shop-1"))

    async def process(message, context):
        answers.append(inside_handler("shop-1"))
        await asyncio.create_task(child())

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x")
    await settled(source, delivery)
    assert answers == [True, True]
    assert not inside_handler("shop-1")
    await queue.close()


async def test_a_handler_that_blocks_the_loop_is_logged(queue, backend, clock, caplog):
    """A handler that holds up the loop for more than a second is named in the log."""

    async def process(message, context):
        clock.jump(3.0)

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x")
    assert await settled(source, delivery) == ("ack",)
    assert "held up the event loop for 3.0 s" in caplog.text
    await queue.close()


async def test_late_settlements_are_logged(queue, backend, clock, caplog):
    """A delivery that went to another consumer meanwhile is logged; its handler goes on."""
    caplog.set_level(logging.WARNING, "corekit.event_queue")
    done = []

    async def process(message, context):
        await asyncio.sleep(1)
        done.append(message)

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x")
    await asyncio.sleep(0.5)
    source.receiver.expired(delivery)
    assert await settled(source, delivery) == ("ack",)
    assert done == ["x"]
    assert delivery.id in caplog.text
    await queue.close()


async def test_a_loop_that_is_torn_down_gives_back(queue, backend, clock):
    """A handler's task that is cancelled from outside gives its message back."""

    async def process(message, context):
        await asyncio.sleep(100)

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x", max_retries=5)
    await asyncio.sleep(0.1)
    (task,) = [t for t in asyncio.all_tasks() if delivery.id in t.get_name()]
    task.cancel()
    assert await settled(source, delivery) == ("release", True)
    await queue.close()
