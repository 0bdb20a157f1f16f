"""Sentences of the design which the tests of single parts do not prove, on whole Apps."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from corekit import App, DeliveryContext, LockLost, NotOpenError, Plugin, QueueFull, QueueStats
from corekit.testing import VirtualClock, eventually


class Jobs:
    """Handles messages and writes them down."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.done: list[Any] = []
        self.contexts: list[DeliveryContext] = []

    async def process(self, message: Any, context: DeliveryContext) -> None:
        """Do a job."""
        self.contexts.append(context)
        await asyncio.sleep(self.seconds)
        self.done.append(message)


async def test_app_reads_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`App()` reads no variable."""
    monkeypatch.setenv("COREKIT_BACKEND", "nonsense://nowhere")
    monkeypatch.setenv("COREKIT_WORKER_MODE", "-")
    async with App("shop") as app:
        assert app.serving()
        await app.cache.set("k", 1)


async def test_hubs_are_named() -> None:
    """`memory://NAME` is shared by every App that names it; without NAME the app's name is used."""
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message)

    async with (
        App("shop") as unnamed,
        App("shop", backend="memory://shop") as named,
        App("shop", backend="memory://elsewhere") as elsewhere,
    ):
        await unnamed.cache.set("k", 1)
        assert [await each.cache.get("k") for each in (named, elsewhere)] == [1, None]
        await named.pub_sub_manager.subscribe("c", hear)
        await elsewhere.pub_sub_manager.publish("c", "far")
        await unnamed.pub_sub_manager.publish("c", "near")
        await eventually(lambda: heard)
        assert heard == ["near"]
        lease = await unnamed.lock_manager.acquire("k")
        async with elsewhere.lock_manager.lock("k", wait=0):
            await lease.release()


async def test_applications_share_a_queue(clock: VirtualClock) -> None:
    """Shared: the name is not prefixed by the app's, for several applications on one queue."""
    url, jobs = "memory://site", Jobs()
    async with (
        App("shop", backend=url, clock=clock) as shop,
        App("bank", backend=url, clock=clock) as bank,
    ):
        bank.event_queue.subscribe("mail", jobs.process, shared=True)
        await shop.event_queue.publish("mail", "own")
        id_ = await shop.event_queue.publish("mail", "shared", shared=True)
        await eventually(lambda: jobs.done == ["shared"])
        assert jobs.contexts[0].id == id_
        await asyncio.sleep(1)
        assert await shop.event_queue.stats("mail") == QueueStats(1, 0, 0, 0)
        assert await bank.event_queue.stats("mail") == QueueStats(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("mode", "consumed"),
    [
        (None, {"plain", "a", "b"}),
        ("!", {"plain"}),
        ("*", {"plain", "a", "b"}),
        ("a", {"plain", "a"}),
        ("!, b", {"plain", "b"}),
        ("*,!", {"plain", "a", "b"}),
        ("-", set()),
    ],
)
async def test_worker_modes(clock: VirtualClock, mode: str | None, consumed: set[str]) -> None:
    """Consume only where `app.serving(topic)`; without topic everywhere except in mode `-`."""
    jobs = Jobs()
    async with App("shop", clock=clock, worker_mode=mode) as app:
        for topic in (None, "a", "b"):
            app.event_queue.subscribe(topic or "plain", jobs.process, topic=topic)
            await app.event_queue.publish(topic or "plain", topic or "plain")
            if topic:
                assert app.serving(topic) == (topic in consumed)
        await asyncio.sleep(1)
        assert set(jobs.done) == consumed


class Loads(Plugin):
    """Publishes and waits while it loads."""

    def __init__(self, name: str, jobs: Jobs) -> None:
        self.name = name  # type: ignore[misc]
        self.jobs = jobs

    async def before_load(self) -> None:
        """Subscribe, the first only."""
        if self.name == "a":
            self.app.event_queue.subscribe("jobs", self.jobs.process)

    async def load(self) -> None:
        """Publish, then take a while: nothing may be consumed meanwhile."""
        await self.app.event_queue.publish("jobs", self.name)
        await asyncio.sleep(1)
        assert not self.jobs.done

    async def before_stop(self) -> None:
        """Use everything: it is open still, and the queue has drained."""
        assert self.jobs.done[-1] == "last"
        await self.app.cache.set("stopped", 1)
        await self.app.pub_sub_manager.publish("c", 1)
        async with self.app.lock_manager.lock("k"):
            await self.app.event_queue.publish("later", 1)


