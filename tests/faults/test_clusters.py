"""Locks on three servers of etcd, of which one dies, or hears nothing of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from . import checkers
from .cluster import Cluster
from .contention import LONG_WORK, Contention, Guarded, going_on
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
            for _ in range(scaled(3)):
                await resource.used()
                leader = await cluster.leader()
                others = [node for node in etcd_nodes.nodes if node is not leader]
                node = leader if who == "leader" else run.random.choice(others)
                async with run.fault(what, node.name):
                    if what == "killed":
                        node.kill()
                    else:
                        cluster.isolate(node)
                    await asyncio.sleep(SILENCE)
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
