"""Taking locks: who gets one, who waits, and what is refused."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import weakref
from datetime import timedelta
from decimal import Decimal

import pytest

from corekit.errors import (
    BackendUnavailable,
    ForkedProcess,
    InvalidArgument,
    InvalidName,
    InvalidType,
    LockLost,
    LockNotAcquired,
    LockTimeout,
    NotOpenError,
    WrongLoop,
)
from corekit.testing import eventually


async def test_one_holder(locks):
    """A key held by one instance is not given to another one, until it is released."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k")
        with pytest.raises(LockNotAcquired):
            await b.try_acquire("k")
        await lease.release()
        async with await b.try_acquire("k"):
            pass
        assert locks.free()


async def test_keys_are_per_application(locks):
    """Two applications on one backend never meet, whatever their names and keys are."""
    async with locks.running("shop", "shop2", "sh/op", "shop/lock") as managers:
        for manager in managers:
            await manager.try_acquire("k")
        await managers[0].try_acquire("lock/k")
        await managers[0].try_acquire("lock%2Fk")


async def test_tokens_grow(locks):
    """Each holder of a key has a greater token than every one before."""
    async with locks.running("shop", "shop") as managers:
        tokens = []
        for manager in (*managers, *managers):
            async with await manager.acquire("k") as lease:
                tokens.append(lease.token)
        assert tokens == sorted(set(tokens))


async def test_waiters_are_served_in_order(locks):
    """Waiters get a key in the order in which they came, from whichever instance."""
    async with locks.running("shop", "shop") as managers:
        served = []

        async def take(number):
            async with await managers[number % 2].acquire("k", 600):
                served.append(number)

        async with await managers[0].acquire("k", 600), asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(take(number))
            await asyncio.sleep(1)
            assert not served
            await managers[0]._session.leases["shop/lock/k"].release()
        assert served == list(range(10))


async def test_a_lease_ends_by_its_time(locks, clock):
    """A key that is never released is free after its ttl, and not before."""
    async with locks.running("shop", "shop") as (a, b):
        await a.acquire("k", 10)
        start = clock.monotonic()
        await b.acquire("k")
        assert 10 <= clock.monotonic() - start < 10.01


@pytest.mark.parametrize("ttl", [0.001, 5, 3600.0, timedelta(minutes=2), 86400 * 30])
async def test_the_ttl_is_in_seconds(locks, clock, ttl):
    """A ttl is seconds or a timedelta, also above the 24.8 days of other timers."""
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", ttl)
        assert lease.expires_at == pytest.approx(clock.time() + seconds, abs=0.011)


async def test_the_least_ttl_of_a_backend(locks, clock):
    """A shorter ttl than the backend can grant becomes the backend's least."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 1e-9)
        assert 0.0009 < lease.expires_at - clock.time() <= 0.001


async def test_a_ttl_above_a_day_is_told_once(locks, caplog):
    """A ttl above a day is taken, and logged once, since it may be meant in milliseconds."""
    async with locks.running("shop") as (a,):
        await a.acquire("k", 86400)
        assert not caplog.records
        await a.acquire("l", 100_000)
        a.lock("m", 100_000)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "seconds" in caplog.text


async def test_waiting_is_bounded(locks, clock):
    """After *wait* seconds LockTimeout is raised, and nothing is held or waited for."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 600)
        start = clock.monotonic()
        with pytest.raises(LockTimeout, match="'k' was not free within 5 s"):
            await b.acquire("k", wait=5)
        assert clock.monotonic() - start == pytest.approx(5)
        with pytest.raises(TimeoutError):
            await b.acquire("k", wait=timedelta(0))
        assert repr(locks.hub) == "<LockHub held=1 waiting=0>"
        await lease.release()
        await b.acquire("k", wait=0)


