"""What becomes of locks and values when servers die, hang, or lose answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from corekit_etcd import client as sharing
from corekit_etcd.cache import Cache
from corekit_etcd.driver import Call, Endpoint, RangeRequest, StatusRequest
from corekit_etcd.lock import Lock
from etcd3aio import Etcd3Client

from corekit import App
from corekit.adapters import Grant
from corekit.config import Address, BackendURL
from corekit.errors import BackendUnavailable, LockLost, OutcomeUnknown
from corekit.testing import Proxy, eventually, free_port
from corekit.testing.contexts import make_context

from .servers import Etcd, Node


@asynccontextmanager
async def locks(url: str, count: int = 1) -> AsyncIterator[list[Lock]]:
    """Open *count* adapters, each as another process would."""
    adapters = [Lock(BackendURL.parse(url), make_context()) for _ in range(count)]
    try:
        for adapter in adapters:
            await adapter.open()
        yield adapters
    finally:
        for adapter in adapters:
            await adapter.close()


async def taken(adapter: Lock, name: str, ttl: float = 10, wait: float | None = 0) -> Grant:
    """Acquire *name*, which must succeed."""
    grant = await adapter.acquire(name, ttl, wait)
    assert grant is not None
    return grant


@asynccontextmanager
async def endpoint(node: Node) -> AsyncIterator[Endpoint]:
    """Speak to *node* without anything in between."""
    found = Endpoint(Address("127.0.0.1", node.port), None)
    try:
        yield found
    finally:
        await found.close()


async def leader(etcd: Etcd) -> Node:
    """Return the node that leads."""
    for node in etcd.nodes:
        async with endpoint(node) as each:
            status = await each.calls[Call.STATUS](StatusRequest(), timeout=5)
            if status.leader == status.header.member_id:
                return node
    raise AssertionError("nobody leads")


async def keys_in(etcd: Etcd) -> list[bytes]:
    """Return every key that is in the cluster."""
    async with endpoint(next(node for node in etcd.nodes if node.runs)) as each:
        request = RangeRequest(key=b"\0", range_end=b"\0", keys_only=True)
        answer = await each.calls[Call.RANGE](request, timeout=5)
    return [found.key for found in answer.kvs]


async def until_keys(etcd: Etcd, count: int) -> None:
    """Wait until *count* keys are in the cluster."""
    async with asyncio.timeout(10):
        while len(await keys_in(etcd)) != count:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.01)


async def test_the_leader_dies_while_locks_are_held_and_waited_for(etcd_cluster: Etcd) -> None:
    """A holder keeps what it holds, its waiters stay in order, and everything goes on."""
    async with locks(etcd_cluster.url, 3) as adapters:
        held = await taken(adapters[0], "a", 20)
        served: list[int] = []
        tokens = [held.token]

        async def wait(number: int) -> None:
            grant = await taken(adapters[number % 3], "a", 20, None)
            served.append(number)
            tokens.append(grant.token)
            await adapters[number % 3].release(grant)

        async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
            for number in range(6):
                tasks.create_task(wait(number))
                await asyncio.sleep(0.1)
            (await leader(etcd_cluster)).kill()
            extended = await adapters[0].extend(held, 20)
            assert extended is not None
            assert await adapters[1].acquire("a", 20, 0) is None
            await adapters[0].release(extended)
        assert served == list(range(6))
        assert tokens == sorted(set(tokens))


async def test_a_node_hangs(etcd_cluster: Etcd) -> None:
    """Calls go on at another node after two seconds, with the locks that are held."""
    async with locks(etcd_cluster.url, 6) as adapters:
        grants = [await taken(adapter, f"{n}") for n, adapter in enumerate(adapters)]
        node = await leader(etcd_cluster)
        node.pause()
        try:
            start = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                extended = [
                    tasks.create_task(adapter.extend(grant, 10))
                    for adapter, grant in zip(adapters, grants, strict=True)
                ]
            assert all(task.result() is not None for task in extended)
            # A try, and the election.
            assert time.monotonic() - start < 5
        finally:
            node.resume()


async def test_a_node_hangs_while_a_lock_is_waited_for(etcd_cluster: Etcd) -> None:
    """A waiter whose server falls silent soon hears from another one that it is its turn."""
    async with locks(etcd_cluster.url, 2) as (a, b):
        leading = await leader(etcd_cluster)
        silent = next(node for node in etcd_cluster.nodes if node is not leading)
        for adapter, node in ((a, leading), (b, silent)):
            connection = adapter._client.connection
            while connection.endpoint.text != node.address:
                connection.failed(connection.endpoint)
        held = await taken(a, "a", 30)
        waiting = asyncio.create_task(taken(b, "a", 2, None))
        await eventually(lambda: b._watches._watches)
        silent.pause()
        try:
            await a.release(held)
            # It is noticed because the place is refreshed after a third of its time.
            async with asyncio.timeout(6):
                await waiting
        finally:
            silent.resume()


@pytest.mark.parametrize("fixture", ["etcd", "etcd_cluster"])
async def test_every_node_hangs_past_the_ttl(fixture: str, request: pytest.FixtureRequest) -> None:
    """The holder knows in time that it lost the lock; the next one's token is greater."""
    servers: Etcd = request.getfixturevalue(fixture)
    async with App("shop", lock=servers.url) as app:
        began = asyncio.Event()
        token = 0

        async def work(lease: Any) -> None:
            nonlocal token
            token = lease.token
            began.set()
            await asyncio.sleep(60)

        working = asyncio.create_task(app.lock_manager.run_exclusive("a", work, ttl=3))
        await began.wait()
        for node in servers.nodes:
            node.pause()
        start = time.monotonic()
        try:
            with pytest.raises(LockLost):
                await working
            # At its own deadline, which is before the ttl is over.
            assert time.monotonic() - start < 3.0
            with pytest.raises(BackendUnavailable):
                await app.lock_manager.acquire("b", ttl=3)
        finally:
            for node in servers.nodes:
                node.resume()
        async with asyncio.timeout(30), await app.lock_manager.acquire("a", ttl=3) as lease:
            assert lease.token > token


