"""The memory event queue, from publish to acknowledged: rates, microseconds, and memory.

Every form is measured several times, in turns, so that a slower moment of the machine meets all of
them alike; told are the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable

from corekit import App, DeliveryContext

IN_FLIGHT = 64
BODY = {"user": 17, "text": "x" * 230}
URL = "memory://benchmark?max_messages=10000000"

Form = Callable[[int], Awaitable[float]]


class Counter:
    """Handlers that count what they handled, and tell when it is enough."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.done = 0
        self.all_done = asyncio.Event()

    async def quick(self, _message: object, _context: DeliveryContext) -> None:
        """Return at once."""
        self.done += 1
        if self.done == self.enough:
            self.all_done.set()

    async def suspending(self, message: object, context: DeliveryContext) -> None:
        """Let others run once, as a handler does that asks a database."""
        await asyncio.sleep(0)
        await self.quick(message, context)


async def publish(app: App, count: int) -> None:
    """Publish *count* messages with `IN_FLIGHT` publishes at a time."""
    left = count

    async def some() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await app.event_queue.publish("work", BODY)

    await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))


def end_to_end(concurrency: int, *, suspends: bool = False, idle: bool = False) -> Form:
    """Return the way from publish to acknowledged, with a consumer that is there already."""

    async def run(count: int) -> float:
        async with App("benchmark", event_queue=URL) as app:
            counter = Counter(count)
            app.event_queue.subscribe(
                "work",
                counter.suspending if suspends else counter.quick,
                concurrency=concurrency,
                idle=(lambda: True) if idle else None,
            )
            begin = time.perf_counter()
            await publish(app, count)
            await counter.all_done.wait()
            return time.perf_counter() - begin

    return run


async def publishing(count: int) -> float:
    """Publish only."""
    async with App("benchmark", event_queue=URL) as app:
        begin = time.perf_counter()
        await publish(app, count)
        taken = time.perf_counter() - begin
        await app.event_queue.purge("work")
        return taken


async def consuming(count: int) -> float:
    """Consume what is there already."""
    async with App("benchmark", event_queue=URL) as app:
        await publish(app, count)
        counter = Counter(count)
        begin = time.perf_counter()
        app.event_queue.subscribe("work", counter.quick, concurrency=64)
        await counter.all_done.wait()
        return time.perf_counter() - begin


async def bare(count: int) -> float:
    """Pass messages through an asyncio.Queue, which promises nothing."""
    queue: asyncio.Queue[object] = asyncio.Queue(1000)
    left = count

    async def some() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await queue.put(BODY)

    async def consume() -> None:
        for _ in range(count):
            await queue.get()

    begin = time.perf_counter()
    await asyncio.gather(consume(), *(some() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - begin


FORMS: dict[str, Form] = {
    "asyncio.Queue, nothing else": bare,
    "publish to acknowledged, concurrency 1": end_to_end(1),
    "publish to acknowledged, concurrency 64": end_to_end(64),
    "... with idle": end_to_end(64, idle=True),
    "... handlers that suspend, concurrency 1": end_to_end(1, suspends=True),
    "... handlers that suspend, concurrency 64": end_to_end(64, suspends=True),
    "publish only": publishing,
    "consume only": consuming,
}


async def rates(count: int, rounds: int) -> None:
    """Print what every form does in a second."""
    taken: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(rounds):
        for name, form in FORMS.items():
            gc.collect()
            taken[name].append(await form(count) / count)
    print(f"{'':44}{'messages/s':>12}{'us each':>9}{'best':>7}{'worst':>7}")
    for name, times in taken.items():
        median = statistics.median(times)
        print(
            f"{name:44}{1 / median:>12,.0f}{median * 1e6:>9.1f}"
            f"{min(times) * 1e6:>7.1f}{max(times) * 1e6:>7.1f}"
        )


async def depth(count: int, deep: int) -> None:
    """Print how the rate changes when many messages wait on the channel."""
    async with App("benchmark", event_queue=URL) as app:
        rate: dict[int, list[float]] = {}
        for waiting in (0, deep, 0, deep):
            await publish(app, waiting)
            counter = Counter(count)
            begin = time.perf_counter()
            app.event_queue.subscribe("work", counter.quick, concurrency=64)
            await publish(app, count)
            await counter.all_done.wait()
            rate.setdefault(waiting, []).append(count / (time.perf_counter() - begin))
            app.event_queue.unsubscribe("work")
            await asyncio.sleep(0.1)
            await app.event_queue.purge("work")
        shallow, full = (max(rate[waiting]) for waiting in (0, deep))
        print(
            f"\nwith {deep:,} messages waiting: {full:,.0f}/s, with none: {shallow:,.0f}/s, ",
            end="",
        )
        print(f"ratio {full / shallow:.2f}")


async def memory(count: int) -> None:
    """Print what stays allocated while *count* messages pass."""
    async with App("benchmark", event_queue=URL) as app:
        counter = Counter(-1)
        app.event_queue.subscribe("work", counter.quick, concurrency=64)
        tracemalloc.start()
        print("\nallocated after so many messages, in KiB:")
        for part in range(5):
            await publish(app, count // 5)
            while counter.done < (part + 1) * (count // 5):  # noqa: ASYNC110 - seldom enough
                await asyncio.sleep(0.01)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
            print(f"{counter.done:>12,}: {kept / 1024:,.0f}")
        tracemalloc.stop()
    print(
        f"peak of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB"
    )


async def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="messages per measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--deep", type=int, default=1_000_000, help="messages that wait")
    parser.add_argument("--churn", type=int, default=1_000_000, help="messages that pass")
    arguments = parser.parse_args()
    await rates(arguments.count, arguments.rounds)
    if arguments.deep:
        await depth(arguments.count, arguments.deep)
    if arguments.churn:
        await memory(arguments.churn)


if __name__ == "__main__":
    asyncio.run(main())
