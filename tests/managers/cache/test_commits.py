"""Writes that wait for a transaction."""

from __future__ import annotations

import asyncio

import pytest

from corekit.errors import (
    BackendRefused,
    BackendUnavailable,
    InvalidArgument,
    InvalidType,
    NotOpenError,
    SerializationError,
)


async def settled():
    """Let what was started come to its end."""
    await asyncio.sleep(1)


async def test_written_after_the_commit(shop):
    """Nothing is written before the commit, and everything after it."""
    async with shop.cache() as cache:
        await cache.set("old", 1)
        transaction = shop.Transaction()
        await cache.set("key", "value", transaction=transaction)
        assert await cache.delete("old", transaction=transaction) is False
        await settled()
        assert sorted(await cache.keys()) == ["old"]
        transaction.commit()
        await settled()
        assert await cache.keys() == ["key"]
        assert await cache.get("key") == "value"


async def test_never_after_a_rollback(shop):
    """A transaction that does not commit writes nothing."""
    async with shop.cache() as cache:
        await cache.set("key", 1, transaction=shop.Transaction())
        await settled()
        assert await cache.keys() == []


async def test_a_commit_in_another_thread(shop):
    """The transaction may commit in whatever thread."""
    async with shop.cache() as cache:
        transaction = shop.Transaction()
        await cache.set("key", 1, transaction=transaction)
        await asyncio.get_running_loop().run_in_executor(None, transaction.commit)
        await settled()
        assert await cache.get("key") == 1


async def test_the_state_at_the_call(shared):
    """The value is encoded in the call: what changes later, or cannot be encoded, shows there."""
    async with shared.cache() as cache:
        transaction = shared.Transaction()
        value = {"a": 1}
        await cache.set("key", value, transaction=transaction)
        value["a"] = 2
        with pytest.raises(SerializationError):
            await cache.set("other", object(), transaction=transaction)
        transaction.commit()
        await settled()
        assert await cache.get("key") == {"a": 1}
        assert await cache.get("other") is None


async def test_the_ttl_counts_from_the_commit(shop):
    """However long the transaction takes, the value is there for its ttl."""
    async with shop.cache() as cache:
        transaction = shop.Transaction()
        await cache.set("key", 1, 5, transaction=transaction)
        shop.clock.jump(100)
        transaction.commit()
        await settled()
        assert await cache.ttl("key") == pytest.approx(4, abs=0.1)


async def test_in_the_order_of_the_calls(shop):
    """Of several writes of one key in a transaction the last one stays."""
    async with shop.cache() as cache:
        transaction = shop.Transaction()
        for number in range(10):
            await cache.set("key", number, transaction=transaction)
        await cache.set("gone", 1, transaction=transaction)
        await cache.delete("gone", transaction=transaction)
        transaction.commit()
        await settled()
        assert await cache.get("key") == 9
        assert await cache.get("gone") is None


async def test_a_delete_after_a_commit_wins_over_a_load(shop, loader):
    """A key that is deleted by a commit during its load is not stored by it."""
    async with shop.cache() as cache:
        load = loader("old").hold()
        waiting = asyncio.create_task(cache.wrap("key", load))
        await settled()
        transaction = shop.Transaction()
        await cache.delete("key", transaction=transaction)
        transaction.commit()
        await settled()
        load.release()
        assert await waiting == "old"
        assert await cache.get("key", "missing") == "missing"


@pytest.mark.parametrize("transaction", [0, "", object(), [], False])
async def test_what_is_no_transaction(shop, transaction):
    """An unknown object is refused by the call."""
    async with shop.cache() as cache:
        with pytest.raises((InvalidType, InvalidArgument)):
            await cache.set("key", 1, transaction=transaction)
        with pytest.raises((InvalidType, InvalidArgument)):
            await cache.delete("key", transaction=transaction)


async def test_a_store_that_is_away(remote, caplog):
    """A write is tried again while the store is away."""
    async with remote.cache() as cache:
        transaction = remote.Transaction()
        await cache.set("key", 1, transaction=transaction)
        remote.faults.failures["set"] = BackendUnavailable("away")
        transaction.commit()
        await asyncio.sleep(20)
        remote.faults.failures.clear()
        await asyncio.sleep(10)
        assert await cache.get("key") == 1
    assert not caplog.records


@pytest.mark.parametrize("error", [BackendUnavailable("away"), BackendRefused("too large")])
async def test_a_write_that_is_given_up(remote, caplog, error):
    """After half a minute, or at once if it will not help, an error names cache and key."""
    async with remote.cache() as cache:
        transaction = remote.Transaction()
        remote.faults.failures["set"] = error
        await cache.set("key", "secret", transaction=transaction)
        transaction.commit()
        await asyncio.sleep(60)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "cache 'default', key 'key'" in record.getMessage()
    assert str(error) in record.getMessage()
    assert "secret" not in record.getMessage()


async def test_stopping_waits_for_commits(remote, caplog):
    """A write whose transaction has committed is done before the store is closed."""
    async with remote.running("a") as (manager,):
        transaction = remote.Transaction()
        await manager.default.set("key", 1, transaction=transaction)
        transaction.commit()
        await asyncio.sleep(0)
        await manager.close()
        assert remote.faults.calls["set"] == 1
        late = remote.Transaction()
        with pytest.raises(NotOpenError):
            await manager.default.set("key", 1, transaction=late)
    assert not caplog.records


async def test_stopping_does_not_wait_for_ever(remote, caplog):
    """A write that hangs when the App stops is given up, with an error in the log."""
    async with remote.running("a") as (manager,):
        transaction = remote.Transaction()
        await manager.default.set("key", 1, transaction=transaction)
        remote.faults.hangs.add("set")
        transaction.commit()
        await settled()
        await manager.close()
    (record,) = caplog.records
    assert "cache 'default', key 'key'" in record.getMessage()


async def test_a_commit_after_the_stop(shop, caplog):
    """A write whose transaction commits when the App is stopped is an error in the log."""
    async with shop.running("a") as (manager,):
        transaction = shop.Transaction()
        await manager.default.set("key", 1, transaction=transaction)
        await manager.close()
        transaction.commit()
        await settled()
    (record,) = caplog.records
    assert "cache 'default', key 'key'" in record.getMessage()