async def test_order_of_start_and_stop(clock: VirtualClock) -> None:
    """`load` may publish, only consuming waits; at stop the queue drains while all else is open."""
    jobs = Jobs(seconds=0.5)
    app = App("shop", clock=clock, plugins=[Loads("a", jobs), Loads("b", jobs)])
    await app.start()
    await eventually(lambda: jobs.done == ["a", "b"])
    await app.event_queue.publish("jobs", "last")
    await eventually(lambda: len(jobs.contexts) == 3)
    await app.stop()
    assert jobs.done == ["a", "b", "last"]


async def test_handlers_use_everything_while_the_queue_drains(clock: VirtualClock) -> None:
    """The queue drains first, while everything its handlers use is still open."""
    used: list[Any] = []

    async def process(message: Any, context: DeliveryContext) -> None:
        await asyncio.sleep(1)
        used.append(await app.cache.wrap("k", lambda: 1))
        async with app.lock_manager.lock("k", wait=1):
            await app.pub_sub_manager.publish("c", 1)
        await app.sync_message_manager.publish("c", 1)
        used.append(await app.event_queue.publish("later", 1))

    app = App("shop", clock=clock)
    app.event_queue.subscribe("jobs", process)
    await app.start()
    await app.event_queue.publish("jobs", 1)
    await asyncio.sleep(0.5)
    await app.stop()
    assert len(used) == 2


class State(Plugin):
    """Is slow to apply sync messages."""

    name = "state"

    def __init__(self) -> None:
        self.applied: list[int] = []
        self.resyncs: list[int] = []
        self.go = asyncio.Event()

    async def handle_sync_message(self, message: int) -> None:
        """Apply, once it may."""
        await self.go.wait()
        self.applied.append(message)

    async def resync(self) -> None:
        """Load anew."""
        self.resyncs.append(len(self.applied))


async def test_a_plugin_that_missed_messages_reloads(clock: VirtualClock) -> None:
    """`resync()` is called after a gap of its sync channel, so that nobody stays stale."""
    mine, theirs = State(), State()
    async with App("shop", clock=clock, plugins=[mine]), App("shop", clock=clock, plugins=[theirs]):
        for number in range(3000):
            await mine.send_sync_message(number)
        theirs.go.set()
        await eventually(lambda: theirs.applied and theirs.applied[-1] == 2999)
        assert theirs.applied == sorted(set(theirs.applied))
        assert 1000 <= len(theirs.applied) < 3000
        assert theirs.resyncs == [1]  # after the one that was being handled, before the rest
        assert mine.applied == []


async def test_requeued_letters_keep_their_options(clock: VirtualClock) -> None:
    """Requeue: attempts start again, options kept; the id stays the same."""
    attempts: list[int] = []

    async def fail(message: Any, context: DeliveryContext) -> None:
        attempts.append(context.attempt)
        assert context.deadline == pytest.approx(clock.time() + 7)
        raise ValueError(message)

    async with App("shop", clock=clock) as app:
        app.event_queue.subscribe("jobs", fail)
        id_ = await app.event_queue.publish("jobs", "x", timeout=7, max_retries=2, backoff=1)
        await asyncio.sleep(10)
        (letter,) = await app.event_queue.dead_letters("jobs")
        assert (letter.id, letter.error, letter.attempts) == (id_, "ValueError: x", 3)
        await app.event_queue.requeue("jobs", id_)
        await asyncio.sleep(10)
        assert attempts == [1, 2, 3] * 2
        assert (await app.event_queue.stats("jobs")).dead == 1


async def test_deep_queues_are_left_in_the_backend(clock: VirtualClock) -> None:
    """Memory stays bounded however deep the queue is: only what can start is taken."""
    jobs = Jobs(seconds=10)
    async with App("shop", clock=clock) as app:
        for number in range(20_000):
            await app.event_queue.publish("jobs", number)
        app.event_queue.subscribe("jobs", jobs.process, concurrency=5)
        await asyncio.sleep(25)
        stats = await app.event_queue.stats("jobs")
        assert stats.in_flight <= 5
        assert stats.ready + stats.in_flight + len(jobs.done) == 20_000
        await app.stop(grace=0)


async def test_queues_have_a_bound() -> None:
    """Memory adapter: a bound, then `QueueFull`; nothing of the refused message stays."""
    async with App("shop", event_queue="memory://?max_messages=3") as app:
        for number in range(3):
            await app.event_queue.publish("jobs", number, delay=number)
        with pytest.raises(QueueFull):
            await app.event_queue.publish("jobs", 3)
        assert await app.event_queue.purge("jobs") == 3
        await app.event_queue.publish("jobs", 3)


