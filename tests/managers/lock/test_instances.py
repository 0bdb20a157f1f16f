"""Instances: who is there, who joins, who leaves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from corekit.errors import BackendUnavailable, NotOpenError, SerializationError
from corekit.managers.instances import TTL, InstanceRegistry
from corekit.testing import eventually


@asynccontextmanager
async def joined(locks, instance_id, app="shop", **metadata):
    """Open a manager and a registry for one instance."""
    context = locks.context(app, instance_id)
    manager = locks.manager(app, instance_id)
    registry = InstanceRegistry(context, manager, metadata)
    await manager.open(locks.backend())
    try:
        await registry.open()
        try:
            yield registry
        finally:
            await registry.close()
    finally:
        await manager.close()


async def ids(registry):
    """Return who is there."""
    return [instance.id for instance in await registry.instances()]


async def test_every_instance_is_seen(locks, clock):
    """All instances of the application are listed, the oldest first, with what they show."""
    async with joined(locks, "a", zone="eu", tags=["x"]) as a:
        await asyncio.sleep(5)
        async with joined(locks, "b") as b, joined(locks, "c", "other") as c:
            assert await ids(a) == await ids(b) == ["a", "b"]
            assert await ids(c) == ["c"]
            first, second = await b.instances()
            assert first.metadata == {"zone": "eu", "tags": ["x"]}
            assert second.metadata == {}
            assert second.started - first.started == pytest.approx(5, abs=0.01)
            assert second.started == pytest.approx(clock.time(), abs=0.01)


async def test_an_instance_stays(locks):
    """A living instance is seen for as long as it lives."""
    async with joined(locks, "a") as a, joined(locks, "b") as b:
        for _ in range(20):
            await asyncio.sleep(TTL)
            assert await ids(a) == await ids(b) == ["a", "b"]


async def test_an_instance_that_stops_leaves_at_once(locks):
    """Stopping is seen at once."""
    async with joined(locks, "a") as a:
        async with joined(locks, "b"):
            pass
        assert await ids(a) == ["a"]


async def test_leaving_while_the_locks_are_open(locks):
    """Leaving releases what the registry holds, and ends its renewal."""
    async with joined(locks, "a") as a, joined(locks, "b") as b:
        await asyncio.sleep(1)
        await b.close()
        assert await ids(a) == ["a"]
        assert repr(b._locks._session.renewals) == "<RenewalSchedule waiting=0>"


async def test_the_locks_are_closed_first(locks, caplog):
    """A registry whose lock manager was closed ends quietly."""
    manager = locks.manager()
    registry = InstanceRegistry(locks.context(), manager)
    await manager.open(locks.backend())
    await registry.open()
    await asyncio.sleep(1)
    await manager.close()
    await asyncio.sleep(1)
    await registry.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_instance_that_dies_disappears(locks, clock):
    """An instance that is cut off for good is gone for the others within its ttl."""
    manager, backend = locks.manager("shop", "b"), locks.backend()
    await manager.open(backend)
    dying = InstanceRegistry(locks.context("shop", "b"), manager)
    await dying.open()
    async with joined(locks, "a") as a:
        await asyncio.sleep(101)
        for method in ("acquire", "extend", "release"):
            backend.hang(method)
        start = clock.monotonic()
        await asyncio.sleep(TTL / 2)
        assert await ids(a) == ["b", "a"]
        while await ids(a) != ["a"]:
            assert clock.monotonic() - start <= TTL
            await asyncio.sleep(0.1)
    backend.hanging.clear()
    await dying.close()
    await manager.close()


async def test_joins_and_leaves(locks):
    """The iterator yields those who are there, then each one that joins or leaves."""
    seen = []

    async def watch(registry):
        async for change in registry.instances():
            seen.append((change.event, change.instance.id))  # noqa: PERF401 - read meanwhile

    async with joined(locks, "a") as a:
        watching = asyncio.create_task(watch(a))
        await eventually(lambda: seen == [("joined", "a")])
        async with AsyncExitStack() as stack:
            for name in ("b", "c"):
                await stack.enter_async_context(joined(locks, name))
                await asyncio.sleep(TTL)
            assert seen == [("joined", "a"), ("joined", "b"), ("joined", "c")]
            seen.clear()
        await eventually(lambda: seen == [("left", "c"), ("left", "b")])
    with pytest.raises(NotOpenError):
        await watching


async def test_an_instance_that_was_away_joins_again(locks, clock, caplog):
    """A paused instance leaves and joins again, both are seen, and it logs that it was away."""
    seen = []

    async def watch(registry):
        async for change in registry.instances():
            seen.append((change.event, change.instance.id))  # noqa: PERF401 - read meanwhile

    async with joined(locks, "a") as a:
        await asyncio.sleep(1)
        watching = asyncio.create_task(watch(a))
        await eventually(lambda: seen == [("joined", "a")])
        clock.jump(2 * TTL)
        await asyncio.sleep(1)
        assert await ids(a) == ["a"]
        await eventually(lambda: seen == [("joined", "a"), ("left", "a"), ("joined", "a")])
        watching.cancel()
    assert "not seen" in caplog.text


async def test_an_outage_is_survived(locks, caplog):
    """An instance that cannot reach the backend tries again until it can."""
    context, manager, backend = locks.context(), locks.manager(), locks.backend()
    await manager.open(backend)
    registry = InstanceRegistry(context, manager)
    await registry.open()
    for method in ("acquire", "extend"):
        backend.failures[method] = BackendUnavailable("away")
    await asyncio.sleep(3 * TTL)
    assert await ids(registry) == []
    backend.failures.clear()
    await asyncio.sleep(5)
    assert await ids(registry) == ["a"]
    await registry.close()
    await manager.close()
    assert locks.free()


async def test_a_backend_that_is_away_at_the_start(locks):
    """If the instance cannot join, its start fails with the backend's error."""
    context, manager, backend = locks.context(), locks.manager(), locks.backend()
    await manager.open(backend)
    backend.failures["acquire"] = BackendUnavailable("away")
    with pytest.raises(BackendUnavailable):
        await InstanceRegistry(context, manager).open()
    await manager.close()


async def test_two_instances_with_one_id(locks, caplog):
    """The second one is told, is not seen while the first lives, and follows it then."""
    async with AsyncExitStack() as first:
        await first.enter_async_context(joined(locks, "a", first=True))
        async with joined(locks, "a", first=False) as second:
            assert "still held" in caplog.text
            assert [each.metadata for each in await second.instances()] == [{"first": True}]
            await first.aclose()
            await asyncio.sleep(1)
            assert [each.metadata for each in await second.instances()] == [{"first": False}]


async def test_metadata_that_cannot_be_written(locks):
    """Metadata must be serialisable; else the start fails and nothing is held."""
    context, manager = locks.context(), locks.manager()
    await manager.open(locks.backend())
    with pytest.raises(SerializationError, match="metadata"):
        await InstanceRegistry(context, manager, {"x": object()}).open()
    assert locks.free()
    await manager.close()


async def test_starting_again(locks):
    """A registry may be closed and opened again."""
    context, manager = locks.context(), locks.manager()
    registry = InstanceRegistry(context, manager)
    for _ in range(2):
        await manager.open(locks.backend())
        await registry.open()
        assert await ids(registry) == ["a"]
        await registry.close()
        await registry.close()
        await manager.close()
    with pytest.raises(NotOpenError):
        await registry.instances()