async def test_a_short_pause_loses_nothing(etcd: Etcd) -> None:
    """A server that hangs for less than the ttl costs no lock."""
    async with (
        App("shop", lock=etcd.url) as app,
        asyncio.timeout(30),
        app.lock_manager.lock("a", ttl=4) as lease,
    ):
        etcd.nodes[0].pause()
        await asyncio.sleep(1.5)
        etcd.nodes[0].resume()
        await asyncio.sleep(4)
        assert lease.held


@pytest.mark.parametrize("other", ["127.0.0.1:{port}", "no-such-host.invalid:2379"])
async def test_an_endpoint_that_never_answers(etcd: Etcd, other: str) -> None:
    """One endpoint that cannot be reached from the start does not matter."""
    url = f"etcd://{other.format(port=free_port())},{etcd.nodes[0].address}"
    for _ in range(3):
        async with locks(url) as (adapter,):
            await adapter.release(await taken(adapter, "a"))


async def test_nobody_answers() -> None:
    """With no server, opening fails in its time and names every endpoint that was tried."""
    ports = [free_port(), free_port()]
    url = f"etcd://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}?connect_timeout=2"
    adapter = Lock(BackendURL.parse(url), make_context())
    start = time.monotonic()
    with pytest.raises(BackendUnavailable) as caught:
        await adapter.open()
    assert time.monotonic() - start < 4
    assert all(f"127.0.0.1:{port}" in str(caught.value) for port in ports)
    await adapter.close()


_HOLDER = """
import asyncio, sys
from corekit import App

async def main(url):
    async with App("shop", lock=url) as app:
        async with app.lock_manager.lock("a", ttl=3) as lease:
            print(lease.token, flush=True)
            await asyncio.sleep(60)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_holder_is_killed(etcd: Etcd) -> None:
    """A key whose holder died is free at most 1.5 s after its ttl, with a greater token."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDER, etcd.url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        token = int(await holder.stdout.readline())
    finally:
        holder.kill()
        await holder.wait()
    async with App("shop", lock=etcd.url) as app:
        start = time.monotonic()
        async with await app.lock_manager.acquire("a", wait=10) as lease:
            assert time.monotonic() - start < 3 + 1.5 + 0.3
            assert lease.token > token


async def test_cancelled_waiters_leave_no_keys(etcd: Etcd) -> None:
    """Waiters that are cancelled at any moment are out of the queue, and out of the store."""
    async with locks(etcd.url, 2) as (a, b):
        held = await taken(a, "a")
        for round_ in range(8):
            waiting = [asyncio.create_task(b.acquire("a", 60, None)) for _ in range(25)]
            for _ in range(round_ * 5):
                await asyncio.sleep(0.001)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
        await a.release(held)
        await b.release(await taken(b, "a", wait=10))
        await until_keys(etcd, 0)
        assert not b._watches._watches
        assert not b._leases._kept


