"""Writes that happen only while a lock is held."""

from __future__ import annotations

import asyncio

import pytest
from corekit_etcd.guard import held
from etcd3aio import Etcd3Client
from etcd3aio.kv import KVService

from corekit import App, InvalidArgument, Lease

from .servers import Etcd


async def _write(client: Etcd3Client, lease: Lease, value: str) -> bool:
    assert client.kv is not None
    done = await client.kv.txn([held(lease)], [KVService.txn_op_put("guarded", value)])
    return bool(done.succeeded)


async def test_only_the_holder_writes(shared_etcd: Etcd) -> None:
    """A guarded write happens while the lease is held, and not once it is another's."""
    endpoint = shared_etcd.url.removeprefix("etcd://")
    async with App("guard", lock=shared_etcd.url) as app, Etcd3Client([endpoint]) as client:
        first = await app.lock_manager.acquire("k")
        assert await _write(client, first, "first")
        await first.release()
        assert not await _write(client, first, "nobody holds it")
        second = await asyncio.create_task(app.lock_manager.acquire("k"))
        assert not await _write(client, first, "too late")
        assert await _write(client, second, "second")
        assert client.kv is not None
        assert (await client.kv.get("guarded")).kvs[0].value == b"second"


async def test_another_backends_lock(shared_etcd: Etcd) -> None:
    """A lock that is not kept in etcd is refused."""
    async with App("guard") as app:
        with pytest.raises(InvalidArgument, match="not a lock in etcd"):
            held(await app.lock_manager.acquire("k"))
