"""Every call of the public interface, cancelled after each of its steps.

A scenario prepares two instances, yields the call that is to be cancelled, gets what became of it,
and checks that it was done or was not, never half, and that the next calls work. What holds for
all of them is checked by `survives`: no task and no error in the log is left behind.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from corekit import App, DeliveryContext, LockNotAcquired, NotOpenError, Plugin, QueueStats
from corekit.testing import VirtualClock, drop_memory, eventually

#: A step is one turn of the loop at first; later ones are so many seconds, to reach what waits.
TURNS = 14
PAUSE = 0.11
MOST = 80


@dataclass
class Outcome:
    """What became of the call."""

    cancelled: bool
    value: Any = None


Scenario = Callable[[App, App], AsyncGenerator[Coroutine[Any, Any, Any], Outcome]]

SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    """Add *function* to the scenarios."""
    SCENARIOS.append(function)
    return function


class Transaction:
    """Commits when it is told to."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Keep *callback* for the commit."""
        self.callbacks.append(callback)

    def commit(self) -> None:
        """Call back."""
        for callback in self.callbacks:
            callback()


async def run(make: Scenario, steps: int, url: str, clock: VirtualClock) -> bool:
    """Cancel the call after *steps* steps; return whether it had ended by itself."""
    a, b = (App("shop", backend=url, clock=clock, instance_id=name) for name in "ab")
    async with a, b:
        before = asyncio.all_tasks()
        generator = make(a, b)
        task = asyncio.ensure_future(await anext(generator))
        for step in range(steps):
            await asyncio.sleep(0 if step < TURNS else PAUSE)
        ended = task.done()
        task.cancel()
        try:
            outcome = Outcome(cancelled=False, value=await task)
        except asyncio.CancelledError:
            outcome = Outcome(cancelled=True)
        with pytest.raises(StopAsyncIteration):
            await generator.asend(outcome)
        await eventually(lambda: asyncio.all_tasks() <= before, within=20)
    assert len(asyncio.all_tasks()) == 1
    return ended


