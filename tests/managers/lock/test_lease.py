"""Leases: until when they are held, how they are lost, extended and released."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle

import pytest

from corekit.errors import BackendRefused, BackendUnavailable, LockLost, OutcomeUnknown
from corekit.testing import eventually

from .conftest import RemoteBackend


async def test_lost_is_set_at_the_deadline(locks, clock):
    """`lost` is set by itself when the lease is over, and before anybody else has the key."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 10)
        waiting = asyncio.create_task(b.acquire("k"))
        start = clock.monotonic()
        await lease.lost.wait()
        assert 9.9 <= clock.monotonic() - start < 10
        assert not waiting.done()
        assert not lease.held
        assert (await waiting).token > lease.token


async def test_lost_is_the_same_event(locks):
    """Every access gives the same event."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k")
        assert lease.lost is lease.lost


async def test_lost_after_the_deadline(locks, clock):
    """Asked for the first time after the end, `lost` is set already."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 10)
        clock.jump(11)
        assert lease.lost.is_set()


async def test_lost_follows_an_extension(locks, clock):
    """`lost` is set at the end of the last extension, be it later or earlier than the first end."""
    async with locks.running("shop") as (a,):
        start = clock.monotonic()
        lease = await a.acquire("k", 10)
        lost = lease.lost
        await lease.extend(100)
        await asyncio.sleep(50)
        assert not lost.is_set()
        await lease.extend(5)
        await lost.wait()
        assert clock.monotonic() - start == pytest.approx(55, abs=0.02)


async def test_lost_is_not_set_by_release(locks):
    """A release is the holder's will: `lost` stays unset, then and at the time of the end."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 10)
        lost = lease.lost
        await lease.release()
        await asyncio.sleep(20)
        assert not lost.is_set()
        other = await a.acquire("k", 10)
        await other.release()
        assert not other.lost.is_set()


async def test_watching_leaves_no_timer(locks):
    """The timer behind `lost` ends with the lease."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 10)
        assert not lease.lost.is_set()
        await lease.release()
        assert all(timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)


async def test_a_paused_process_loses(locks, clock):
    """A process that was paused past its lease learns it, while another has the key."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 10)
        lost = lease.lost
        clock.jump(15)
        assert (await b.acquire("k", 10)).token > lease.token
        await asyncio.sleep(0.001)
        assert lost.is_set()
        with pytest.raises(LockLost, match="time is over"):
            await lease.extend(10)
        await lease.release()


async def test_a_short_pause_does_not_lose(locks, clock):
    """A pause shorter than what is left of the lease changes nothing."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 10)
        lost = lease.lost
        for _ in range(20):
            clock.jump(9)
            await lease.extend(10)
        assert lease.held
        assert not lost.is_set()


async def test_the_wall_clock_does_not_matter(locks, clock):
    """Setting the machine's clock neither ends a lease nor lengthens it."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k", 10)
        clock.jump_wall(3600)
        assert lease.held
        assert lease.expires_at == pytest.approx(clock.time() + 10, abs=0.02)
        clock.jump_wall(-7200)
        clock.jump(10)
        assert not lease.held


async def test_the_own_deadline_is_earlier_than_the_backends(locks, clock):
    """With a backend in another process a tenth of the ttl, at most about 1 s, is kept back."""
    async with locks.on_backend(RemoteBackend) as (a, _):
        for ttl, kept in ((0.5, 0.2), (2, 0.2), (5, 0.5), (10, 1.0), (600, 1.6)):
            async with await a.acquire("k", ttl) as lease:
                assert lease.expires_at - clock.time() == pytest.approx(
                    max(ttl, 2) - kept, abs=0.02
                )


async def test_the_time_of_the_call_counts_against_the_lease(locks, clock):
    """The lease counts from before the request: a late answer leaves less of it."""
    async with locks.on_backend() as (a, backend):
        answer = backend.answer_late("acquire")
        taking = asyncio.create_task(a.acquire("k", 10))
        await asyncio.sleep(4)
        answer.set()
        lease = await taking
        assert lease.expires_at - clock.time() == pytest.approx(6, abs=0.02)


async def test_extending_counts_from_now(locks, clock):
    """Extending makes the lease end ttl from now, and keeps its token."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 10)
        token = lease.token
        await asyncio.sleep(8)
        await lease.extend(10)
        assert lease.expires_at == pytest.approx(clock.time() + 10, abs=0.02)
        assert lease.token == token
        start = clock.monotonic()
        await b.acquire("k")
        assert clock.monotonic() - start == pytest.approx(10, abs=0.02)


async def test_extending_what_is_gone(locks, clock):
    """Extending raises LockLost after a release, after the end, and when the backend says so."""
    async with locks.on_backend() as (a, backend):
        released = await a.acquire("k", 10)
        await released.release()
        with pytest.raises(LockLost, match="released"):
            await released.extend(10)
        over = await a.acquire("k", 10)
        clock.jump(11)
        with pytest.raises(LockLost, match="over"):
            await over.extend(10)
        taken = await a.acquire("k", 10)
        lost = taken.lost
        await backend.take_away(taken)
        with pytest.raises(LockLost, match="backend"):
            await taken.extend(10)
        assert lost.is_set()