async def test_trying_with_a_timeout(locks, clock):
    """A try waits as long as it is told, and raises LockNotAcquired then."""
    async with locks.running("shop", "shop") as (a, b):
        await a.acquire("k", 10)
        start = clock.monotonic()
        with pytest.raises(LockNotAcquired):
            await b.try_acquire("k", 5)
        assert clock.monotonic() - start == pytest.approx(5)
        lease = await b.try_acquire("k", 6, ttl=20)
        assert lease.expires_at - clock.time() == pytest.approx(20, abs=0.011)


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        (0, InvalidArgument),
        (-1, InvalidArgument),
        (-0.0, InvalidArgument),
        (math.nan, InvalidArgument),
        (math.inf, InvalidArgument),
        (1e12, InvalidArgument),
        (10**400, InvalidArgument),
        (timedelta(0), InvalidArgument),
        (timedelta.max, InvalidArgument),
        (True, InvalidType),
        ("10", InvalidType),
        (b"10", InvalidType),
        (None, InvalidType),
        (Decimal("1.5"), InvalidType),
    ],
)
async def test_bad_ttls(locks, ttl, error):
    """A bad ttl is refused by every call, names the parameter, and takes nothing."""
    async with locks.running("shop") as (a,):
        with pytest.raises(error, match="ttl"):
            await a.acquire("k", ttl)
        with pytest.raises(error, match="ttl"):
            await a.try_acquire("k", ttl=ttl)
        with pytest.raises(error, match="ttl"):
            a.lock("k", ttl)
        with pytest.raises(error, match="ttl"):
            await a.run_exclusive("k", pytest.fail, ttl)
        assert locks.free()
        lease = await a.acquire("k")
        before = lease.expires_at
        with pytest.raises(error, match="ttl"):
            await lease.extend(ttl)
        assert lease.expires_at == pytest.approx(before)


@pytest.mark.parametrize("wait", [-1, math.nan, math.inf, True, "1"])
async def test_bad_waits(locks, wait):
    """A bad wait or timeout is refused and takes nothing."""
    async with locks.running("shop") as (a,):
        with pytest.raises(InvalidArgument, match="wait"):
            await a.acquire("k", wait=wait)
        with pytest.raises(InvalidArgument, match="wait"):
            a.lock("k", wait=wait)
        with pytest.raises(InvalidArgument, match="timeout"):
            await a.try_acquire("k", wait)
        assert locks.free()


@pytest.mark.parametrize("key", ["", "a\nb", "\x00", "x" * 513, "\ud800", None, 5, b"k", ["k"]])
async def test_bad_keys(locks, key):
    """A bad key is refused by every call, and takes nothing."""
    async with locks.running("shop") as (a,):
        error = InvalidName if isinstance(key, str) else InvalidType
        with pytest.raises(error):
            await a.acquire(key)
        with pytest.raises(error):
            await a.try_acquire(key)
        with pytest.raises(error):
            a.lock(key)
        with pytest.raises(error):
            await a.run_exclusive(key, pytest.fail)
        assert locks.free()


async def test_the_flag_renew_is_a_flag(locks):
    """Anything but True and False is refused for renew."""
    async with locks.running("shop") as (a,):
        with pytest.raises(InvalidType, match="renew"):
            a.lock("k", renew=1)


async def test_a_task_does_not_wait_for_itself(locks):
    """A task that holds a key and takes it again is told at once, by every call."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 600)
        with pytest.raises(LockNotAcquired, match="this very task"):
            await a.acquire("k")
        with pytest.raises(LockNotAcquired, match="this very task"):
            await a.try_acquire("k", 100)
        with pytest.raises(LockNotAcquired, match="this very task"):
            async with a.lock("k"):
                pass
        with pytest.raises(LockNotAcquired, match="this very task"):
            await a.run_exclusive("k", pytest.fail)
        assert lease.held
        await a.acquire("l")


async def test_child_tasks_and_other_instances_wait(locks):
    """Only the same task of the same instance is told at once; all others wait."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 600)
        child = asyncio.create_task(a.acquire("k"))
        await asyncio.sleep(1)
        assert not child.done()
        with pytest.raises(LockTimeout):
            await b.acquire("k", wait=1)
        await lease.release()
        assert (await child).token > lease.token


