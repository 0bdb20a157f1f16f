"""Pub/sub through the public API: what publishing and receiving cost, and what a hub carries.

"publish" ends in an adapter that drops everything, "receive" begins with envelopes in batches of
200, as a backend brings them: what a backend adds to their sum is its own. The rest goes through
memory, from `publish` to the handler's call. Payloads are of 256 bytes; the best round counts.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from corekit.adapters import Guarantee, MessageReceiver
from corekit.clock import SYSTEM_CLOCK
from corekit.managers.context import ManagerContext
from corekit.managers.pub_sub import PubSubManager
from corekit.memory.pub_sub import Exchange, MemoryPubSub
from corekit.serialization import Serializer
from corekit.transactions import AfterCommit

MESSAGES = 50_000
ROUNDS = 5
BATCH = 200
MANY = 1_000_000

TEXT = "x" * 256
RECORD = {"id": 12345, "type": "updated", "tags": ["a", "b"], "body": "x" * 200}


class Sink:
    """Keeps nothing, or all, of what is published."""

    guarantees: frozenset[Guarantee] = frozenset()

    def __init__(self) -> None:
        self.receiver: MessageReceiver
        self.kept: list[bytes] | None = None

    async def open(self, receiver: MessageReceiver) -> None:
        self.receiver = receiver

    async def close(self) -> None:
        pass

    async def publish(self, channel: str, payload: bytes) -> None:
        if self.kept is not None:
            self.kept.append(payload)

    async def subscribe(self, channel: str) -> None:
        pass

    async def unsubscribe(self, channel: str) -> None:
        pass


class Counter:
    """A handler that counts, and can be waited for."""

    def __init__(self) -> None:
        self.left = 0
        self.done = asyncio.Event()

    def expect(self, count: int) -> None:
        self.left = count
        self.done.clear()

    async def __call__(self, message: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.done.set()


class Form(NamedTuple):
    """What is measured, and what must be there before."""

    run: Callable[[], Awaitable[None]]
    prepare: Callable[[], Awaitable[None]] | None = None


def manager(instance: str) -> PubSubManager:
    """Return one more instance, not opened."""
    context = ManagerContext("bench", instance, SYSTEM_CLOCK, Serializer(), AfterCommit())
    return PubSubManager(context)


def lost(_channel: str) -> None:
    """End the run: what was lost would count as fast."""
    raise SystemExit("messages were lost")


async def pair(handlers: int = 1) -> tuple[PubSubManager, list[Counter]]:
    """Return a publisher, and the handlers of another instance on the same hub."""
    exchange = Exchange()
    publisher, subscriber = manager("a"), manager("b")
    await publisher.open(MemoryPubSub(exchange))
    await subscriber.open(MemoryPubSub(exchange))
    counters = [Counter() for _ in range(handlers)]
    for counter in counters:
        await subscriber.subscribe("channel", counter, on_gap=lost)
    return publisher, counters


async def send(publisher: PubSubManager, counters: Sequence[Counter], message: Any) -> None:
    """Publish MESSAGES times and wait until every handler has had all of them."""
    for counter in counters:
        counter.expect(MESSAGES)
    for _ in range(MESSAGES):
        await publisher.publish("channel", message)
    for counter in counters:
        await counter.done.wait()


async def through_memory(message: Any, handlers: int = 1) -> Form:
    """From `publish` to the handlers' calls."""
    publisher, counters = await pair(handlers)
    return Form(lambda: send(publisher, counters, message))


async def publishing() -> Form:
    """From `publish` to the adapter."""
    publisher = manager("a")
    await publisher.open(Sink())

    async def run() -> None:
        for _ in range(MESSAGES):
            await publisher.publish("channel", TEXT)

    return Form(run)


async def receiving() -> Form:
    """From the adapter to the handler's call."""
    subscriber, arriving, counter = manager("b"), Sink(), Counter()
    await subscriber.open(arriving)
    await subscriber.subscribe("channel", counter, on_gap=lost)
    envelopes: list[bytes] = []

    async def prepare() -> None:
        # A new publisher each time: numbers that were there before would be dropped.
        publisher, sink = manager("a"), Sink()
        await publisher.open(sink)
        envelopes.clear()
        sink.kept = envelopes
        for _ in range(MESSAGES):
            await publisher.publish("channel", TEXT)

    async def run() -> None:
        counter.expect(MESSAGES)
        for start in range(0, MESSAGES, BATCH):
            arriving.receiver.messages("bench/channel/channel", envelopes[start : start + BATCH])
            await asyncio.sleep(0)
        await counter.done.wait()

    return Form(run, prepare)


async def best(form: Form) -> float:
    """Return the seconds of the fastest of ROUNDS."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        if form.prepare is not None:
            await form.prepare()
        gc.collect()
        start = time.perf_counter()
        await form.run()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


async def growth() -> int:
    """Return by how many bytes the process's own memory grew after MANY messages."""
    publisher, counters = await pair()
    await send(publisher, counters, TEXT)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(MANY // MESSAGES):
        await send(publisher, counters, TEXT)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


async def main() -> None:
    """Print the table."""
    forms = {
        "publish": await publishing(),
        "receive": await receiving(),
        "memory, text": await through_memory(TEXT),
        "memory, dict": await through_memory(RECORD),
        "memory, text, 4 handlers": await through_memory(TEXT, handlers=4),
    }
    print(f"{'':28}{'a second':>12}{'us':>8}")
    for name, form in forms.items():
        each = await best(form) / MESSAGES
        print(f"{name:28}{1 / each:12,.0f}{each * 1e6:8.2f}")
    print(f"\n{MANY:,} messages passed through memory: {await growth():+,} bytes")


if __name__ == "__main__":
    asyncio.run(main())