async def test_an_extension_that_fails(locks, clock):
    """BackendUnavailable leaves the lease as it was, and the call may be repeated."""
    async with locks.on_backend() as (a, backend):
        lease = await a.acquire("k", 10)
        before = lease.expires_at
        backend.failures["extend"] = BackendUnavailable("away")
        with pytest.raises(BackendUnavailable):
            await lease.extend(20)
        assert lease.held
        assert lease.expires_at == pytest.approx(before)
        backend.failures.clear()
        await lease.extend(20)
        assert lease.expires_at == pytest.approx(clock.time() + 20, abs=0.02)


@pytest.mark.parametrize("end", ["unknown", "cancelled"])
async def test_a_shortening_of_unknown_outcome(locks, clock, end):
    """If a shorter time may have reached the backend, the holder goes by it."""
    async with locks.on_backend() as (a, backend):
        lease = await a.acquire("k", 100)
        if end == "unknown":
            backend.failures["extend"] = OutcomeUnknown("no answer")
            with pytest.raises(OutcomeUnknown):
                await lease.extend(5)
        else:
            backend.answer_late("extend")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await lease.extend(5)
        assert lease.expires_at <= clock.time() + 5


async def test_overlapping_extensions_take_turns(locks, clock):
    """The last one asked for is the one that holds."""
    async with locks.on_backend() as (a, backend):
        lease = await a.acquire("k", 10)
        answer = backend.answer_late("extend")
        first = asyncio.create_task(lease.extend(100))
        second = asyncio.create_task(lease.extend(5))
        await asyncio.sleep(1)
        assert backend.calls.count("extend") == 1
        answer.set()
        await first
        await second
        assert lease.expires_at == pytest.approx(clock.time() + 5, abs=0.02)


async def test_an_extension_that_comes_too_late(locks):
    """If the answer comes after the holder's deadline the lease is lost, and the key is freed."""
    async with locks.on_backend() as (a, backend):
        lease = await a.acquire("k", 10)
        lost = lease.lost
        answer = backend.answer_late("extend")
        extending = asyncio.create_task(lease.extend(600))
        await lost.wait()
        answer.set()
        with pytest.raises(LockLost):
            await extending
        await eventually(locks.free)


@pytest.mark.parametrize("end", ["unknown", "cancelled"])
async def test_an_extension_that_nobody_waits_for(locks, end):
    """It may have been heard, or may be yet: when the lease ends all the same, the key is freed."""
    async with locks.on_backend() as (a, backend):
        lease = await a.acquire("k", 10)
        lost = lease.lost
        answer = backend.answer_late("extend")
        extending = asyncio.create_task(lease.extend(600))
        await asyncio.sleep(1)
        if end == "cancelled":
            extending.cancel()
        else:
            backend.late_failures["extend"] = OutcomeUnknown("no answer")
            answer.set()
        await asyncio.wait([extending])
        await lost.wait()
        await eventually(locks.free)


async def test_released_while_it_is_extended(locks):
    """A release during an extension wins: the extension raises LockLost, and the key is free."""
    async with locks.on_backend() as (a, backend):
        lease = await a.acquire("k", 10)
        answer = backend.answer_late("extend")
        extending = asyncio.create_task(lease.extend(600))
        await asyncio.sleep(1)
        await lease.release()
        answer.set()
        with pytest.raises(LockLost, match="released"):
            await extending
        assert locks.free()


async def test_releasing_twice(locks):
    """A second release does nothing, and frees no later holder."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k")
        await lease.release()
        await b.acquire("k", 600)
        await lease.release()
        assert not locks.free()


async def test_a_late_release_frees_no_other_holder(locks, clock):
    """The release of a lease that is over does not touch whoever holds the key now."""
    async with locks.running("shop", "shop") as (a, b):
        lease = await a.acquire("k", 10)
        clock.jump(11)
        other = await b.acquire("k", 600)
        await lease.release()
        await other.extend(600)
        assert other.held


@pytest.mark.parametrize("error", [BackendUnavailable("away"), BackendRefused("no")])
async def test_an_unreachable_backend_at_release(locks, caplog, error):
    """A release does not raise for its backend: it is logged, and the lease ends by its time."""
    async with locks.on_backend() as (a, backend):
        backend.failures["release"] = error
        with pytest.raises(ZeroDivisionError):
            async with await a.acquire("k", 10):
                raise ZeroDivisionError
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "shop/lock/k" in caplog.text
        await a.acquire("k", wait=10.1)


async def test_a_cancelled_release(locks):
    """A release that is cancelled is carried out all the same."""
    async with locks.on_backend() as (a, backend):
        go = backend.hang("release")
        lease = await a.acquire("k", 600)
        releasing = asyncio.create_task(lease.release())
        await asyncio.sleep(1)
        releasing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await releasing
        go.set()
        await eventually(locks.free)


async def test_a_lease_as_context_manager(locks, clock):
    """It gives itself, releases itself at the end, and cancels nothing when it is lost."""
    async with locks.running("shop") as (a,):
        taken = await a.acquire("k", 10)
        async with taken as lease:
            assert lease is taken
        assert locks.free()
        async with await a.acquire("k", 10) as lease:
            await asyncio.sleep(30)
            assert lease.lost.is_set()


async def test_a_lease_is_not_copied(locks):
    """Copying and pickling raise TypeError with a hint."""
    async with locks.running("shop") as (a,):
        lease = await a.acquire("k")
        for copier in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="token"):
                copier(lease)