@pytest.mark.parametrize("url", ["memory://cancelled", "memory://cancelled?copy=1"])
@pytest.mark.parametrize("make", SCENARIOS, ids=lambda make: make.__name__)
def test_cancelled(make: Scenario, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Cancelled after any step, a call was done or not; the next works, and nothing is left."""
    survives(make, url, caplog)


def survives(make: Scenario, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Cancel the call of *make* after 0, 1, 2 ... steps, until it ends before that."""
    for steps in range(MOST):
        drop_memory()
        clock = VirtualClock()
        ended = clock.run(run(make, steps, url, clock))
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert not errors, f"after {steps} steps: {errors[0].getMessage()}"
        if ended:
            break
    else:
        pytest.fail("it never ended by itself")
    gc.collect()  # what nobody retrieved is told now
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# -- cache --


@scenario
async def cache_set(a: App, b: App) -> Any:
    """Leave the old value or the new one."""
    await b.cache.set("k", "old")
    outcome = yield a.cache.set("k", "new", ttl=50)
    assert await b.cache.get("k") == "new" or outcome.cancelled
    assert await b.cache.get("k") in {"old", "new"}
    await a.cache.set("k", "newest")
    assert await b.cache.get("k") == "newest"


@scenario
async def cache_set_in_transaction(a: App, b: App) -> Any:
    """Written after the commit, or never."""
    transaction = Transaction()
    outcome = yield a.cache.set("k", "new", transaction=transaction)
    transaction.commit()
    if not outcome.cancelled:
        await asyncio.sleep(0.1)
        assert await b.cache.get("k") == "new"


@scenario
async def cache_reads(a: App, b: App) -> Any:
    """All that only reads."""
    await b.cache.mset({f"k{number}": number for number in range(2500)} | {"o": {"f": 1}})

    async def reads() -> list[Any]:
        return [
            await a.cache.get("k2400"),
            await a.cache.mget(["k2400", "none"]),
            await a.cache.keys("k24*"),
            await a.cache.ttl("k2400"),
            await a.cache.get_value_in_object("o", "f"),
        ]

    outcome = yield reads()
    assert outcome.cancelled or outcome.value[1] == [2400, None]
    assert await a.cache.get("k2400") == 2400


@scenario
async def cache_mset(a: App, b: App) -> Any:
    """Each key has the value or has none; the next mset writes all."""
    values = {f"k{number}": number for number in range(1500)}
    outcome = yield a.cache.mset(values)
    found = await b.cache.mget(values)
    assert set(found) <= {None, *range(1500)}
    assert outcome.cancelled or found == list(range(1500))
    await a.cache.mset(values)
    assert await b.cache.mget(values) == list(range(1500))
    assert await a.cache.mdel(values) == 1500


@scenario
async def cache_changes(a: App, b: App) -> Any:
    """Add, delete, fields and increments: each is done or not."""

    async def changes() -> None:
        await a.cache.add("added", 1)
        await a.cache.increment("count")
        await a.cache.set_value_in_object("o", "f", 1)
        await a.cache.delete_value_in_object("o", "g")
        await a.cache.delete("deleted")
        await a.cache.mdel(["also", "none"])

    await b.cache.mset({"deleted": 1, "also": 1, "count": 5, "o": {"g": 2}})
    outcome = yield changes()
    now = await b.cache.mget(["added", "count", "deleted", "also"])
    assert (await b.cache.get("o")) in ({"g": 2}, {"g": 2, "f": 1}, {"f": 1})
    assert outcome.cancelled or now == [1, 6, None, None]
    assert now[1] in {5, 6}
    assert await a.cache.increment("count") == now[1] + 1
    await a.cache.reset()
    assert await b.cache.keys() == []


@scenario
async def cache_create(a: App, b: App) -> Any:
    """Create a cache and a counter: what was not created can be."""
    a.cache_manager.register_store("second", "memory://second")

    async def create() -> None:
        cache = await a.cache_manager.create_cache("users", store="second", ttl=5)
        await cache.set("k", 1)
        counter = await a.cache_manager.create_counter("visits", store="second")
        await counter.incr("home")
        await a.cache_manager.flush_all()

    yield create()
    cache = await a.cache_manager.create_cache("users", store="second", ttl=5)
    assert a.cache_manager.get_cache("users") is cache
    await cache.set("k", 2)
    assert await cache.get("k") == 2
    counter = await a.cache_manager.create_counter("visits", store="second")
    assert await counter.incr("home") in {1, 2}


def wrapping(coalesce: Any, *, stale: float | None = None, others: int = 0) -> Scenario:
    """Return a scenario of `wrap`."""

    async def wrap(a: App, b: App) -> Any:
        loads = 0

        async def load() -> str:
            nonlocal loads
            loads += 1
            await asyncio.sleep(1)
            return f"value {loads}"

        if stale:
            await a.cache.wrap("k", lambda: "old", 1, stale=stale)
            await asyncio.sleep(1.5)
        app = b if coalesce == "cluster" else a
        waiters = [
            asyncio.create_task(app.cache.wrap("k", load, 60, stale=stale, coalesce=coalesce))
            for _ in range(others)
        ]
        outcome = yield a.cache.wrap("k", load, 60, stale=stale, coalesce=coalesce)
        assert outcome.cancelled or outcome.value in {"old", "value 1"}
        assert {await waiter for waiter in waiters} <= {"old", "value 1"}
        value = await a.cache.wrap("k", load, 60, coalesce=coalesce)
        assert value == "value 1"
        assert await b.cache.wrap("k", load, 60) == "value 1"
        assert loads == 1

    wrap.__name__ = f"wrap_{coalesce}_stale_{stale}_others_{others}"
    return wrap


SCENARIOS += [
    wrapping("process"),
    wrapping("process", others=3),
    wrapping("process", stale=100),
    wrapping("cluster"),
    wrapping("cluster", others=2),
    wrapping("cluster", stale=100, others=1),
]


@scenario
async def wrap_with_condition(a: App, b: App) -> Any:
    """Let the load go on; its condition, too, is part of it."""

    async def cacheable(value: int) -> bool:
        await asyncio.sleep(0.5)
        return value == 7

    async def load() -> int:
        await asyncio.sleep(0.5)
        return 7

    outcome = yield a.cache.wrap_with_condition("k", load, is_cacheable=cacheable, ttl=60)
    assert outcome.cancelled or outcome.value == 7
    await asyncio.sleep(2)
    assert await b.cache.get("k", 7) == 7


# -- pub/sub and sync messages --


class Listener:
    """Hears messages, and counts gaps."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.gaps = 0

    async def handle(self, message: Any) -> None:
        """Take a message in."""
        await asyncio.sleep(0)
        self.heard.append(message)

    def gap(self, channel: str) -> None:
        """Count it."""
        self.gaps += 1


def publishing(manager: str, *, many: int = 1) -> Scenario:
    """Return a scenario of publishing *many* messages."""

    async def publish(a: App, b: App) -> Any:
        listener = Listener()
        await getattr(b, manager).subscribe("news", listener.handle, on_gap=listener.gap)

        async def send() -> None:
            for number in range(many):
                await getattr(a, manager).publish("news", number)

        outcome = yield send()
        await getattr(a, manager).publish("news", "last")
        await eventually(lambda: "last" in listener.heard)
        *before, last = listener.heard
        assert before == list(range(len(before)))
        assert (last, listener.gaps) == ("last", 0)
        assert outcome.cancelled or len(before) == many

    publish.__name__ = f"publish_{many}_on_{manager}"
    return publish


SCENARIOS += [
    publishing("pub_sub_manager"),
    publishing("pub_sub_manager", many=700),
    publishing("sync_message_manager"),
]


@scenario
async def publish_in_transaction(a: App, b: App) -> Any:
    """Sent once after the commit, or never."""
    listener = Listener()
    transaction = Transaction()
    await b.pub_sub_manager.subscribe("news", listener.handle, on_gap=listener.gap)
    outcome = yield a.pub_sub_manager.publish("news", 1, transaction=transaction)
    transaction.commit()
    await asyncio.sleep(1)
    await a.pub_sub_manager.publish("news", 2)
    await eventually(lambda: 2 in listener.heard)
    assert listener.heard in ([1, 2], [2])
    assert outcome.cancelled or listener.heard == [1, 2]
    assert not listener.gaps


@scenario
async def subscribe(a: App, b: App) -> Any:
    """Subscribe or not; subscribing again gives each message once."""
    listener = Listener()
    outcome = yield b.pub_sub_manager.subscribe("news", listener.handle)
    await a.pub_sub_manager.publish("news", 1)
    await asyncio.sleep(1)
    assert listener.heard == [1] or outcome.cancelled
    del listener.heard[:]
    await b.pub_sub_manager.subscribe("news", listener.handle)
    await a.pub_sub_manager.publish("news", 2)
    await eventually(lambda: listener.heard)
    await asyncio.sleep(1)
    assert listener.heard == [2]


@scenario
async def unsubscribe(a: App, b: App) -> Any:
    """Unsubscribed or not; afterwards it can be subscribed again."""
    listener, other = Listener(), Listener()
    await b.pub_sub_manager.subscribe("news", listener.handle)
    await b.pub_sub_manager.subscribe("news", other.handle)
    outcome = yield b.pub_sub_manager.unsubscribe("news", listener.handle)
    await a.pub_sub_manager.publish("news", 1)
    await eventually(lambda: other.heard)
    await asyncio.sleep(1)
    assert not listener.heard or outcome.cancelled
    del listener.heard[:]
    await b.pub_sub_manager.subscribe("news", listener.handle)
    await a.pub_sub_manager.publish("news", 2)
    await eventually(lambda: listener.heard)
    assert (listener.heard, other.heard) == ([2], [1, 2])


# -- event queue --


class Worker:
    """Does jobs."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    async def process(self, message: Any, context: DeliveryContext) -> None:
        """Do a job; it takes a while."""
        await asyncio.sleep(0.3)
        self.done.append(message)


@scenario
async def queue_publish(a: App, b: App) -> Any:
    """Queued or not, never twice, and what is queued is done."""

    async def publish() -> None:
        for number in range(100):
            await a.event_queue.publish("jobs", number, dedup_id=f"{number}")

    outcome = yield publish()
    queued = (await b.event_queue.stats("jobs")).ready
    assert queued == 100 or outcome.cancelled
    await publish()  # a producer that tries again doubles nothing
    worker = Worker()
    b.event_queue.subscribe("jobs", worker.process, concurrency=0)
    await eventually(lambda: len(worker.done) == 100)
    await asyncio.sleep(1)
    assert sorted(worker.done) == list(range(100))
    assert await a.event_queue.stats("jobs") == QueueStats(0, 0, 0, 0)


@scenario
async def queue_publish_in_transaction(a: App, b: App) -> Any:
    """Queued once after the commit, or never."""
    transaction = Transaction()
    outcome = yield a.event_queue.publish("jobs", 1, transaction=transaction)
    transaction.commit()
    await asyncio.sleep(1)
    ready = (await b.event_queue.stats("jobs")).ready
    assert ready == 1 or (outcome.cancelled and ready == 0)


@scenario
async def queue_upkeep(a: App, b: App) -> Any:
    """Statistics, dead letters, requeue and purge: each is done or not."""

    async def fail(message: Any, context: DeliveryContext) -> None:
        raise ValueError(message)

    a.event_queue.subscribe("jobs", fail)
    first = await a.event_queue.publish("jobs", 1)
    await a.event_queue.publish("jobs", 2)
    await asyncio.sleep(1)
    a.event_queue.unsubscribe("jobs")

    async def upkeep() -> None:
        assert (await a.event_queue.stats("jobs")).dead == 2
        assert [letter.message for letter in await a.event_queue.dead_letters("jobs")] == [1, 2]
        await a.event_queue.requeue("jobs", first)
        await a.event_queue.purge("jobs")

    outcome = yield upkeep()
    stats = await b.event_queue.stats("jobs")
    assert (stats.ready, stats.dead) in {(0, 2), (1, 1), (0, 0)}
    assert (stats.ready, stats.dead) == (0, 0) or outcome.cancelled
    assert await a.event_queue.purge("jobs") == stats.ready + stats.dead


# -- locks --


def free(app: App) -> None:
    """Check that nobody waits for a lock of the hub."""
    hub = app.lock_manager._session.adapter._hub  # type: ignore[union-attr]
    assert "waiting=0" in repr(hub)


def acquiring(release_after: int | None, what: str) -> Scenario:
    """Return a scenario of taking a key that another holds for some turns (None: nobody does)."""

    async def acquire(a: App, b: App) -> Any:
        held = None
        if release_after is not None:
            held = await b.lock_manager.acquire("k", 1000)

            async def release() -> None:
                for _ in range(release_after):
                    await asyncio.sleep(0)
                await held.release()

            task = asyncio.create_task(release())
        ran = 0

        async def work() -> None:
            nonlocal ran
            ran += 1
            await asyncio.sleep(0.3)

        async def block() -> None:
            async with a.lock_manager.lock("k", 1):
                await work()

        manager = a.lock_manager
        outcome = yield {
            "acquire": lambda: manager.acquire("k", 1000),
            "try_acquire": lambda: manager.try_acquire("k", 2, ttl=1000),
            "run_exclusive": lambda: manager.run_exclusive("k", work, 1),
            "lock": block,
        }[what]()
        if held is not None:
            await task
        await asyncio.sleep(0)
        free(a)
        if outcome.value is not None:
            assert outcome.value.held
            with pytest.raises(LockNotAcquired):
                await b.lock_manager.try_acquire("k")
            await outcome.value.release()
        lease = await b.lock_manager.try_acquire("k")
        assert held is None or lease.token > held.token
        await lease.release()
        async with a.lock_manager.lock("k", wait=0):
            pass
        assert ran == 1 or outcome.cancelled or what.endswith("acquire")

    acquire.__name__ = f"{what}_released_after_{release_after}"
    return acquire


SCENARIOS += [
    acquiring(turns, what)
    for turns in (None, 0, 1, 2, 3, 6)
    for what in ("acquire", "try_acquire", "run_exclusive", "lock")
]


@scenario
async def lease_extend_and_release(a: App, b: App) -> Any:
    """Leave the lease extended or not, released or held; never in between."""
    lease = await a.lock_manager.acquire("k", 10)
    queue = asyncio.create_task(b.lock_manager.acquire("k", 10))
    await asyncio.sleep(0)

    async def use() -> None:
        await asyncio.gather(lease.extend(20), lease.extend(30))
        await asyncio.sleep(0.1)
        await lease.release()

    outcome = yield use()
    assert outcome.cancelled or not lease.held
    if lease.held:
        assert not queue.done()
        await lease.extend(5)
        await lease.release()
    other = await queue
    assert other.token > lease.token
    await other.release()
    free(a)


# -- the App --


class Slow(Plugin):
    """Takes its time in each hook."""

    name = "slow"

    def __init__(self) -> None:
        self.loaded = 0

    async def before_load(self) -> None:
        """Take a while."""
        await asyncio.sleep(0.2)

    async def load(self) -> None:
        """Take a while."""
        self.loaded += 1
        await self.app.cache.set("loaded", True)
        await asyncio.sleep(0.2)

    async def before_stop(self) -> None:
        """Take a while."""
        self.loaded -= 1
        await self.app.cache.set("stopped", True)
        await asyncio.sleep(0.2)


def third(a: App) -> tuple[App, Slow, Worker]:
    """Return one more instance, with something of everything."""
    plugin, worker = Slow(), Worker()
    app = App(
        "shop", backend="memory://cancelled", plugins=[plugin], clock=a._adapter_context.clock
    )
    app.event_queue.subscribe("jobs", worker.process, concurrency=2)
    return app, plugin, worker


@scenario
async def app_start(a: App, b: App) -> Any:
    """Leave the App started, or closed so that a second start works."""
    app, plugin, worker = third(a)
    await a.event_queue.publish("jobs", 1)
    outcome = yield app.start()
    state = repr(app).split()[3]
    assert state == ("closed" if outcome.cancelled else "open")
    if state == "closed":
        plugin.loaded = 0  # a load that was cut short has no before_stop
        with pytest.raises(NotOpenError):
            await app.cache.get("k")
    await app.start()
    await eventually(lambda: worker.done == [1])
    await app.stop()
    assert repr(app).split()[3] == "closed"


@scenario
async def app_stop(a: App, b: App) -> Any:
    """Let the stop go on; another call waits for it, and jobs are done or given back."""
    app, plugin, worker = third(a)
    for number in range(5):
        await a.event_queue.publish("jobs", number)
    await app.start()
    lease = await app.lock_manager.acquire("k", 1000)
    await asyncio.sleep(0.1)
    yield app.stop(0.25)
    await app.stop()
    assert repr(app).split()[3] == "closed"
    assert plugin.loaded == 0
    assert not lease.held
    async with b.lock_manager.lock("k", wait=0):
        pass
    stats = await b.event_queue.stats("jobs")
    assert stats.in_flight == 0
    assert stats.ready + len(worker.done) == 5
    async with app:
        await eventually(lambda: len(worker.done) == 5)
    assert sorted(worker.done) == list(range(5))