async def test_caches_keep_2000_entries() -> None:
    """At most `max` entries (2000, least recently used go first); counters are not evicted."""
    async with App("shop") as app:
        counter = await app.cache_manager.create_counter("visits")
        for number in range(2500):
            await app.cache.set(f"k{number}", number)
            await counter.incr(f"k{number}")
            assert await app.cache.get("k0") == 0
        assert len(await app.cache.keys()) == 2000
        assert await app.cache.get("k1") is None
        assert await app.cache.ttl("k0") == math.inf
        assert sum([await counter.get(f"k{number}") for number in range(2500)]) == 2500


async def test_duplicates_for_two_minutes(clock: VirtualClock) -> None:
    """`dedup_id`: until the message ended, and at least two minutes."""
    jobs = Jobs()
    async with App("shop", clock=clock) as app:
        app.event_queue.subscribe("jobs", jobs.process)
        first = await app.event_queue.publish("jobs", 1, dedup_id="d")
        await asyncio.sleep(119)
        assert await app.event_queue.publish("jobs", 2, dedup_id="d") == first
        assert await app.event_queue.publish("other", 3, dedup_id="d") != first
        await asyncio.sleep(2)
        assert await app.event_queue.publish("jobs", 4, dedup_id="d") != first
        await eventually(lambda: jobs.done == [1, 4])
        late = await app.event_queue.publish("jobs", 5, delay=1000, dedup_id="late")
        await asyncio.sleep(900)
        assert await app.event_queue.publish("jobs", 6, dedup_id="late") == late


async def test_a_lease_of_an_instance_that_died() -> None:
    """A dead process frees the key after at most `ttl`: here a loop that ended without a stop."""
    url = "memory://dead"

    def die() -> None:
        async def main() -> None:
            app = App("shop", backend=url)
            await app.start()
            await app.lock_manager.lock("k", ttl=0.5).__aenter__()
            app._gate.close()  # no ResourceWarning for what is on purpose

        asyncio.run(main())

    await asyncio.to_thread(die)
    async with App("shop", backend=url) as app:
        begun = time.monotonic()
        async with app.lock_manager.lock("k", wait=5):
            assert time.monotonic() - begun < 3


async def test_what_waits_when_the_app_stops(clock: VirtualClock) -> None:
    """Stop: waiters get `NotOpenError`, work under a lock `LockLost`, never a CancelledError."""
    never = asyncio.Event()
    app, other = App("shop", clock=clock), App("shop", clock=clock)
    await other.start()
    await app.start()
    await other.lock_manager.acquire("taken", 1000)

    async def section() -> None:
        async with app.lock_manager.lock("k"):
            await never.wait()

    waiting = [
        asyncio.create_task(call)
        for call in (
            app.lock_manager.acquire("taken"),
            app.lock_manager.try_acquire("taken", 500),
            app.cache.wrap("load", never.wait),
            app.cache.wrap_with_condition("condition", never.wait),
            section(),
            app.lock_manager.run_exclusive("exclusive", never.wait),
        )
    ]
    await asyncio.sleep(1)
    await app.stop()
    outcomes = [type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)]
    assert outcomes == [NotOpenError] * 4 + [LockLost] * 2
    await other.stop()


ABANDONED = """
import asyncio
from corekit import App

async def forever(*_):
    await asyncio.Event().wait()

async def main():
    app = App("shop")
    await app.start()
    app.event_queue.subscribe("jobs", forever)
    await app.pub_sub_manager.subscribe("c", forever, debounce=1)
    await app.event_queue.publish("jobs", 1)
    await app.pub_sub_manager.publish("c", 1, skip_self=False)
    await app.lock_manager.lock("k").__aenter__()
    asyncio.create_task(app.cache.wrap("k", forever))
    await asyncio.sleep(0.1)

asyncio.run(main())
print("end")
"""


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_program_that_forgets_to_stop(debug: str) -> None:
    """A loop that ends while the App is open: the program ends, and a ResourceWarning says why."""
    program = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(ABANDONED)],
        env={**os.environ, "PYTHONASYNCIODEBUG": debug},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (program.returncode, program.stdout) == (0, "end\n"), program.stderr
    assert "was never stopped: use 'async with app'" in program.stderr
    for noise in ("Task was destroyed", "never retrieved", "never awaited", "Traceback"):
        assert noise not in program.stderr, program.stderr
