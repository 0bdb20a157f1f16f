"""Locks on three servers of etcd, of which one dies, or hears nothing of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from corekit.testing import eventually

from . import checkers
from .cluster import Cluster
from .contention import LONG_WORK, Contention, Guarded, going_on, told
from .processes import Run, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(120))]

TTL = 2.0

#: How long it may take until somebody works again: the try that was under way (2 s), the election
#: of a leader (up to 2 s), and the lease of the one before, which a new leader counts anew.
SILENCE = 2.0 + 2.0 + TTL + 2.0


@pytest.mark.parametrize("who", ["leader", "follower"])
@pytest.mark.parametrize("what", ["killed", "isolated"])
async def test_one_of_three_servers(
    new_run: Callable[[], Run], etcd_nodes: Any, who: str, what: str
) -> None:
    """Whichever server fails, nobody works beside another, and the work goes on."""
    async with new_run() as run, Cluster(etcd_nodes) as cluster:
        async with Guarded(run.directory, run.record) as resource:
            contention = Contention(run, resource, [etcd_nodes.url] * 5, TTL, LONG_WORK)
            await contention.start()
            for _ in range(scaled(2)):
                await resource.used()
                leader = await cluster.leader()
                others = [node for node in etcd_nodes.nodes if node is not leader]
                node = leader if who == "leader" else run.random.choice(others)
                async with run.fault(what, node.name):
                    if what == "killed":
                        node.kill()
                    else:
                        cluster.isolate(node)
                    await asyncio.sleep(TTL + 3)
                    # While it is away.
                    await resource.used()
                if what == "killed":
                    await asyncio.to_thread(etcd_nodes.start)
                else:
                    await cluster.join(node)
            await contention.end()
        events = run.events()
        run.judge(
            checkers.fencing(events, pauses=False),
            checkers.exclusion(events),
            going_on(events, SILENCE),
            checkers.faults(events),
        )


async def test_who_knows_only_the_server_that_died(
    new_run: Callable[[], Run], etcd_nodes: Any
) -> None:
    """It is told before its lease is over, does without locks, and comes back with the server."""
    async with new_run() as run, Cluster(etcd_nodes):
        node = etcd_nodes.nodes[0]
        all_ = etcd_nodes.url
        async with Guarded(run.directory, run.record) as resource:
            urls = [f"etcd://{node.address}?timeout=2", all_, all_]
            contention = Contention(run, resource, urls, TTL, LONG_WORK)
            await contention.start()
            for _ in range(scaled(2)):
                await eventually(lambda: resource.holder == "contender1", within=30)
                await asyncio.sleep(0.1)
                async with run.fault("kill_server", "contender1"):
                    node.kill()
                    await asyncio.sleep(TTL + 3)
                    await resource.handed_on("contender1")
                await asyncio.to_thread(etcd_nodes.start)
            await eventually(lambda: resource.holder == "contender1", within=30)
            await contention.end()
        events = run.events()
        failed = checkers.select(events, "work", "fail")
        assert {event.process for event in failed} == {"contender1"}
        assert all(event["error"].startswith("BackendUnavailable") for event in failed)
        run.judge(
            checkers.fencing(events, pauses=False),
            checkers.exclusion(events),
            told(events, TTL),
            going_on(events, SILENCE),
            checkers.faults(events),
        )
