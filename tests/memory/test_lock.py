"""The memory adapter of locks: the suite, and what only it can be asked."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from corekit.config import BackendURL
from corekit.errors import NotOpenError
from corekit.memory.lock import LockHub, MemoryLock, memory_lock
from corekit.testing import eventually
from corekit.testing.contexts import make_context
from corekit.testing.lock import LockSuite
from corekit.testing.membership import MembershipSuite


class TestMemoryLock(LockSuite):
    """Every clause of the contract."""

    virtual = True

    def make_adapter(self):
        return memory_lock(BackendURL.parse("memory://suite"), make_context(clock=self.clock))


class TestMemoryMembership(MembershipSuite):
    """Every clause of the contract of membership."""

    virtual = True

    def make_adapter(self):
        return memory_lock(BackendURL.parse("memory://suite"), make_context(clock=self.clock))


@pytest.fixture
def hub():
    """Return a hub of the test's own."""
    return LockHub()


async def test_apps_with_one_url_meet():
    """Adapters meet by the URL's name, without one by the application's."""
    shop, twin, other = (
        memory_lock(BackendURL.parse("memory://"), make_context(app=app))
        for app in ("shop", "shop", "other")
    )
    assert await shop.acquire("a", 10, 0) is not None
    assert await twin.acquire("a", 10, 0) is None
    assert await other.acquire("a", 10, 0) is not None
    for adapter in (shop, twin, other):
        await adapter.close()


async def test_a_free_name_costs_nothing(hub):
    """The hub keeps nothing of names that were released."""
    adapter = MemoryLock(hub, make_context())
    for number in range(1000):
        grant = await adapter.acquire(f"name-{number}", 10, 0)
        await adapter.release(grant)
    assert repr(hub) == "<LockHub held=0 waiting=0>"


async def test_names_that_ended_are_dropped(hub, clock):
    """Names whose holders never released them do not pile up: at most as many as are held."""
    adapter = MemoryLock(hub, make_context(clock=clock))
    for number in range(10_000):
        await adapter.acquire(f"name-{number}", 1, 0)
        clock.jump(0.1)
    assert len(hub._grants) <= 64


async def test_a_held_name_makes_no_timer(hub, clock):
    """Nothing is scheduled for a holder, only for who waits."""
    adapter = MemoryLock(hub, make_context(clock=clock))
    loop = asyncio.get_running_loop()
    grant = await adapter.acquire("a", 10, None)
    assert not loop._scheduled
    await adapter.release(grant)


async def test_tokens_grow_across_processes(clock):
    """A later process begins with greater tokens, as long as the machine's clock goes forward."""
    tokens = []
    for _ in range(3):
        adapter = MemoryLock(LockHub(), make_context(clock=clock))
        await adapter.open()
        for _ in range(5):
            grant = await adapter.acquire("a", 10, 0)
            tokens.append(grant.token)
            await adapter.release(grant)
        clock.jump(1)
    assert tokens == sorted(set(tokens))


async def test_a_closed_adapter_refuses(hub):
    """After close a call raises NotOpenError."""
    adapter = MemoryLock(hub, make_context())
    grant = await adapter.acquire("a", 10, 0)
    await adapter.close()
    with pytest.raises(NotOpenError):
        await adapter.acquire("a", 10, 0)
    with pytest.raises(NotOpenError):
        await adapter.extend(grant, 10)
    await adapter.release(grant)


async def test_the_next_waiter_takes_over_the_watch(hub, clock):
    """When the longest waiter leaves, the next one sees the holder's end, which came nearer."""
    adapter = MemoryLock(hub, make_context(clock=clock))
    grant = await adapter.acquire("a", 600, 0)
    first = asyncio.create_task(adapter.acquire("a", 10, None))
    second = asyncio.create_task(adapter.acquire("a", 10, None))
    await asyncio.sleep(1)
    await adapter.extend(grant, 5)
    await asyncio.sleep(1)
    first.cancel()
    start = clock.monotonic()
    assert await second is not None
    assert clock.monotonic() - start == pytest.approx(4, abs=0.01)


async def test_a_waiter_that_vanished_is_withdrawn(hub):
    """A waiting call whose task is collected by the garbage collector leaves the queue."""
    adapter = MemoryLock(hub, make_context())
    grant = await adapter.acquire("a", 600, 0)
    call = adapter.acquire("a", 600, None)
    call.send(None)
    assert repr(hub) == "<LockHub held=1 waiting=1>"
    del call
    gc.collect()
    assert repr(hub) == "<LockHub held=1 waiting=0>"
    await adapter.release(grant)


async def test_many_cancelled_waiters(hub):
    """10,000 waiters that are cancelled, from either end of the queue, leave nothing."""
    adapter = MemoryLock(hub, make_context())
    grant = await adapter.acquire("a", 600, 0)
    waiting = [asyncio.create_task(adapter.acquire("a", 600, None)) for _ in range(10_000)]
    await asyncio.sleep(0)
    for task in waiting[:5000] + waiting[:4999:-1]:
        task.cancel()
    await asyncio.wait(waiting)
    await adapter.release(grant)
    assert repr(hub) == "<LockHub held=0 waiting=0>"


def in_thread(main):
    """Run *main* in a loop in another thread; return the thread."""
    thread = threading.Thread(target=asyncio.run, args=(main,))
    thread.start()
    return thread


async def test_loops_in_two_threads(hub):
    """A key goes to and fro between loops in several threads; no two are inside at once."""
    inside = [0]
    done = []

    async def work(rounds):
        adapter = MemoryLock(hub, make_context())
        for _ in range(rounds):
            grant = await adapter.acquire("a", 60, 30)
            assert grant is not None
            inside[0] += 1
            assert inside[0] == 1
            await asyncio.sleep(0)
            inside[0] -= 1
            await adapter.release(grant)
        done.append(1)
        await adapter.close()

    threads = [in_thread(work(200)) for _ in range(3)]
    await work(200)
    await eventually(lambda: len(done) == 4, within=30)
    for thread in threads:
        thread.join()
    assert repr(hub) == "<LockHub held=0 waiting=0>"


async def test_a_loop_that_was_closed_is_passed_over(hub):
    """A waiter whose loop was closed without a word does not keep the key from those behind."""
    adapter = MemoryLock(hub, make_context())
    grant = await adapter.acquire("a", 600, 0)

    def abandon():
        loop = asyncio.new_event_loop()
        gone = MemoryLock(hub, make_context())
        loop.call_soon(loop.stop)
        waiting = loop.create_task(gone.acquire("a", 600, None))
        waiting._log_destroy_pending = False
        loop.run_forever()
        loop.close()
        kept.append(waiting)

    kept = []
    thread = threading.Thread(target=abandon)
    thread.start()
    thread.join()
    behind = asyncio.create_task(adapter.acquire("a", 600, None))
    await asyncio.sleep(0)
    assert repr(hub) == "<LockHub held=1 waiting=2>"
    await adapter.release(grant)
    async with asyncio.timeout(5):
        assert await behind is not None
