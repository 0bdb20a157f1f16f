"""Sync messages: to all other instances, on channels of their own; plugins and their resync."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from corekit.errors import InvalidName, InvalidType, NotOpenError
from corekit.managers.sync_messages import SyncMessageManager
from corekit.testing import eventually

CHANNEL = "shop/sync/reports"


class Reports:
    """A plugin, as far as its sync messages go."""

    name = "reports"
    sync_debounce = 0
    sync_max_wait = None

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.inside = 0
        self.failures = 0
        """How often `resync` fails from now on."""
        self.pause = 0.0

    async def _alone(self) -> None:
        self.inside += 1
        assert self.inside == 1, "two calls at once"
        await asyncio.sleep(self.pause)
        self.inside -= 1

    async def handle_sync_message(self, message: object) -> None:
        self.calls.append(message)
        await self._alone()

    async def resync(self) -> None:
        self.calls.append("resync")
        await self._alone()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database is away")


async def test_other_instances_get_it(cluster):
    """A sync message goes to every other instance and never back, in a transaction too."""
    async with cluster.running("a", "b", "c") as managers:
        syncs = [SyncMessageManager(manager) for manager in managers]
        logs = [cluster.Log() for _ in syncs]
        for sync, log in zip(syncs, logs, strict=True):
            await sync.subscribe("roles", log)
        transaction = cluster.Transaction()
        await syncs[0].publish("roles", 1)
        await syncs[0].publish("roles", 2, transaction=transaction)
        await asyncio.sleep(1)
        assert [log.messages for log in logs] == [[], [1], [1]]
        transaction.commit()
        await asyncio.sleep(1)
        assert [log.messages for log in logs] == [[], [1, 2], [1, 2]]


async def test_channels_are_not_those_of_pub_sub(cluster):
    """A sync channel and a pub/sub channel of one name never meet."""
    async with cluster.running("a", "b") as (a, b):
        sync, log, sync_log = SyncMessageManager(a), cluster.Log(), cluster.Log()
        await b.subscribe("c", log, on_gap=log.gap)
        await SyncMessageManager(b).subscribe("c", sync_log, on_gap=sync_log.gap)
        for n in range(3):
            await a.publish("c", n)
            await sync.publish("c", -n)
        await eventually(lambda: len(log.messages) == len(sync_log.messages) == 3)
        assert log.messages == [0, 1, 2]
        assert sync_log.messages == [0, -1, -2]


async def test_debounce_and_unsubscribe(cluster):
    """Sync subscriptions debounce as others do, without a default, and can be ended."""
    async with cluster.running("a", "b") as (a, b):
        sync, held, direct = SyncMessageManager(b), cluster.Log(), cluster.Log()
        await sync.subscribe("c", held, debounce=1, max_wait=2)
        await sync.subscribe("c", direct)
        for _ in range(50):
            await SyncMessageManager(a).publish("c", "reload")
        await asyncio.sleep(5)
        assert held.messages == ["reload"]
        assert len(direct.messages) == 50
        await sync.unsubscribe("c", held)
        await sync.unsubscribe("c", direct)
        await sync.unsubscribe("unknown", direct)
        await SyncMessageManager(a).publish("c", "reload")
        await asyncio.sleep(5)
        assert len(direct.messages) == 50


async def test_bad_arguments(cluster):
    """Sync messages check what they are given as pub/sub does."""
    manager = cluster.manager()
    sync = SyncMessageManager(manager)
    with pytest.raises(NotOpenError):
        await sync.publish("c", 1)
    with pytest.raises(InvalidName):
        await sync.publish("", 1)
    with pytest.raises(InvalidType):
        await sync.subscribe("c", print)
    with pytest.raises(InvalidType):
        await sync.subscribe("c", cluster.Log(), on_gap=1)
    with pytest.raises(InvalidName):
        await sync.unsubscribe("\n", cluster.Log())
    assert repr(sync) == "<SyncMessageManager 'shop' closed>"


async def plugged(manager, plugin):
    """Subscribe *plugin*, as an App does."""
    await SyncMessageManager(manager).subscribe_plugin(plugin)


async def test_a_plugin_is_subscribed_once(cluster):
    """A plugin that is subscribed at each start gets each message once."""
    manager, plugin = cluster.manager("b"), Reports()
    async with cluster.running("a") as (a,):
        for n in range(3):
            await plugged(manager, plugin)
            await manager.open(cluster.adapter())
            await SyncMessageManager(a).publish("reports", n)
            await eventually(lambda n=n: n in plugin.calls)
            await manager.close()
    assert plugin.calls == [0, 1, 2]


async def test_a_plugins_debounce(cluster):
    """`sync_debounce` and `sync_max_wait` are the options of its subscription."""
    async with cluster.running("a", "b") as (a, b):
        plugin = Reports()
        plugin.sync_debounce, plugin.sync_max_wait = 1, 2
        await plugged(b, plugin)
        for _ in range(40):
            await SyncMessageManager(a).publish("reports", "reload")
            await asyncio.sleep(0.1)
        await asyncio.sleep(5)
        assert plugin.calls in (["reload"] * 2, ["reload"] * 3)


async def test_resync_comes_in_the_place_of_the_gap(cluster):
    """`resync` is called between the messages around the gap, and never beside the handler."""
    async with cluster.wired() as (manager, wire):
        plugin = Reports()
        plugin.pause = 0.5
        await plugged(manager, plugin)
        wire.bring(1, 2, 5, 6, channel=CHANNEL)
        wire.lose(CHANNEL)
        wire.bring(9, channel=CHANNEL)
        await asyncio.sleep(10)
        assert plugin.calls == [1, 2, "resync", 5, 6, "resync", 9]


async def test_gaps_during_a_resync_cause_one_more(cluster):
    """However many gaps come while resync runs, it is called once more."""
    async with cluster.wired() as (manager, wire):
        plugin = Reports()
        plugin.pause = 5
        await plugged(manager, plugin)
        wire.lose(CHANNEL)
        await asyncio.sleep(1)
        for _ in range(10):
            wire.lose(CHANNEL)
        await asyncio.sleep(100)
        assert plugin.calls == ["resync", "resync"]


async def test_a_failing_resync_is_repeated_with_back_off(cluster, caplog, clock):
    """A failing resync is logged and tried again, less and less often, until it succeeds."""
    async with cluster.wired() as (manager, wire):
        plugin, times = Reports(), []
        plugin.failures = 9
        resync = plugin.resync

        async def timed():
            times.append(clock.monotonic())
            await resync()

        plugin.resync = timed
        await plugged(manager, plugin)
        wire.lose(CHANNEL)
        await asyncio.sleep(1000)
        assert len(times) == 10
        assert len(caplog.records) == 9
        assert CHANNEL in caplog.text
        waits = [later - earlier for earlier, later in pairwise(times)]
        for wait, expected in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
            assert 0.7 * expected <= wait <= 1.3 * expected
        wire.lose(CHANNEL)
        plugin.failures = 1
        await asyncio.sleep(3)
        assert len(times) == 12, "after a success the back-off begins anew"


async def test_messages_go_on_while_resync_fails(cluster):
    """A resync that always fails does not end the channel, and never runs beside the handler."""
    async with cluster.wired() as (manager, wire):
        plugin = Reports()
        plugin.failures = 10**9
        plugin.pause = 0.3
        await plugged(manager, plugin)
        wire.lose(CHANNEL)
        for n in range(1, 101):
            wire.bring(n, channel=CHANNEL)
            await asyncio.sleep(0.5)
        assert [call for call in plugin.calls if call != "resync"] == list(range(1, 101))
        assert 4 <= plugin.calls.count("resync") <= 8


async def test_a_gap_is_resynced_at_once_though_a_retry_is_pending(cluster):
    """A new gap does not wait for the back-off, and takes the pending retry's place."""
    async with cluster.wired() as (manager, wire):
        plugin = Reports()
        plugin.failures = 5
        await plugged(manager, plugin)
        wire.lose(CHANNEL)
        await asyncio.sleep(20)
        assert plugin.failures in {0, 1}
        plugin.failures = 0
        before = len(plugin.calls)
        wire.lose(CHANNEL)
        await asyncio.sleep(0.1)
        assert len(plugin.calls) == before + 1
        await asyncio.sleep(1000)
        assert len(plugin.calls) == before + 1


@pytest.mark.parametrize("how", ["unsubscribe", "close"])
async def test_no_retry_after_the_end(cluster, how):
    """After unsubscribe or close a failed resync is not tried again, also if it fails then."""
    manager, wire, plugin = cluster.manager(), cluster.Wire(), Reports()
    plugin.failures, plugin.pause = 10**9, 1
    await manager.open(wire)
    await plugged(manager, plugin)
    wire.lose(CHANNEL)
    await asyncio.sleep(0.5)
    if how == "close":
        await manager.close()
    else:
        await SyncMessageManager(manager).unsubscribe("reports", plugin.handle_sync_message)
    await asyncio.sleep(1000)
    assert plugin.calls == ["resync"]
    await manager.close()
