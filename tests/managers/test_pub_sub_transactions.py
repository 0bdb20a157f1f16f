"""Messages that wait for a commit."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from corekit.errors import (
    BackendRefused,
    BackendUnavailable,
    InvalidType,
    SerializationError,
)
from corekit.testing import eventually


async def test_a_message_leaves_after_the_commit(cluster):
    """The call returns at once; nothing leaves before the commit, everything in order after it."""
    async with cluster.running("a", "b") as (a, b):
        log, transaction = cluster.Log(), cluster.Transaction()
        await b.subscribe("c", log, on_gap=log.gap)
        for n in range(5):
            await a.publish("c", n, transaction=transaction)
        await a.publish("c", "before")
        await asyncio.sleep(100)
        assert log.messages == ["before"]
        transaction.commit()
        await eventually(lambda: len(log.messages) == 6)
        assert log.messages == ["before", 0, 1, 2, 3, 4]


async def test_a_rollback_sends_nothing(cluster):
    """A transaction that never commits sends nothing, and leaves no gap."""
    async with cluster.running("a", "b") as (a, b):
        log, transaction = cluster.Log(), cluster.Transaction()
        await b.subscribe("c", log, on_gap=log.gap)
        await a.publish("c", 1)
        await a.publish("c", 2, transaction=transaction)
        del transaction
        gc.collect()
        await a.publish("c", 3)
        await asyncio.sleep(100)
        assert log.messages == [1, 3]


async def test_the_message_is_that_of_the_call(cluster):
    """The message is written in the call: later changes are not seen, errors are raised there."""
    async with cluster.running("a", "b") as (a, b):
        log, transaction = cluster.Log(), cluster.Transaction()
        await b.subscribe("c", log)
        message = {"ids": [1]}
        await a.publish("c", message, transaction=transaction)
        message["ids"].append(2)
        with pytest.raises(SerializationError):
            await a.publish("c", object(), transaction=transaction)
        assert len(transaction.callbacks) == 1
        transaction.commit()
        await eventually(lambda: log.messages)
        assert log.messages == [{"ids": [1]}]


async def test_the_audience_holds(cluster):
    """skip_self and only_self mean the same with a transaction."""
    async with cluster.running("a", "b") as (a, b):
        mine, theirs, transaction = cluster.Log(), cluster.Log(), cluster.Transaction()
        await a.subscribe("c", mine)
        await b.subscribe("c", theirs)
        await a.publish("c", "others", transaction=transaction)
        await a.publish("c", "all", skip_self=False, transaction=transaction)
        await a.publish("c", "self", only_self=True, transaction=transaction)
        transaction.commit()
        await asyncio.sleep(1)
        assert mine.messages == ["all", "self"]
        assert theirs.messages == ["others", "all"]


async def test_a_commit_in_another_thread(cluster):
    """The commit may come from any thread."""
    async with cluster.running("a", "b") as (a, b):
        log, transaction = cluster.Log(), cluster.Transaction()
        await b.subscribe("c", log)
        await a.publish("c", 1, transaction=transaction)
        thread = threading.Thread(target=transaction.commit)
        thread.start()
        thread.join()
        await eventually(lambda: log.messages == [1])


@pytest.mark.parametrize("transaction", [object(), 5, {}])
async def test_what_is_no_transaction(cluster, transaction):
    """An object that no bridge knows is refused, and nothing is sent."""
    async with cluster.wired() as (manager, wire):
        with pytest.raises(InvalidType, match="transaction"):
            await manager.publish("c", 1, transaction=transaction)
        await asyncio.sleep(1)
        assert wire.published == []


async def test_an_absent_backend_is_tried_again(cluster, caplog):
    """While the backend is away the messages are tried again, and arrive in order."""
    async with cluster.wired() as (manager, wire):
        transaction = cluster.Transaction()
        wire.failures["publish"] = BackendUnavailable("away")
        for n in range(3):
            await manager.publish("c", n, transaction=transaction)
        transaction.commit()
        await asyncio.sleep(20)
        assert 4 < len(wire.calls) < 30
        wire.failures.clear()
        await eventually(lambda: len(wire.published) == 3)
        unseal = manager.channels.context.serializer.unseal
        assert [unseal(payload, 4)[-1] for _, payload in wire.published] == [0, 1, 2]
        assert not caplog.records


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_giving_up_is_logged(cluster, caplog, how):
    """After half a minute a message is given up with an error that names its channel."""
    async with cluster.wired() as (manager, wire):
        transaction = cluster.Transaction()
        if how == "hangs":
            wire.hangs = {"publish"}
        else:
            wire.failures["publish"] = BackendUnavailable("away")
        await manager.publish("c", "secret", transaction=transaction)
        transaction.commit()
        await asyncio.sleep(25)
        assert not caplog.records
        await asyncio.sleep(10)
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert "channel shop/channel/c" in record.message
        assert "secret" not in caplog.text
        wire.let_go()
        wire.failures.clear()
        again = cluster.Transaction()
        await manager.publish("c", 2, transaction=again)
        again.commit()
        await eventually(lambda: wire.published)


async def test_a_refusal_is_not_repeated(cluster, caplog):
    """What trying again cannot help is given up at once; what waits behind it leaves."""
    async with cluster.wired() as (manager, wire):
        transaction = cluster.Transaction()
        wire.failures["publish"] = BackendRefused("no")
        await manager.publish("c", 1, transaction=transaction)
        await manager.publish("c", 2, transaction=transaction)
        transaction.commit()
        await eventually(lambda: len(caplog.records) == 2)
        assert wire.calls.count("publish") == 2
        assert "BackendRefused: no" in caplog.text


async def test_close_sends_what_was_committed(cluster):
    """A commit just before the close is sent; close waits for it, for a bounded time."""
    manager, wire, transaction = cluster.manager(), cluster.Wire(), cluster.Transaction()
    await manager.open(wire)
    await manager.publish("c", 1, transaction=transaction)
    wire.failures["publish"] = BackendUnavailable("away")
    transaction.commit()
    await asyncio.sleep(0)
    closing = asyncio.create_task(manager.close())
    await asyncio.sleep(2)
    wire.failures.clear()
    await closing
    assert len(wire.published) == 1


async def test_close_gives_up_what_cannot_be_sent(cluster, caplog):
    """What was committed and cannot be sent before the close ends is an error in the log, each."""
    manager, wire, transaction = cluster.manager(), cluster.Wire(), cluster.Transaction()
    await manager.open(wire)
    wire.failures["publish"] = BackendUnavailable("away")
    for channel in ("c", "d"):
        await manager.publish(channel, 1, transaction=transaction)
    transaction.commit()
    await asyncio.sleep(1)
    await manager.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "shop/channel/c" in caplog.text
    assert "shop/channel/d" in caplog.text


async def test_a_commit_after_the_close_is_logged(cluster, caplog):
    """A message whose transaction commits too late is an error in the log."""
    manager, transaction = cluster.manager(), cluster.Transaction()
    await manager.open(cluster.Wire())
    await manager.publish("c", 1, transaction=transaction)
    await manager.close()
    transaction.commit()
    await asyncio.sleep(1)
    assert "stopped before the commit" in caplog.text


def test_a_commit_after_the_loop_is_logged(cluster, caplog):
    """A commit that comes when the event loop has ended is an error in the log."""
    transaction = cluster.Transaction()

    async def main():
        manager = cluster.manager()
        await manager.open(cluster.Wire())
        await manager.publish("c", 1, transaction=transaction)
        await manager.close()

    cluster.clock.run(main())
    transaction.commit()
    assert "event loop has ended" in caplog.text


async def test_waiting_messages_are_bounded(cluster, caplog, monkeypatch):
    """An absent backend does not fill the memory: beyond a bound messages are given up, logged."""
    monkeypatch.setattr("corekit.managers.outbox._LIMIT", 3)
    async with cluster.wired() as (manager, wire):
        transaction = cluster.Transaction()
        wire.hangs = {"publish"}
        for n in range(5):
            await manager.publish("c", n, transaction=transaction)
        transaction.commit()
        await eventually(lambda: len(caplog.records) == 2)
        assert "3 messages wait already" in caplog.text
        assert "waiting=3 sending" in repr(manager.channels._outbox)
        wire.let_go()
        await eventually(lambda: len(wire.published) == 3)