async def test_a_task_may_take_a_key_again_after_the_lease_ended(locks, clock):
    """Released elsewhere, over, or lost: the lease of a task no longer stands in its way."""
    async with locks.on_backend() as (a, backend):
        lease = await a.acquire("k")
        await asyncio.create_task(lease.release())
        over = await a.acquire("k", 5)
        clock.jump(6)
        lost = await a.acquire("k", 600)
        assert not over.held
        await backend.take_away(lost)
        with pytest.raises(LockLost):
            await lost.extend(600)
        await a.acquire("k", wait=0)


async def test_a_task_that_ended_is_not_another_task(locks):
    """A lease that a finished task left behind stops nobody but by its time, nor keeps the task."""
    async with locks.running("shop") as (a,):
        task = asyncio.create_task(a.acquire("k", 5))
        await task
        gone = weakref.ref(task)
        del task
        # The loop itself keeps the task while it runs what the task's end has woken.
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None
        for _ in range(3):
            task = asyncio.create_task(a.acquire("k", 5))
            assert await task
            del task


async def test_leases_do_not_pile_up(locks, clock):
    """Leases that nobody releases are forgotten some time after they ended."""
    async with locks.running("shop") as (a,):
        for number in range(10_000):
            await a.acquire(f"k{number}", 1)
            clock.jump(0.1)
        assert len(a._session) <= 64


async def test_a_free_key_costs_nothing(locks):
    """Neither manager nor backend nor loop keeps anything of keys that were released."""
    async with locks.running("shop") as (a,):
        for number in range(1000):
            async with await a.acquire(f"k{number}"):
                pass
        assert len(a._session) == 0
        assert locks.free()
        assert not asyncio.get_running_loop()._scheduled


async def test_a_cancelled_wait_holds_nothing(locks):
    """10,000 cancelled waiters leave no ghost owner and no one in the queue."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 600)
        waiting = [asyncio.create_task(b.acquire("k")) for _ in range(10_000)]
        await asyncio.sleep(1)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await lease.release()
        assert locks.free()
        await b.try_acquire("k")


@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("form", ["acquire", "lock", "run_exclusive"])
async def test_cancelled_at_any_step(locks, steps, form):
    """Whatever await it is cancelled at, also as the key is given: nothing stays held."""

    async def use(manager):
        if form == "acquire":
            async with await manager.acquire("k", 600):
                await asyncio.sleep(0)
        elif form == "lock":
            async with manager.lock("k", 600):
                await asyncio.sleep(0)
        else:
            await manager.run_exclusive("k", lambda: asyncio.sleep(0), 600)

    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 600)
        using = asyncio.create_task(use(b))
        await asyncio.sleep(1)
        releasing = asyncio.create_task(lease.release())
        for _ in range(steps):
            await asyncio.sleep(0)
        using.cancel()
        await asyncio.wait({using, releasing})
        assert locks.free()
        assert len(b._session) == 0


async def test_an_unreachable_backend(locks):
    """Every call raises BackendUnavailable and leaves nothing; a later call works."""
    async with locks.on_backend() as (a, backend):
        backend.failures["acquire"] = BackendUnavailable("away")
        with pytest.raises(BackendUnavailable):
            await a.acquire("k")
        with pytest.raises(BackendUnavailable):
            async with a.lock("k"):
                pass
        backend.failures.clear()
        await a.acquire("k", wait=0)


async def test_before_the_start(locks):
    """Before open, and after close, every call raises NotOpenError and says what to do."""
    a = locks.manager()
    with pytest.raises(NotOpenError, match="async with app"):
        await a.acquire("k")
    with pytest.raises(NotOpenError):
        async with a.lock("k"):
            pass
    await a.open(locks.backend())
    lease = await a.acquire("k")
    await a.close()
    with pytest.raises(NotOpenError, match="stopped"):
        await a.try_acquire("k")
    with pytest.raises(LockLost):
        await lease.extend(10)
    await lease.release()
    await a.close()


async def test_a_failed_open_closes_the_adapter(locks):
    """If the adapter cannot be opened it is closed, and the manager stays closed."""
    a, backend = locks.manager(), locks.backend()
    backend.failures["open"] = BackendUnavailable("away")
    with pytest.raises(BackendUnavailable):
        await a.open(backend)
    assert backend.calls == ["open", "close"]
    with pytest.raises(NotOpenError):
        await a.acquire("k")
    await a.open(locks.backend())
    await a.acquire("k")
    await a.close()


async def test_stopping_releases_leases(locks):
    """The stop gives every key back at once, and sets `lost` of the leases."""
    async with locks.running("shop", "shop") as (a, b):
        leases = [await a.acquire(f"k{number}", 600) for number in range(3)]
        events = [lease.lost for lease in leases]
        await a.close()
        assert all(event.is_set() for event in events)
        for number in range(3):
            await b.try_acquire(f"k{number}")


async def test_stopping_ends_waiting(locks):
    """A call that waits when the App stops gets NotOpenError, and never the key."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 600)
        waiting = asyncio.create_task(b.acquire("k"))
        trying = asyncio.create_task(b.try_acquire("k", 100))
        await asyncio.sleep(1)
        await b.close()
        with pytest.raises(NotOpenError):
            await waiting
        with pytest.raises(NotOpenError):
            await trying
        await lease.release()
        assert locks.free()


