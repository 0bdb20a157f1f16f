"""What other programs write below our prefix: nobody trips over it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from corekit_etcd.cache import Cache
from corekit_etcd.lock import Lock
from corekit_etcd.membership import SHOWN
from etcd3aio import Etcd3Client
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from corekit import App
from corekit.config import BackendURL
from corekit.testing import make_context

from .servers import Etcd

numbers = itertools.count(1)

KEYS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"", b"\0", b"\0\0", b"\xff\xfe", b"a\0b", b"/", b"/x\0p", b"a/b\0\xff"]),
)
VALUES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"", b"w", b"o", SHOWN, SHOWN + b"x", SHOWN + b"\x93\x01\x02"]),
)
FOREIGN = st.dictionaries(KEYS, VALUES, max_size=4)


@asynccontextmanager
async def written(url: str, start: bytes, foreign: dict[bytes, bytes]) -> AsyncIterator[None]:
    """Keep *foreign* keys and values, below *start*, in etcd."""
    async with Etcd3Client([url.removeprefix("etcd://")]) as bare:
        assert bare.kv is not None
        for key, value in foreign.items():
            await bare.kv.put(start + key, value)
        try:
            yield
        finally:
            for key in foreign:
                await bare.kv.delete(start + key)


SLOW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SLOW
@given(FOREIGN)
@example({b"\xff": b"x"})
def test_foreign_keys_in_a_cache(shared_etcd: Etcd, foreign: dict[bytes, bytes]) -> None:
    """A space lists and serves its own, whatever else is in its range, and can be cleared."""

    async def run() -> None:
        cache = Cache(BackendURL.parse(shared_etcd.url), make_context())
        await cache.open()
        try:
            space = cache.space(f"foreign/cache/{next(numbers)}")
            await space.set("mine", b"v", None)
            async with written(shared_etcd.url, space._start, foreign):
                keys = await space.keys()
                assert "mine" in keys
                found = await space.get_many(keys)
                assert all(one is not None for one in found)
                await space.clear()
                assert await space.keys() == []
        finally:
            await cache.close()

    asyncio.run(run())


@SLOW
@given(VALUES)
@example(b"\x96\x01")
def test_a_foreign_value_in_a_cache(shared_etcd: Etcd, value: bytes) -> None:
    """It counts as missing, and is overwritten."""

    async def run() -> None:
        async with App(f"odd{next(numbers)}", cache=shared_etcd.url) as app:
            await app.cache.set("k", 1)
            async with Etcd3Client([shared_etcd.url.removeprefix("etcd://")]) as bare:
                assert bare.kv is not None
                start = f"corekit/cache/{app.name}/".encode()
                kept = (await bare.kv.get(start, range_end=start[:-1] + b"0")).kvs
                assert len(kept) == 1
                await bare.kv.put(kept[0].key, value)
            assert await app.cache.get("k") is None
            assert await app.cache.wrap("k", lambda: 2) == 2
            assert await app.cache.get("k") == 2

    asyncio.run(run())


@SLOW
@given(FOREIGN)
@example({b"/\xff\0p": SHOWN + b"x"})
@example({b"\0\xff": SHOWN})
def test_foreign_keys_among_members(shared_etcd: Etcd, foreign: dict[bytes, bytes]) -> None:
    """Who is a member is seen, whatever else is in the range."""

    async def run() -> None:
        lock = Lock(BackendURL.parse(shared_etcd.url), make_context())
        await lock.open()
        name = f"foreign/{next(numbers)}"
        try:
            grant = await lock.acquire(name, 10, 0)
            assert grant is not None
            assert await lock.announce(grant, b"me")
            async with written(shared_etcd.url, lock._root + name.encode(), foreign):
                members = await lock.members(name)
                assert (name, b"me") in [(one.name, one.value) for one in members]
                assert all(type(one.name) is str for one in members)
                async for seen in lock.watch(name):
                    assert seen == members
                    break
            await lock.release(grant)
        finally:
            await lock.close()

    asyncio.run(run())


@SLOW
@given(st.dictionaries(KEYS.map(lambda key: b"\0" + key), VALUES, min_size=1, max_size=2))
def test_foreign_keys_among_waiters(shared_etcd: Etcd, foreign: dict[bytes, bytes]) -> None:
    """A foreign key in the range of a lock holds it, as any holder does, until it has gone."""

    async def run() -> None:
        lock = Lock(BackendURL.parse(shared_etcd.url), make_context())
        await lock.open()
        name = f"foreign/{next(numbers)}"
        try:
            async with written(shared_etcd.url, lock._root + name.encode(), foreign):
                assert await lock.acquire(name, 10, 0) is None
                waiting = asyncio.ensure_future(lock.acquire(name, 10, 10))
                await asyncio.sleep(0.02)
                assert not waiting.done()
            grant = await waiting
            assert grant is not None
            await lock.release(grant)
        finally:
            await lock.close()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep what is logged about foreign values out of the report."""
    caplog.set_level("ERROR")
