"""Holders of a lock that are paused beyond their lease, or killed, with five contenders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from corekit.testing import eventually

from . import checkers, history
from .checkers import Finding
from .history import Event
from .processes import Run, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(120))]


class Guarded:
    """A resource that takes a use only if no newer token has been there before.

    It records every use in the order in which it saw them.
    """

    def __init__(self, directory: Path, record: history.Recorder, *, checks: bool = True) -> None:
        self.address = str(directory / "resource")
        self._record = record
        self._checks = checks
        self._highest: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: How often it was used, and by whom the last time.
        self.uses = 0
        self.holder = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                use = json.loads(line)
                taken = not self._checks or use["token"] >= self._highest.get(use["name"], 0)
                if taken:
                    self._highest[use["name"]] = use["token"]
                    self.uses += 1
                    self.holder = use["holder"]
                self._record("use", "ok" if taken else "fail", **use)
                writer.write(b"+" if taken else b"-")
        except ConnectionError:
            pass
        finally:
            writer.close()


def handed_on(events: list[Event], within: float) -> Finding:
    """After the holder was paused or killed, somebody else gets the lock *within* seconds."""
    took = []
    for fault in checkers.select(events, "fault", "call"):
        mine = [e for e in events if e.process == fault["target"] and e.time < fault.time]
        if mine and mine[-1].op == "acquire" and mine[-1].phase == "ok":
            later = (e for e in checkers.select(events, "acquire", "ok") if e.time > fault.time)
            taken = next((e for e in later if e.process != fault["target"]), None)
            took.append(taken.time - fault.time if taken else float("inf"))
    finding = Finding({"handed_on": len(took), "handed_on_after": max(took, default=0)})
    if not took:
        finding.violations.append("no holder was hit: the run proves nothing")
    if max(took, default=0) > within:
        finding.violations.append(f"the next one waited {max(took):.1f} s")
    return finding


async def fight(run: Run, resource: Guarded, url: str, ttl: float, pauses: int, kills: int) -> None:
    """Let five contend while the one that holds the lock is paused, or killed."""
    options: dict[str, Any] = {"ttl": ttl, "resource": resource.address, "uses": 8}
    # Mostly between two turns of the loop: what wakes up there has not been cancelled yet.
    options |= {"component": "lock", "block": 0.06, "work": 0.003}
    names = [f"contender{number}" for number in range(1, 6)]
    for name in names:
        await run.client("contender", name, url, **options)
    for kind in run.random.sample(["pause"] * pauses + ["kill"] * kills, pauses + kills):
        await asyncio.sleep(run.random.uniform(0.3, 1))
        # Who has just used it will mostly do so again, after a while in which nothing cancels it.
        await eventually(lambda before=resource.uses: resource.uses > before)
        await asyncio.sleep(0.015)
        target = resource.holder
        program = run.clients[target]
        async with run.fault(kind, target):
            if kind == "pause":
                program.pause()
                # Past the lease and its margin, and until another one has been at the resource.
                await asyncio.sleep(ttl + run.random.uniform(0.5, 1.5))
                await eventually(lambda gone=target: resource.holder != gone, within=20)
                program.resume()
            else:
                program.kill()
        if kind == "kill":
            await run.client("contender", target, url, **options)
    await asyncio.sleep(ttl + 2)
    await run.end(names)


async def contended(
    new_run: Callable[[], Run], start: Callable[[Run], str], *, ttl: float, late: float, pauses: int
) -> None:
    """Run a fight and judge it; *late* is how much longer than *ttl* a lease may live."""
    async with new_run() as run:
        url = await asyncio.to_thread(start, run)
        async with Guarded(run.directory, run.record) as resource:
            await fight(run, resource, url, ttl, scaled(pauses), scaled(pauses / 2))
        events = run.events()
        run.judge(
            checkers.fencing(events, pauses=True),
            checkers.lost_leases(events),
            handed_on(events, ttl + late),
            checkers.faults(events),
        )


async def test_paused_and_killed_holders_on_a_broker(new_run: Callable[[], Run]) -> None:
    """The guarded resource refuses the paused holder, which is told; the next one gets in."""
    await contended(new_run, lambda run: run.broker().url, ttl=1.0, late=2.0, pauses=7)


async def test_paused_and_killed_holders_on_etcd(new_run: Callable[[], Run], etcd: Any) -> None:
    """The same on etcd, whose leases have at least two seconds."""
    await contended(new_run, lambda run: etcd.url, ttl=2.0, late=3.0, pauses=5)


async def test_holders_without_faults_never_overlap(new_run: Callable[[], Run]) -> None:
    """Without faults nobody works beside another, and no token is ever stale."""
    async with new_run() as run:
        broker = run.broker()
        async with Guarded(run.directory, run.record) as resource:
            options = {"resource": resource.address, "block": 0.001, "work": 0.001}
            names = [f"contender{number}" for number in range(1, 6)]
            for name in names:
                await run.client("contender", name, broker.url, **options)
            await asyncio.sleep(5)
            await run.end(names)
        events = run.events()
        fencing = checkers.fencing(events, pauses=False)
        run.judge(fencing, checkers.exclusion(events))
        assert fencing.figures["stale_attempts"] == 0
        assert fencing.figures["acquired"] > 100
        assert len({event.process for event in checkers.select(events, "leave")}) == 5


async def test_a_resource_that_does_not_look_at_tokens_is_caught(
    new_run: Callable[[], Run],
) -> None:
    """With a resource that takes every token the checker must see a stale one taken."""
    async with new_run() as run:
        broker = run.broker()
        async with Guarded(run.directory, run.record, checks=False) as resource:
            await fight(run, resource, broker.url, 1.0, 4, 0)
        finding = checkers.fencing(run.events(), pauses=True)
        assert finding.figures["stale_accepted"] > 0
        assert any("taken after" in text for text in finding.violations)
