"""Several instances of one application in one process: what they do together."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from corekit import App, DeliveryContext, LockLost, NotOpenError, Plugin, QueueStats
from corekit.testing import VirtualClock, eventually

URL = "memory://cluster"
EMPTY = QueueStats(0, 0, 0, 0)


class Reports(Plugin):
    """Writes down the sync messages that it gets."""

    name = "reports"

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.resyncs = 0

    async def handle_sync_message(self, message: tuple[str, int]) -> None:
        """Take note, after a while."""
        await asyncio.sleep(0)
        self.heard.append(message)

    async def resync(self) -> None:
        """Count: nothing may be missed here."""
        self.resyncs += 1


class Instance:
    """One instance, which works with the others."""

    def __init__(self, number: int, **settings: Any) -> None:
        self.plugin = Reports()
        self.name = f"i{number}"
        self.app = App("shop", instance_id=self.name, plugins=[self.plugin], **settings)
        self.sent = itertools.count()

    async def tell(self) -> None:
        """Send the next sync message."""
        await self.plugin.send_sync_message((self.name, next(self.sent)))


class Ledger:
    """What must hold whatever the instances do, checked while they do it. For all threads."""

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.tokens: dict[str, int] = defaultdict(int)
        self.done: Counter[str] = Counter()
        self.sections = 0

    @asynccontextmanager
    async def exclusive(self, key: str, token: int) -> AsyncIterator[None]:
        """Be inside *key*, alone, with the greatest token yet."""
        assert not self.inside[key], f"two are inside {key}"
        assert token > self.tokens[key], f"{token} after {self.tokens[key]}"
        self.inside[key] += 1
        self.tokens[key] = token
        try:
            yield
        finally:
            self.inside[key] -= 1
            self.sections += 1


def in_order(heard: list[tuple[str, int]], sent: dict[str, int], me: str) -> None:
    """Check that *heard* is all that the others *sent*, each once and in its order."""
    by_sender: dict[str, list[int]] = defaultdict(list)
    for sender, number in heard:
        by_sender[sender].append(number)
    assert me not in by_sender
    assert dict(by_sender) == {
        sender: list(range(count)) for sender, count in sent.items() if count and sender != me
    }


@pytest.mark.parametrize("seed", range(12))
async def test_random_work(clock: VirtualClock, seed: int) -> None:
    """Jobs are done once, locks exclude, sync messages come once and in order, counts add up."""
    choice = random.Random(seed)  # noqa: S311 - a schedule
    ledger = Ledger()
    instances = [Instance(number, backend=URL, clock=clock) for number in range(4)]
    published: set[str] = set()
    failing: Counter[str] = Counter()
    counted = 0

    async def process(message: str, context: DeliveryContext) -> None:
        await asyncio.sleep(choice.random() * 0.2)
        if context.attempt <= failing[message]:
            raise ValueError(message)
        ledger.done[message] += 1

    async def step(instance: Instance) -> None:
        nonlocal counted
        what = choice.randrange(6)
        app = instance.app
        if what == 0:
            job = f"job-{len(published)}"
            published.add(job)
            failing[job] = choice.choice([0, 0, 0, 1, 2])
            delay = choice.choice([0, 0, 0.3])
            await app.event_queue.publish("jobs", job, max_retries=2, backoff=0.1, delay=delay)
        elif what == 1:
            await instance.tell()
        elif what == 2:
            key = choice.choice("abc")
            lock = app.lock_manager.lock(key, ttl=1)
            async with lock as lease, ledger.exclusive(key, lease.token):
                await asyncio.sleep(choice.random() * 2)
        elif what == 3:
            counted += 1
            await app.cache.increment("count")
        elif what == 4:
            counted += 1
            key = choice.choice("ab")
            lease = await app.lock_manager.acquire(key, ttl=5)
            async with lease, ledger.exclusive(key, lease.token):
                value = await app.cache.get("slow", 0)
                await asyncio.sleep(choice.random())
                await app.cache.increment("count")
                assert isinstance(value, int)
        else:
            await asyncio.sleep(choice.random())

    async def work(instance: Instance) -> None:
        for _ in range(40):
            await step(instance)

    for instance in instances:
        instance.app.event_queue.subscribe("jobs", process, concurrency=choice.randint(0, 3))
        await instance.app.start()
    async with asyncio.TaskGroup() as group:
        for instance in instances:
            for _ in range(2):
                group.create_task(work(instance))
    await eventually(lambda: set(ledger.done) == published, within=60)
    first = instances[0].app
    assert await first.cache.get("count") == counted
    assert set(ledger.done.values()) == {1}
    assert await first.event_queue.stats("jobs") == EMPTY
    sent = {instance.name: next(instance.sent) for instance in instances}
    await eventually(
        lambda: all(
            len(instance.plugin.heard) == sum(sent.values()) - sent[instance.name]
            for instance in instances
        )
    )
    for instance in instances:
        in_order(instance.plugin.heard, sent, instance.name)
        assert instance.plugin.resyncs == 0
        await instance.app.stop()


@pytest.mark.parametrize("seed", range(12))
async def test_instances_come_and_go(clock: VirtualClock, seed: int) -> None:
    """While instances stop and start at random, no job is lost, none is done by two at once."""
    choice = random.Random(seed)  # noqa: S311 - a schedule
    ledger = Ledger()
    cancelled = 0
    instances = [Instance(number, backend=URL, clock=clock, grace=0.1) for number in range(3)]

    async def process(message: str, context: DeliveryContext) -> None:
        nonlocal cancelled
        assert context.attempt == 1  # what a stop cancelled is no failed attempt
        async with ledger.exclusive(f"job {message}", ledger.tokens[f"job {message}"] + 1):
            try:
                await asyncio.sleep(choice.random() * 0.5)
            except asyncio.CancelledError:
                cancelled += 1
                raise
        ledger.done[message] += 1

    async def restart(instance: Instance) -> None:
        # Fewer than ten times: then a message that is interrupted each time would be poison.
        for _ in range(8):
            await asyncio.sleep(choice.random() * 2)
            await instance.app.stop()
            await asyncio.sleep(choice.random())
            await instance.app.start()

    async def locks(instance: Instance) -> None:
        for _ in range(30):
            try:
                lock = instance.app.lock_manager.lock("once", ttl=1)
                async with lock as lease, ledger.exclusive("once", lease.token):
                    await asyncio.sleep(choice.random() * 0.3)
            except (LockLost, NotOpenError):
                await asyncio.sleep(0.2)

    producer = App("shop", backend=URL, clock=clock, worker_mode="-")
    async with producer:
        for instance in instances:
            instance.app.event_queue.subscribe("jobs", process, concurrency=2)
            await instance.app.start()
        async with asyncio.TaskGroup() as group:
            for instance in instances:
                group.create_task(restart(instance))
                group.create_task(locks(instance))
            for number in range(100):
                await producer.event_queue.publish("jobs", f"{number}")
                await asyncio.sleep(choice.random() * 0.1)
        await eventually(lambda: len(ledger.done) == 100, within=300)
        assert set(ledger.done.values()) == {1}
        assert await producer.event_queue.stats("jobs") == EMPTY
        for instance in instances:
            await instance.app.stop()
        assert cancelled, "no job was ever interrupted: the test shows nothing"
        assert ledger.sections > 30


@pytest.mark.parametrize("copy", [0, 1])
async def test_caches_are_coherent(clock: VirtualClock, copy: int) -> None:
    """What one instance has written, set or removed, all others read at once; no load undoes it."""
    choice = random.Random(copy)  # noqa: S311 - a schedule
    url = f"memory://cluster?copy={copy}"
    apps = [App("shop", backend=url, clock=clock) for _ in range(3)]
    for app in apps:
        await app.start()
    newest: dict[str, int] = dict.fromkeys("ab", 0)
    numbers = itertools.count(1)

    async def load(key: str) -> int:
        value = newest[key]
        await asyncio.sleep(choice.random())
        return value

    async def write(app: App) -> None:
        for _ in range(100):
            key = choice.choice("ab")
            newest[key] = next(numbers)
            if choice.random() < 0.5:
                await app.cache.set(key, newest[key])
            else:
                await app.cache.delete(key)
            await asyncio.sleep(choice.random())

    async def read(app: App) -> None:
        for _ in range(200):
            key = choice.choice("ab")
            value = await app.cache.get(key)
            assert value is None or value == newest[key]
            await app.cache.wrap(
                key, lambda key=key: load(key), coalesce=choice.choice(["process", "cluster"])
            )
            await asyncio.sleep(choice.random() * 0.3)

    async with asyncio.TaskGroup() as group:
        group.create_task(write(apps[0]))
        for app in apps:
            group.create_task(read(app))
            group.create_task(read(app))
    for app in apps:
        await app.stop()


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    """Change threads as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Threads:
    """One App in each of several threads, in a loop of its own; all go through the same phases."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count)
        self._failures: list[BaseException] = []

    async def together(self) -> None:
        """Wait until all threads have come so far."""
        await asyncio.to_thread(self._barrier.wait, 20)

    def run(self, main: Callable[[int], Awaitable[None]]) -> None:
        """Run *main* with its number in each thread; raise the first error."""

        async def guarded(number: int) -> None:
            try:
                await main(number)
            except BaseException as error:
                self._failures.append(error)
                self._barrier.abort()
                raise

        def work(number: int) -> None:
            try:
                asyncio.run(guarded(number))
            except BaseException as error:
                self._failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failures:
            raise self._failures[0]


@pytest.mark.usefixtures("_hasty_threads")
@pytest.mark.parametrize("copy", [0, 1])
def test_threads_share_a_cache(copy: int) -> None:
    """Increments, fields and counters of Apps in several threads add up."""
    threads = Threads(4)

    async def main(number: int) -> None:
        async with App("shop", backend=f"memory://cluster?copy={copy}") as app:
            counter = await app.cache_manager.create_counter("visits")
            await threads.together()
            for turn in range(400):
                await app.cache.increment("count")
                await counter.incr("count")
                await app.cache.set_value_in_object("fields", (number, turn % 20), turn)
                await app.cache.set(f"key-{turn % 3000}", turn, ttl=0.001)
                await app.cache.delete(f"key-{turn * 7 % 3000}")
                if turn % 40 == 0:
                    await app.cache.keys("key-*")
                assert await app.cache.wrap("constant", lambda: 7) == 7
            await threads.together()
            assert await app.cache.get("count") == 1600
            assert await counter.get("count") == 1600
            fields = await app.cache.get("fields")
            assert {field: fields[field] for field in fields if field[0] == number} == {
                (number, rest): 380 + rest for rest in range(20)
            }
            await threads.together()

    threads.run(main)


@pytest.mark.usefixtures("_hasty_threads")
def test_threads_work_together() -> None:
    """Over several threads, too, jobs are done once, locks exclude, messages keep their order."""
    threads = Threads(4)
    ledger = Ledger()
    instances = [Instance(number, backend=URL) for number in range(4)]
    doing = threading.Lock()

    async def process(message: str, context: DeliveryContext) -> None:
        with doing:
            ledger.done[message] += 1
        await asyncio.sleep(0)

    async def main(number: int) -> None:
        instance = instances[number]
        instance.app.event_queue.subscribe("jobs", process, concurrency=2)
        async with instance.app as app:
            await threads.together()
            for turn in range(150):
                await app.event_queue.publish("jobs", f"{number}-{turn}")
                await instance.tell()
                lock = app.lock_manager.lock("once")
                async with lock as lease, ledger.exclusive("once", lease.token):
                    await asyncio.sleep(0)
                if turn % 10 == number:
                    # Gives up at the very moment at which it may be given the lock.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0), app.lock_manager.lock("once"):
                            pass
            await eventually(lambda: len(ledger.done) == 600, within=20)
            await eventually(lambda: len(instance.plugin.heard) >= 450, within=20)
            await threads.together()
            in_order(instance.plugin.heard, {each.name: 150 for each in instances}, instance.name)
            assert instance.plugin.resyncs == 0
            assert set(ledger.done.values()) == {1}
            assert await app.event_queue.stats("jobs") == EMPTY
            await threads.together()

    threads.run(main)
    assert ledger.sections == 600