async def test_a_key_that_is_given_while_stopping(locks):
    """A key that is given in the moment of the stop is not held by anyone."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 600)
        waiting = asyncio.create_task(b.acquire("k"))
        await asyncio.sleep(1)
        await lease.release()
        await b.close()
        with pytest.raises(NotOpenError):
            await waiting
        assert locks.free()


async def test_a_key_that_is_given_after_the_stop(locks):
    """An answer of the backend that comes after the stop gives nothing."""
    a, backend = locks.manager(), locks.backend()
    await a.open(backend)
    answer = backend.answer_late("acquire")
    taking = asyncio.create_task(a.acquire("k", 600))
    await asyncio.sleep(1)
    await a.close()
    answer.set()
    with pytest.raises(NotOpenError):
        await taking
    assert locks.free()


async def test_starting_again(locks):
    """A manager may be opened again; leases of the earlier time stay lost and touch nothing."""
    a = locks.manager()
    await a.open(locks.backend())
    old = await a.acquire("k", 600)
    await a.close()
    await a.open(locks.backend())
    new = await a.acquire("k", 600)
    await old.release()
    assert new.held
    assert new.token > old.token
    with pytest.raises(LockLost):
        await old.extend(10)
    await a.close()


async def test_another_loop(locks):
    """A call from another event loop raises WrongLoop at once and changes nothing."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 600)

        def elsewhere(coroutine):
            with asyncio.Runner() as runner:
                return runner.run(coroutine)

        for call in (a.acquire("l"), lease.extend(10), lease.release()):
            with pytest.raises(WrongLoop):
                await asyncio.to_thread(elsewhere, call)
        assert lease.held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child(locks):
    """In a forked child the manager raises ForkedProcess, and the parent keeps its leases."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 600)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                a.acquire("l").send(None)
            except ForkedProcess:
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - the child ends at once
        assert os.waitstatus_to_exitcode(status) == 0
        assert lease.held


async def test_many_instances_never_overlap(locks):
    """Of twenty tasks in two instances one at a time is inside, with every form."""
    inside = 0
    rounds = 0

    async def work():
        nonlocal inside, rounds
        inside += 1
        assert inside == 1
        await asyncio.sleep(0)
        inside -= 1
        rounds += 1

    async def use(manager, form):
        for _ in range(10):
            if form == 0:
                async with await manager.acquire("k"):
                    await work()
            elif form == 1:
                async with manager.lock("k"):
                    await work()
            else:
                await manager.run_exclusive("k", work)

    async with locks.running("shop", "shop") as managers, asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(use(managers[number % 2], number % 3))
        await eventually(lambda: rounds == 200)
    assert locks.free()


async def test_the_repr_tells_the_state(locks):
    """Managers and leases show what they are at."""
    a = locks.manager()
    assert repr(a) == "<LockManager shop/lock/ closed>"
    await a.open(locks.backend())
    lease = await a.acquire("k", 10)
    assert repr(a) == "<LockManager shop/lock/ open, holds 1>"
    assert repr(lease) == f"<Lease 'k' token={lease.token} held for 9.990 s>"
    await lease.release()
    assert repr(lease) == f"<Lease 'k' token={lease.token} released>"
    await a.close()