async def test_a_lost_answer_to_an_acquisition(etcd: Etcd) -> None:
    """An acquisition that was done, without the answer arriving, is found to be done."""
    async with Proxy(etcd.nodes[0].port) as proxy, locks(f"etcd://{proxy.address}") as (adapter,):
        await adapter.release(await taken(adapter, "warm"))
        proxy.answers.losing = True
        taking = asyncio.create_task(adapter.acquire("a", 10, 0))
        await until_keys(etcd, 1)
        proxy.answers.losing = False
        proxy.cut()
        grant = await taking
        assert grant is not None
        assert len(await keys_in(etcd)) == 1
        assert await adapter.acquire("a", 10, 0) is None
        await adapter.release(grant)
        assert await keys_in(etcd) == []


async def test_a_lost_answer_to_a_write(etcd: Etcd) -> None:
    """A write or swap whose answer was lost is not repeated; its outcome is called unknown."""
    async with Proxy(etcd.nodes[0].port) as proxy:
        cache = Cache(BackendURL.parse(f"etcd://{proxy.address}"), make_context())
        await cache.open()
        try:
            space = cache.space("shop/cache/a")
            await space.set("a", b"1", None)
            proxy.answers.losing = True
            writing = asyncio.create_task(space.swap("b", b"2", None, None))
            await until_keys(etcd, 2)
            proxy.answers.losing = False
            proxy.cut()
            with pytest.raises(OutcomeUnknown):
                await writing
            found = await space.get("b")
            assert found is not None
            assert found.value == b"2"
        finally:
            await cache.close()


async def test_a_lost_answer_to_a_new_lease(etcd: Etcd) -> None:
    """A lease that was granted, without the answer arriving, is found to be granted."""
    async with (
        Etcd3Client([etcd.nodes[0].address]) as bare,
        Proxy(etcd.nodes[0].port) as proxy,
        locks(f"etcd://{proxy.address}") as (adapter,),
    ):
        assert bare.lease is not None
        proxy.answers.losing = True
        taking = asyncio.create_task(adapter.acquire("a", 10, 0))
        async with asyncio.timeout(10):
            while not (await bare.lease.leases()).leases:  # noqa: ASYNC110 - nobody tells when
                await asyncio.sleep(0.01)
        proxy.answers.losing = False
        proxy.cut()
        assert await taking is not None
        assert len((await bare.lease.leases()).leases) == 1


async def test_a_server_that_accepts_and_says_nothing(etcd: Etcd) -> None:
    """What was certainly not sent is not called unknown."""
    async with Proxy(etcd.nodes[0].port) as proxy:
        cache = Cache(BackendURL.parse(f"etcd://{proxy.address}?timeout=2"), make_context())
        await cache.open()
        try:
            proxy.answers.losing = True
            proxy.cut()
            await eventually(lambda: not cache._client.connection.endpoint.is_connected)
            with pytest.raises(BackendUnavailable) as caught:
                await cache.space("shop/cache/a").set("a", b"1", None)
            assert type(caught.value) is BackendUnavailable
        finally:
            await cache.close()


async def test_a_cut_connection_while_waiting(etcd: Etcd) -> None:
    """A waiter whose connection was cut learns what happened meanwhile."""
    async with (
        Proxy(etcd.nodes[0].port) as proxy,
        locks(etcd.url) as (a,),
        locks(f"etcd://{proxy.address}") as (b,),
    ):
        held = await taken(a, "a")
        waiting = asyncio.create_task(taken(b, "a", 10, None))
        await asyncio.sleep(0.2)
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(0.2)
        await a.release(held)
        await asyncio.sleep(0.2)
        assert not waiting.done()
        proxy.refusing = False
        async with asyncio.timeout(10):
            assert (await waiting).token > held.token


async def test_compacted_history(etcd: Etcd) -> None:
    """A waiter whose connection was cut notices what was compacted away, and looks again."""
    async with (
        Etcd3Client([etcd.nodes[0].address]) as bare,
        Proxy(etcd.nodes[0].port) as proxy,
        locks(etcd.url) as (a,),
        locks(f"etcd://{proxy.address}") as (b,),
    ):
        held = await taken(a, "a")
        waiting = asyncio.create_task(taken(b, "a", 10, None))
        await asyncio.sleep(0.2)
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(0.1)
        await a.release(held)
        assert bare.kv is not None
        for _ in range(5):
            revision = (await bare.kv.put("x", b"")).header.revision
        await bare.kv.compact(revision, physical=True)
        proxy.refusing = False
        async with asyncio.timeout(10):
            assert (await waiting).token > held.token


async def test_the_connection_is_shared_and_closed(etcd: Etcd) -> None:
    """The adapters of one App use one connection, which ends with the last of them."""
    context = make_context()
    url = BackendURL.parse(etcd.url)
    lock, cache = Lock(url, context), Cache(url, context)
    await lock.open()
    await cache.open()
    assert len(sharing._connections) == 1
    await lock.close()
    assert len(sharing._connections) == 1
    await cache.close()
    await eventually(lambda: not sharing._connections)
