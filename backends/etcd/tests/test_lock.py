"""What the locks do beyond their contract: leases kept ready, few requests, many waiters."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from corekit_etcd.driver import Call
from corekit_etcd.lock import Lock
from etcd3aio import Etcd3Client

from corekit import App
from corekit.adapters import Grant
from corekit.config import BackendURL
from corekit.errors import BackendUnavailable
from corekit.testing import eventually
from corekit.testing.contexts import make_context

from .servers import Etcd


@asynccontextmanager
async def lock_of(etcd: Etcd) -> AsyncIterator[Lock]:
    """Open the locks of *etcd*."""
    adapter = Lock(BackendURL.parse(etcd.url), make_context())
    try:
        await adapter.open()
        yield adapter
    finally:
        await adapter.close()


async def taken(adapter: Lock, name: str, ttl: float = 10, wait: float | None = 0) -> Grant:
    """Acquire *name*, which must succeed."""
    grant = await adapter.acquire(name, ttl, wait)
    assert grant is not None
    return grant


def counted(adapter: Lock, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Return the calls that *adapter* makes from now on."""
    calls: list[Call] = []
    send = adapter._client.call

    async def call(name: Call, request: Any, **options: Any) -> Any:
        calls.append(name)
        return await send(name, request, **options)

    monkeypatch.setattr(adapter._client, "call", call)
    return calls


async def test_two_requests(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking a free lock is one request and releasing it another: leases are used again."""
    async with lock_of(etcd) as adapter:
        await adapter.release(await taken(adapter, "warm"))
        calls = counted(adapter, monkeypatch)
        for number in range(10):
            await adapter.release(await taken(adapter, f"{number}"))
        assert calls == [Call.TXN, Call.DELETE] * 10


async def test_a_spare_lease_is_refreshed_before_it_is_relied_on(etcd: Etcd) -> None:
    """A lease that has been lying there for a while counts anew when it is used again."""
    async with lock_of(etcd) as adapter:
        await adapter.release(await taken(adapter, "a", 3))
        await asyncio.sleep(2.5)
        grant = await taken(adapter, "a", 3)
        assert grant.owner.lease.ends >= grant.since + grant.ttl
        await asyncio.sleep(2.5)
        assert await adapter.acquire("a", 3, 0) is None


async def test_a_lease_that_cannot_be_refreshed_is_not_relied_on(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is granted on an old lease of which etcd does not say that it counts anew."""
    adapter = Lock(BackendURL.parse(etcd.url + "?timeout=1"), make_context())
    await adapter.open()
    try:
        grant = await taken(adapter, "a")
        await adapter.release(grant)
        grant.owner.lease.refreshed -= 5
        monkeypatch.setattr(adapter._leases._stream, "send", lambda request: None)
        with pytest.raises(BackendUnavailable):
            await adapter.acquire("a", 10, 0)
    finally:
        await adapter.close()


async def test_a_spare_lease_that_is_gone(etcd: Etcd) -> None:
    """A spare lease that etcd does not know any more is replaced without anybody noticing."""
    async with lock_of(etcd) as adapter, Etcd3Client([etcd.nodes[0].address]) as bare:
        assert bare.lease is not None
        for name in ("a", "b"):
            await adapter.release(await taken(adapter, name))
            for lease in (await bare.lease.leases()).leases:
                await bare.lease.revoke(lease.ID)
            await adapter.release(await taken(adapter, name))


async def test_nothing_stays(etcd: Etcd) -> None:
    """When an adapter is closed, neither keys nor leases of it are left."""
    async with Etcd3Client([etcd.nodes[0].address]) as bare:
        async with lock_of(etcd) as adapter:
            for number in range(20):
                grant = await taken(adapter, f"{number}", 5 + number % 3)
                if number % 2:
                    await adapter.release(grant)
        assert bare.lease is not None
        assert bare.kv is not None
        assert not (await bare.lease.leases()).leases
        assert not (await bare.kv.get(b"\0", range_end=b"\0")).kvs


async def test_abandoned_grants_are_forgotten(etcd: Etcd) -> None:
    """Grants that ended by their time, without a release, do not pile up."""
    async with lock_of(etcd) as adapter:
        for number in range(150):
            grant = await taken(adapter, f"{number}", 2)
            grant.owner.lease.refreshed -= 10
        assert len(adapter._held) <= 65


async def test_a_waiter_that_lost_its_place(etcd: Etcd) -> None:
    """A waiter whose key has gone (its process was paused) queues again, and is served."""
    async with (
        lock_of(etcd) as a,
        lock_of(etcd) as b,
        Etcd3Client([etcd.nodes[0].address]) as bare,
    ):
        held = await taken(a, "a")
        waiting = asyncio.create_task(taken(b, "a", wait=None))
        await eventually(lambda: b._watches._watches)
        assert bare.lease is not None
        (lease,) = b._leases._kept
        await bare.lease.revoke(lease.id)
        await a.release(held)
        async with asyncio.timeout(10):
            assert (await waiting).token > held.token


async def test_waiters_survive_their_ttl(etcd: Etcd) -> None:
    """Waiting may take longer than the ttl that is waited for: places are kept."""
    async with lock_of(etcd) as a, lock_of(etcd) as b:
        held = await taken(a, "a", 60)
        waiting = [asyncio.create_task(taken(b, "a", 2, None)) for _ in range(3)]
        await eventually(lambda: len(b._leases._kept) == 3)
        places = {lease.id for lease in b._leases._kept}
        await asyncio.sleep(5)
        assert {lease.id for lease in b._leases._kept} == places
        await a.release(held)
        for task in waiting:
            await b.release(await task)


async def test_many_waiters_who_give_up(etcd: Etcd) -> None:
    """Waiters behind some that gave up are served as if those had never been there."""
    async with lock_of(etcd) as a, lock_of(etcd) as b:
        held = await taken(a, "a", 60)
        impatient = [asyncio.create_task(b.acquire("a", 5, 0.5)) for _ in range(10)]
        await asyncio.sleep(0.2)
        patient = asyncio.create_task(taken(b, "a", wait=None))
        assert await asyncio.gather(*impatient) == [None] * 10
        assert not patient.done()
        await asyncio.sleep(0.2)
        assert not patient.done()
        await a.release(held)
        async with asyncio.timeout(10):
            await patient


async def test_short_times_become_two_seconds(etcd: Etcd) -> None:
    """Less than the least ttl is granted as the least, and told: etcd counts whole seconds."""
    async with App("short", lock=etcd.url) as app:
        lease = await app.lock_manager.acquire("a", ttl=0.1)
        assert math.isclose(lease.grant.ttl, 2)


async def test_leaders_and_instances(etcd_cluster: Etcd) -> None:
    """Who leads and who is there is seen by every instance."""
    url = etcd_cluster.url
    async with App("shop", lock=url) as one, App("shop", lock=url) as two:
        async with one.lock_manager.leader("boss").campaign() as lease:
            leader = await two.lock_manager.leader("boss").current()
            assert leader is not None
            assert leader.token == lease.token
        assert await two.lock_manager.leader("boss").current() is None
        assert {each.id for each in await two.instances()} == {one.instance_id, two.instance_id}
