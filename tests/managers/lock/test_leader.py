"""Leaders: one at a time, followed when it ends, and seen by all."""
# ruff: noqa: PT012 - what raises is the whole block, at its end

from __future__ import annotations

import asyncio

import pytest

from corekit.adapters import Guarantee
from corekit.errors import (
    BackendUnavailable,
    ConfigurationError,
    InvalidArgument,
    InvalidName,
    LockLost,
    LockNotAcquired,
    LockTimeout,
    NotOpenError,
)
from corekit.testing import eventually


async def test_one_leads_and_all_see_it(locks, clock):
    """Exactly one instance leads; every instance sees which, and since when."""
    async with locks.running("shop", "shop") as (a, b):
        assert await b.leader("cron").current() is None
        async with a.leader("cron").campaign() as lease:
            for manager in (a, b):
                leader = await manager.leader("cron").current()
                assert leader.instance_id == "shop-0"
                assert leader.token == lease.token
                assert leader.since == pytest.approx(clock.time(), abs=0.1)
            with pytest.raises(LockTimeout):
                async with b.leader("cron").campaign(wait=100):
                    pytest.fail("two lead")
        assert await b.leader("cron").current() is None
        assert locks.free()


async def test_leaders_follow_each_other(locks, clock):
    """When a leader ends, the longest candidate follows; when it dies, after at most the ttl."""
    async with locks.running("shop", "shop", "shop") as (a, b, c):
        led = []

        async def lead(number, manager):
            async with manager.leader("cron", 10).campaign() as lease:
                led.append((number, lease.token))
                await asyncio.sleep(60)

        async with asyncio.TaskGroup() as tasks:
            for number, manager in enumerate((a, b, c)):
                tasks.create_task(lead(number, manager))
                await asyncio.sleep(1)
            assert [number for number, _ in led] == [0]
        assert [number for number, _ in led] == [0, 1, 2]
        assert led == sorted(led, key=lambda each: each[1])


async def test_a_lost_leadership(locks, clock):
    """A leader that was paused past its ttl is told by LockLost, and another leads."""
    async with locks.running("shop", "shop") as (a, b):
        with pytest.raises(LockLost):
            async with a.leader("cron", 10).campaign():
                clock.jump(30)
                async with b.leader("cron", 10).campaign():
                    leader = await b.leader("cron").current()
                    assert leader.instance_id == "shop-1"
                    await asyncio.sleep(1)


async def test_watching_who_leads(locks):
    """A watcher sees the present leader first, then every change, each once."""
    async with locks.running("shop", "shop") as (a, b):
        seen = []

        async def watch():
            async for leader in b.leader("cron").watch():
                seen.append(leader and leader.instance_id)  # noqa: PERF401 - read meanwhile

        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch())
            await eventually(lambda: seen == [None])
            async with a.leader("cron", 10).campaign():
                await asyncio.sleep(100)
            await asyncio.sleep(1)
            async with b.leader("cron", 10).campaign():
                await asyncio.sleep(100)
            await eventually(lambda: seen == [None, "shop-0", None, "shop-1", None])
            watching.cancel()


async def test_watching_ends_with_the_app(locks):
    """When the App stops, who watches gets NotOpenError."""
    async with locks.running("shop") as (a,):
        states = a.leader("cron").watch()
        assert await anext(states) is None
        waiting = asyncio.ensure_future(anext(states))
        await asyncio.sleep(1)
        await a.close()
        with pytest.raises(NotOpenError):
            await waiting


async def test_leaders_and_locks_are_apart(locks):
    """Leading for a key holds no lock of that key; alike keys and other applications are apart."""
    async with locks.running("shop", "other") as (a, b), a.leader("x").campaign():
        await a.try_acquire("x")
        assert await a.leader("x/y").current() is None
        assert await a.leader("xy").current() is None
        assert await b.leader("x").current() is None
        with pytest.raises(LockNotAcquired, match="this very task"):
            async with a.leader("x").campaign():
                pass


async def test_a_campaign_that_cannot_be_shown(locks):
    """If the leader cannot be announced, the campaign fails and nobody leads."""
    async with locks.on_backend() as (a, backend):
        backend.failures["announce"] = BackendUnavailable("away")
        with pytest.raises(BackendUnavailable):
            async with a.leader("x").campaign():
                pytest.fail("unseen")
        assert locks.free()
        backend.failures.clear()
        backend.hang("announce")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), a.leader("x").campaign():
                pytest.fail("unseen")
        assert locks.free()


async def test_a_leader_that_is_shown_too_late(locks, clock):
    """If the lease is over before the leader could be announced, it never led."""
    async with locks.on_backend() as (a, backend):
        go = backend.hang("announce")

        async def lead():
            async with a.leader("x", 10).campaign():
                pytest.fail("too late")

        leading = asyncio.create_task(lead())
        await asyncio.sleep(1)
        clock.jump(20)
        go.set()
        with pytest.raises(LockLost):
            await leading
        assert await a.leader("x").current() is None


async def test_what_cannot_be_read_is_nobody(locks, caplog):
    """A value of unknown form is logged and taken for nobody."""
    async with locks.on_backend() as (a, backend):
        grant = await backend.acquire("shop/leader/x", 100, 0)
        await backend.announce(grant, b"\xc1nonsense")
        assert await a.leader("x").current() is None
        assert await a.leader("x").current() is None
        assert len(caplog.records) == 1


async def test_a_backend_without_the_ability(locks):
    """On a backend that keeps no members, the calls say so; locks work."""

    class Plain:
        guarantees = frozenset({Guarantee.FAIR})
        least_ttl = 1.0

        async def open(self):
            pass

        async def close(self):
            pass

    a = locks.manager()
    await a.open(Plain())
    election = a.leader("x")
    with pytest.raises(ConfigurationError, match="memory"):
        await election.current()
    with pytest.raises(ConfigurationError):
        async with election.campaign():
            pass
    await a.close()


async def test_bad_arguments(locks):
    """Bad keys, ttls and waits are refused."""
    async with locks.running("shop") as (a,):
        with pytest.raises(InvalidName):
            a.leader("")
        with pytest.raises(InvalidArgument):
            a.leader("x", 0)
        with pytest.raises(InvalidArgument):
            a.leader("x").campaign(wait=-1)
    with pytest.raises(NotOpenError):
        await a.leader("x").current()
