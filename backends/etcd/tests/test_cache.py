"""What the cache does beyond its contract: sizes, pages, shared leases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from corekit_etcd.cache import Cache
from corekit_etcd.driver import Call
from etcd3aio import Etcd3Client

from corekit import App
from corekit.config import BackendURL
from corekit.errors import BackendRefused
from corekit.testing.contexts import make_context

from .servers import Etcd


@asynccontextmanager
async def cache_of(url: str) -> AsyncIterator[Cache]:
    """Open the cache of *url*."""
    cache = Cache(BackendURL.parse(url), make_context())
    try:
        await cache.open()
        yield cache
    finally:
        await cache.close()


def counted(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Return the calls that *cache* makes from now on."""
    calls: list[Call] = []
    send = cache._client.call

    async def call(name: Call, request: Any, **options: Any) -> Any:
        calls.append(name)
        return await send(name, request, **options)

    monkeypatch.setattr(cache._client, "call", call)
    return calls


async def test_a_value_that_is_too_large(shared_etcd: Etcd) -> None:
    """A value above the limit of a request is refused with both sizes, before anything is sent."""
    async with cache_of(shared_etcd.url) as cache:
        space = cache.space("large/cache/a")
        await space.set("key", b"old", None)
        for write in (
            space.set("key", bytes(1536 * 1024), None),
            space.set_many({"other": b"1", "key": bytes(1536 * 1024)}, None),
            space.swap("key", bytes(1536 * 1024), None, None),
        ):
            with pytest.raises(BackendRefused, match=r"1572864.*1572864"):
                await write
        assert await space.get("other") is None
        largest = bytes(1536 * 1024 - 400)
        await space.set("key", largest, 60)
        assert (await space.get_many(["key"]))[0] is not None


async def test_a_server_that_takes_less(etcd: Etcd) -> None:
    """What only the server finds too large is refused as well, not tried again."""
    small = Etcd(etcd.nodes[0].data.parent / "small", 1, "--max-request-bytes", "100000")
    try:
        small.start()
        async with cache_of(small.url) as cache:
            with pytest.raises(BackendRefused):
                await cache.space("a/cache/a").set("key", bytes(200_000), None)
    finally:
        small.kill()


async def test_many_large_values(shared_etcd: Etcd) -> None:
    """Many values are written, read and removed in as many transactions as they need."""
    async with cache_of(shared_etcd.url) as cache:
        space = cache.space("many/cache/a")
        entries = {f"{number}": bytes(100_000) + b"%d" % number for number in range(300)}
        await space.set_many(entries, 60)
        found = await space.get_many(list(entries))
        assert [each and each.value for each in found] == list(entries.values())
        assert await space.delete(list(entries)) == list(entries.values())


async def test_more_keys_than_a_page(shared_etcd: Etcd) -> None:
    """Listing and clearing go page by page through any number of keys."""
    async with cache_of(shared_etcd.url) as cache:
        space, beside = cache.space("pages/cache/a"), cache.space("pages/cache/ab")
        await beside.set("x", b"1", None)
        entries = {f"{number}": b"" for number in range(2500)}
        await space.set_many(entries, None)
        assert sorted(await space.keys()) == sorted(entries)
        await space.clear()
        assert await space.keys() == []
        assert await beside.keys() == ["x"]


async def test_entries_share_leases(shared_etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of about the same lifetime share a lease; a thousand are the most."""
    async with cache_of(shared_etcd.url) as cache:
        space = cache.space("leases/cache/a")
        calls = counted(cache, monkeypatch)
        for number in range(100):
            await space.set(f"{number}", b"1", 60 + number / 50)
        assert calls.count(Call.GRANT) <= 2
        calls.clear()
        await space.set_many({f"{number}": b"1" for number in range(2000)}, 60)
        assert 1 <= calls.count(Call.GRANT) <= 3


async def test_a_lease_that_ends_too_soon(
    shared_etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared lease serves only entries whose lifetime it outlasts."""
    async with cache_of(shared_etcd.url) as cache:
        space = cache.space("soon/cache/a")
        calls = counted(cache, monkeypatch)
        await space.set("a", b"1", 60)
        (bucket,) = cache._lifetimes._buckets.values()
        assert bucket.lease is not None
        left = bucket.lease.ttl - 60
        bucket.lease.refreshed -= left - 5
        await space.set("a", b"1", 60)
        assert calls.count(Call.GRANT) == 1
        bucket.lease.refreshed -= 5
        await space.set("a", b"1", 60)
        assert calls.count(Call.GRANT) == 2


async def test_a_lease_that_is_gone(shared_etcd: Etcd) -> None:
    """A shared lease that etcd does not know any more is replaced, and nothing is lost."""
    async with (
        cache_of(shared_etcd.url) as cache,
        Etcd3Client([shared_etcd.nodes[0].address]) as bare,
    ):
        space = cache.space("gone/cache/a")
        assert bare.lease is not None
        for write in (
            lambda: space.set("key", b"1", 60),
            lambda: space.set_many({"key": b"1"}, 60),
            lambda: space.swap("key", b"1", None, 60),
        ):
            await space.set("first", b"1", 60)
            for lease in (await bare.lease.leases()).leases:
                await bare.lease.revoke(lease.ID)
            await write()
            assert await space.get("key") is not None
            await space.delete(["key"])


async def test_through_an_app(shared_etcd: Etcd) -> None:
    """Counts, fields and short lifetimes are exact among the instances of an application."""
    url = shared_etcd.url
    async with App("through", cache=url) as one, App("through", cache=url) as two:
        for _ in range(10):
            await one.cache.increment("count")
            await two.cache.increment("count")
        assert await one.cache.get("count") == 20
        await one.cache.set_value_in_object("object", "a", 1)
        await two.cache.set_value_in_object("object", "b", 2)
        assert await one.cache.get("object") == {"a": 1, "b": 2}
        assert await one.cache.add("short", 1, 0.05)
        left = await two.cache.ttl("short")
        assert left is None or left <= 0.05
