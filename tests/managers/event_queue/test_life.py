"""Subscribing, starting, draining, stopping, and starting again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from unittest.mock import AsyncMock

import pytest

from corekit.adapters import Guarantee
from corekit.errors import (
    BackendUnavailable,
    ConfigurationError,
    InvalidArgument,
    InvalidName,
    InvalidType,
)
from corekit.testing import eventually


async def nothing(message, context):
    """Handle a message by doing nothing."""


async def consuming(queue, backend, process=nothing, **options):
    """Let *queue* consume, and return its consumer on *backend*."""
    await queue.open(backend)
    queue.subscribe("mail", process, **options)
    await queue.start_consuming()
    return backend.source


def sleeper(seconds, ends=None):
    """Return a handler that sleeps and writes down how that ended."""

    async def process(message, context):
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if ends is not None:
                ends.append("cancelled")
            raise
        else:
            if ends is not None:
                ends.append("ended")

    return process


# -- subscribing --


class Callable:
    """Gives a coroutine when called."""

    async def __call__(self, message, context):
        pass

    async def method(self, message, context):
        pass


@pytest.mark.parametrize(
    "process",
    [nothing, partial(nothing), Callable(), Callable().method, AsyncMock()],
    ids=["function", "partial", "object", "method", "mock"],
)
async def test_what_can_be_a_handler(queue, backend, clock, process):
    """Whatever gives a coroutine when it is called."""
    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x")
    await eventually(lambda: source.outcome(delivery) == ("ack",))
    await queue.close()


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"process": lambda message, context: None}, InvalidType, "process"),
        ({"process": None}, InvalidType, "process"),
        ({"process": Callable}, InvalidType, "process"),
        ({"concurrency": 1.5}, InvalidType, "concurrency"),
        ({"concurrency": True}, InvalidType, "concurrency"),
        ({"concurrency": None}, InvalidType, "concurrency"),
        ({"idle": True}, InvalidType, "idle"),
        ({"idle": nothing}, InvalidType, "idle"),
        ({"shared": "yes"}, InvalidType, "shared"),
        ({"channel": ""}, InvalidName, "channel"),
        ({"channel": 7}, InvalidType, "channel"),
        ({"topic": "no topic"}, InvalidName, "topic"),
    ],
)
async def test_bad_subscriptions(make_queue, backend, clock, arguments, error, word):
    """A bad argument is refused by name, and nothing is subscribed."""

    def consumes(topic):
        if topic is not None and " " in topic:
            raise InvalidName("topic")
        return True

    queue = make_queue(consumes)
    await queue.open(backend)
    await queue.start_consuming()
    with pytest.raises(error, match=word):
        queue.subscribe(**{"channel": "mail", "process": nothing, **arguments})
    assert backend.sources == {}
    await queue.close()


@pytest.mark.parametrize("concurrency", [0, -1, 10**9])
async def test_any_concurrency(queue, backend, clock, concurrency):
    """0 and less are unlimited, and so large a number is as good."""
    source = await consuming(queue, backend, concurrency=concurrency)
    deliveries = source.deliver(*range(source.credit))
    await eventually(lambda: source.outcome(deliveries[-1]) == ("ack",))
    await queue.close()


async def test_one_handler_for_each_channel(queue, backend, clock):
    """A second one is refused, and the first stays; a shared channel of the name is another."""
    source = await consuming(queue, backend)
    with pytest.raises(ConfigurationError, match="mail"):
        queue.subscribe("mail", sleeper(1))
    queue.subscribe("mail", nothing, shared=True)
    assert sorted(backend.sources) == ["/queue/mail", "shop/queue/mail"]
    (delivery,) = source.deliver("x")
    await eventually(lambda: source.outcome(delivery) == ("ack",))
    await queue.close()


async def test_subscribing_while_it_consumes(queue, backend, clock):
    """After the start a subscription begins at once; if that fails, it is not kept."""
    await queue.open(backend)
    await queue.start_consuming()
    backend.failures["consume"] = BackendUnavailable("away")
    with pytest.raises(BackendUnavailable):
        queue.subscribe("mail", nothing)
    del backend.failures["consume"]
    queue.subscribe("mail", nothing)
    assert backend.source.credit == 1
    await queue.close()


async def test_topics(make_queue, backend, clock):
    """A channel is consumed only where its topic is."""
    queue = make_queue(lambda topic: topic == "reports")
    await queue.open(backend)
    queue.subscribe("a", nothing, topic="reports")
    queue.subscribe("b", nothing, topic="mails")
    queue.subscribe("c", nothing)
    await queue.start_consuming()
    queue.subscribe("d", nothing, topic="mails")
    assert sorted(backend.sources) == ["shop/queue/a"]
    queue.unsubscribe("b")
    await queue.close()


async def test_unsubscribing(queue, backend, clock):
    """Running handlers go on to their end, what was held is given back, nothing more is taken."""
    source = await consuming(queue, backend, sleeper(5), concurrency=2)
    running = source.deliver("a", "b")
    held = source.deliver("c", spend=False)
    await asyncio.sleep(0.1)
    queue.unsubscribe("mail")
    assert source.credit == 0
    assert source.outcome(held[0]) == ("release", False)
    assert not source.closed
    (late,) = source.deliver("late", spend=False)
    assert source.outcome(late) == ("release", False)
    queue.subscribe("mail", nothing)
    assert backend.source is not source
    await eventually(lambda: source.closed)
    assert [source.outcome(d) for d in running] == [("ack",)] * 2
    queue.unsubscribe("mail")
    queue.unsubscribe("mail")
    queue.unsubscribe("never")
    await queue.close()


async def test_unsubscribing_a_shared_channel(queue, backend, clock):
    """A shared channel is unsubscribed by its shared name, another one of the name stays."""
    await queue.open(backend)
    queue.subscribe("mail", nothing)
    queue.subscribe("mail", nothing, shared=True)
    await queue.start_consuming()
    queue.unsubscribe("mail", shared=True)
    await eventually(lambda: backend.sources["/queue/mail"][0].closed)
    assert not backend.sources["shop/queue/mail"][0].closed
    await queue.close()


async def test_a_handler_unsubscribes_itself(queue, backend, clock):
    """A handler may end its own subscription; its message is acknowledged."""

    async def process(message, context):
        queue.unsubscribe("mail")
        await asyncio.sleep(1)

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x")
    await eventually(lambda: source.closed)
    assert source.outcome(delivery) == ("ack",)
    await queue.close()


async def test_a_handler_publishes(make_queue, make_adapter, clock):
    """A handler may publish to its own channel and to others."""
    queue = make_queue()
    await queue.open(make_adapter())
    seen = []

    async def process(message, context):
        seen.append(message)
        if message:
            await queue.publish("mail", message - 1)

    queue.subscribe("mail", process)
    await queue.start_consuming()
    await queue.publish("mail", 5)
    await eventually(lambda: len(seen) == 6)
    assert seen == [5, 4, 3, 2, 1, 0]
    await queue.close()


# -- opening --


@pytest.mark.parametrize("missing", [Guarantee.DELAYED, Guarantee.COUNTED])
async def test_a_backend_that_cannot_retry(queue, make_backend, clock, missing):
    """A backend without what retries need is refused before it is opened."""
    backend = make_backend(missing)
    with pytest.raises(ConfigurationError, match=missing.value):
        await queue.open(backend)
    assert backend.calls == []


async def test_a_backend_that_fails_to_open(queue, backend, make_backend, clock):
    """It is closed again, and another try may work."""
    backend.failures["open"] = BackendUnavailable("away")
    with pytest.raises(BackendUnavailable):
        await queue.open(backend)
    assert backend.closed
    await queue.open(make_backend())
    await queue.publish("mail", 1)
    await queue.close()


async def test_opening_is_cancelled(queue, backend, clock):
    """A cancelled `open` closes the adapter."""
    backend.hangs.add("open")
    opening = asyncio.create_task(queue.open(backend))
    await asyncio.sleep(0.1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert backend.closed
    await queue.close()


async def test_consuming_fails_to_start(queue, backend, clock):
    """An error of the backend reaches `start_consuming`; `close` cleans up."""
    queue.subscribe("mail", nothing)
    await queue.open(backend)
    backend.failures["consume"] = BackendUnavailable("away")
    with pytest.raises(BackendUnavailable):
        await queue.start_consuming()
    await queue.close()
    assert backend.closed


async def test_publishing_works_before_consuming_and_while_draining(queue, backend, clock):
    """From `open` to `close` publishing works; nothing is consumed before it is started."""
    queue.subscribe("mail", sleeper(3))
    await queue.open(backend)
    await queue.publish("mail", 1)
    assert backend.sources == {}
    await queue.start_consuming()
    backend.source.deliver("x")
    await asyncio.sleep(0.1)
    draining = asyncio.create_task(queue.drain(10))
    await asyncio.sleep(0.1)
    await queue.publish("mail", 2)
    await draining
    queue.subscribe("other", nothing)
    assert "shop/queue/other" not in backend.sources
    await queue.publish("mail", 3)
    await queue.close()
    assert len(backend.published) == 3


# -- draining and closing --


async def test_draining_lets_handlers_end(queue, backend, clock):
    """Running handlers end in the grace time and are acknowledged; what was held is given back."""
    ends = []
    source = await consuming(queue, backend, sleeper(3, ends))
    (running,) = source.deliver("running")
    await asyncio.sleep(0.01)
    (held,) = source.deliver("held", spend=False)
    begin = clock.monotonic()
    draining = asyncio.create_task(queue.drain(10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.outcome(held) == ("release", False)
    await draining
    assert source.outcome(running) == ("ack",)
    assert clock.monotonic() - begin < 3.1
    assert source.closed
    assert ends == ["ended"]
    await queue.close()


async def test_draining_cancels_after_the_grace(queue, backend, clock):
    """After the grace handlers are cancelled, and their messages given back as deaths."""
    ends = []
    source = await consuming(queue, backend, sleeper(300, ends), concurrency=3)
    deliveries = source.deliver("a", "b", "c", timeout=1000.0, max_retries=5)
    await asyncio.sleep(0.01)
    begin = clock.monotonic()
    await queue.drain(2)
    assert clock.monotonic() - begin == pytest.approx(2, abs=0.1)
    assert [source.outcome(d) for d in deliveries] == [("release", True)] * 3
    assert ends == ["cancelled"] * 3
    await queue.close()


@pytest.mark.parametrize("handler", ["never started", "just started"])
async def test_draining_without_grace(queue, backend, clock, handler):
    """With grace 0 handlers are cancelled at once; one that never ran does not count as a death."""
    ends = []
    source = await consuming(queue, backend, sleeper(300, ends))
    (delivery,) = source.deliver("x")
    if handler == "just started":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await queue.drain(0)
    assert source.outcome(delivery) in {("release", True), ("release", False)}
    assert ends == (["cancelled"] if source.outcome(delivery) == ("release", True) else [])
    await queue.close()


@pytest.mark.parametrize("end", ["return", "raise"])
async def test_a_handler_that_bears_its_cancellation(queue, backend, clock, end):
    """What a cancelled handler does at last makes no difference: its message is given back."""

    async def process(message, context):
        try:
            await asyncio.sleep(300)
        except asyncio.CancelledError:
            if end == "raise":
                raise ValueError from None

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x", timeout=1000.0, max_retries=5)
    await asyncio.sleep(0.01)
    await queue.drain(1)
    assert source.outcome(delivery) == ("release", True)
    await queue.close()


async def test_draining_ends_though_a_handler_does_not(queue, backend, clock, caplog):
    """A handler that ignores its cancellation holds the stop up for a second, no longer."""
    end = asyncio.Event()

    async def process(message, context):
        while not end.is_set():
            with suppress(asyncio.CancelledError):
                await end.wait()

    source = await consuming(queue, backend, process)
    (delivery,) = source.deliver("x", timeout=1000.0)
    await asyncio.sleep(0.01)
    begin = clock.monotonic()
    await queue.drain(2)
    await queue.close()
    assert clock.monotonic() - begin == pytest.approx(3, abs=0.1)
    assert source.outcome(delivery) == ("release", True)
    assert "still runs" in caplog.text
    end.set()
    await asyncio.sleep(1)
    assert len(source.settled) == 1


async def test_a_timeout_while_draining(queue, backend, clock):
    """A timeout that comes in the grace time is a failure as any."""
    source = await consuming(queue, backend, sleeper(300))
    (delivery,) = source.deliver("x", timeout=5.0, max_retries=1)
    await asyncio.sleep(0.01)
    await queue.drain(60)
    assert source.outcome(delivery)[0] == "retry"
    await queue.close()


@pytest.mark.parametrize("after", [0, 1.0, 2.05])
async def test_draining_is_cancelled(queue, backend, clock, after):
    """A cancelled `drain` cancels the handlers and gives their messages back at once."""
    source = await consuming(queue, backend, sleeper(300))
    (delivery,) = source.deliver("x", timeout=1000.0)
    await asyncio.sleep(0.01)
    backend.hangs.add("consumer.close")
    draining = asyncio.create_task(queue.drain(2))
    await asyncio.sleep(after)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert source.outcome(delivery) == ("release", True)
    backend.hangs.clear()
    await queue.close()
    assert source.closed
    assert backend.closed


async def test_closing_is_cancelled_anywhere(make_queue, make_backend, clock):
    """A `close` that is cancelled, at whatever await, has closed the adapter and released all."""
    for step in range(30):
        queue, backend = make_queue(), make_backend()
        source = await consuming(queue, backend, sleeper(300))
        (delivery,) = source.deliver("x", timeout=1000.0)
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(queue.close())
        for _ in range(step):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        if step == 0:
            # It had not begun.
            await queue.close()
        assert source.outcome(delivery) == ("release", True)
        assert backend.closed
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]


async def test_closing_without_draining(queue, backend, clock):
    """`close` alone drains without grace; a second one does nothing, nor one before `open`."""
    await queue.close()
    source = await consuming(queue, backend, sleeper(300))
    (delivery,) = source.deliver("x")
    await asyncio.sleep(0.01)
    await queue.close()
    assert source.outcome(delivery) == ("release", True)
    await queue.close()
    assert backend.calls.count("close") == 1


async def test_a_consumer_that_fails_to_close(queue, backend, clock, caplog):
    """It is logged, and the rest is closed all the same."""
    await consuming(queue, backend)
    backend.failures["consumer.close"] = BackendUnavailable("away")
    await queue.drain(1)
    await queue.close()
    assert backend.closed
    assert "failed to close" in caplog.text


@pytest.mark.parametrize("grace", [-1, float("nan"), float("inf"), "1"])
async def test_bad_graces(queue, backend, clock, grace):
    """A grace that is no finite duration is refused, and nothing is stopped."""
    source = await consuming(queue, backend)
    with pytest.raises(InvalidArgument):
        await queue.drain(grace)
    assert source.credit == 1
    await queue.close()


async def test_draining_covers_what_was_unsubscribed(queue, backend, clock):
    """Handlers of an unsubscribed channel are drained as all others."""
    source = await consuming(queue, backend, sleeper(300))
    (delivery,) = source.deliver("x", timeout=1000.0)
    await asyncio.sleep(0.01)
    queue.unsubscribe("mail")
    await queue.drain(2)
    assert source.outcome(delivery) == ("release", True)
    await queue.close()


# -- again --


def test_subscriptions_survive_a_restart(make_queue, make_backend, clock):
    """A stopped queue starts again, in another loop too, with each subscription once."""
    queue = make_queue()
    queue.subscribe("mail", nothing)

    async def once():
        backend = make_backend()
        await queue.open(backend)
        await queue.start_consuming()
        assert list(backend.sources) == ["shop/queue/mail"]
        assert len(backend.sources["shop/queue/mail"]) == 1
        (delivery,) = backend.source.deliver("x")
        await eventually(lambda: backend.source.outcome(delivery) == ("ack",))
        await queue.drain(1)
        await queue.close()

    for _ in range(3):
        clock.run(once())


async def test_unsubscribing_while_it_is_stopped(queue, backend, clock):
    """What is unsubscribed before the start is not consumed."""
    queue.subscribe("mail", nothing)
    queue.unsubscribe("mail")
    await queue.open(backend)
    await queue.start_consuming()
    assert backend.sources == {}
    await queue.close()


# -- looking --


async def test_looking_at_a_channel(queue, backend, clock):
    """stats, dead_letters, requeue and purge reach the backend with the full name."""
    await queue.open(backend)
    assert (await queue.stats("mail")).dead == 4
    assert await queue.purge("mail", shared=True) == 7
    await queue.requeue("mail", "the-id")
    assert await queue.dead_letters("mail") == []
    assert backend.calls[-1] == 100
    await queue.close()


async def test_limits_of_dead_letters(queue, backend, clock):
    """0 is none, a negative limit is refused, a large one is cut."""
    await queue.open(backend)
    assert await queue.dead_letters("mail", 0) == []
    assert "dead_letters" not in backend.calls
    for limit in (-1, True, 1.5):
        with pytest.raises(InvalidArgument, match="limit"):
            await queue.dead_letters("mail", limit)
    await queue.dead_letters("mail", 10**9)
    assert backend.calls[-1] == 10_000
    with pytest.raises(InvalidArgument, match="id"):
        await queue.requeue("mail", 7)
    await queue.close()


async def test_dead_letters_and_requeue(make_queue, make_adapter, clock):
    """A dead letter shows message, error and attempts; requeued, it is tried again from 1."""
    queue = make_queue()
    await queue.open(make_adapter())
    attempts = []

    async def process(message, context):
        attempts.append(context.attempt)
        raise ValueError("no")

    queue.subscribe("mail", process)
    await queue.start_consuming()
    message_id = await queue.publish("mail", {"to": "a"}, max_retries=2)
    await asyncio.sleep(60)
    (letter,) = await queue.dead_letters("mail")
    assert (letter.id, letter.message, letter.error) == (message_id, {"to": "a"}, "ValueError: no")
    assert letter.attempts == 3
    await queue.requeue("mail", message_id)
    await asyncio.sleep(60)
    assert attempts == [1, 2, 3, 1, 2, 3]
    assert (await queue.stats("mail")).dead == 1
    await queue.close()


async def test_an_unreadable_dead_letter(make_queue, make_adapter, clock):
    """A message that cannot be decoded is kept and shown as its bytes."""
    queue, adapter = make_queue(), make_adapter()
    await queue.open(adapter)
    queue.subscribe("mail", nothing)
    await queue.start_consuming()
    await adapter.publish("shop/queue/mail", "foreign", b"\xc1")
    await asyncio.sleep(1)
    (letter,) = await queue.dead_letters("mail")
    assert letter.message == b"\xc1"
    assert letter.error.startswith("SerializationError: ")
    await queue.close()


async def test_a_handler_that_kills_its_instance(make_queue, make_adapter, clock):
    """A message that is given back at each stop is not lost, until ten in a row make it poison."""
    seen = []

    async def process(message, context):
        seen.append(context.attempt)
        await asyncio.sleep(1000)

    for _ in range(12):
        queue = make_queue()
        await queue.open(make_adapter())
        if not seen:
            await queue.publish("mail", "x", timeout=10_000)
        queue.subscribe("mail", process)
        await queue.start_consuming()
        await asyncio.sleep(1)
        await queue.drain(0)
        letters = await queue.dead_letters("mail")
        await queue.close()
    assert seen == [1] * 10
    assert letters[0].error.startswith("poison")
