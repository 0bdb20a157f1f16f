"""SIGKILL of workers in the middle of their jobs, and jobs that kill their workers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from corekit import App

from . import checkers
from .checkers import Finding
from .history import Event
from .processes import SESSION_TIMEOUT, Run, nothing_left, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(60))]


class Workers:
    """Keeps a number of workers running: who died is replaced by one with a new name."""

    def __init__(self, run: Run, url: str, count: int) -> None:
        self.names: list[str] = []
        self._run = run
        self._url = url
        self._count = count
        self._numbers = itertools.count(1)
        self.deaths = 0

    async def start(self) -> None:
        """Start what lacks."""
        for name in list(self.names):
            if not self._run.clients[name].runs:
                self.deaths += 1
                self.remove(name)
        while len(self.names) < self._count:
            name = f"worker{next(self._numbers)}"
            await self._run.client("consumer", name, self._url, concurrency=2, work=0.2)
            self.names.append(name)

    def remove(self, name: str) -> None:
        """Kill a worker, if it lives."""
        self._run.clients.pop(name).kill()
        self.names.remove(name)


def taken_over(events: list[Event], within: float) -> Finding:
    """Each job in the hands of a killed worker begins elsewhere *within* seconds."""
    at_work: dict[str, dict[str, Event]] = {}
    waiting: dict[str, float] = {}
    took = []
    for event in events:
        if event.op == "handle":
            jobs = at_work.setdefault(event.process, {})
            if event.phase == "call":
                jobs[event["key"]] = event
                if event["key"] in waiting:
                    took.append(event.time - waiting.pop(event["key"]))
            else:
                jobs.pop(event["key"], None)
        elif event.op == "fault" and event.phase == "ok":
            killed = at_work.pop(event["target"], {})
            waiting |= dict.fromkeys(killed, event.time)
    finding = Finding({"taken_over": len(took), "after_at_most": max(took, default=0)})
    if not took:
        finding.violations.append("nobody was killed at work: the run proves nothing")
    if waiting:
        finding.violations.append(f"never taken over: {sorted(waiting)}")
    if max(took, default=0) > within:
        finding.violations.append(f"taken over after {max(took):.1f} s")
    return finding


async def test_jobs_of_killed_workers_are_taken_over(new_run: Callable[[], Run]) -> None:
    """Workers are killed at work; each of their jobs runs elsewhere soon, no other one twice."""
    async with new_run() as run:
        broker = run.broker()
        workers = Workers(run, broker.url, 4)
        await workers.start()
        await run.client("publisher", "publisher1", broker.url, width=1, pause=0.04)
        for _ in range(scaled(15)):
            # Not before the session of the one before has ended: until then it has credit, and
            # what it is given waits for its end.
            await asyncio.sleep(SESSION_TIMEOUT + run.random.uniform(0, 1))
            name = run.random.choice(workers.names)
            async with run.fault("kill", name):
                workers.remove(name)
            await workers.start()
        await run.end(["publisher1"])
        await run.until(nothing_left, 60)
        events = run.events()
        run.judge(
            checkers.no_loss(events),
            checkers.duplicates(events, 2),
            checkers.no_zombie(events),
            checkers.attempts(events, 3),
            taken_over(events, SESSION_TIMEOUT + 2),
            checkers.faults(events),
        )


async def test_a_deadly_job_ends_as_dead_letter(new_run: Callable[[], Run]) -> None:
    """A job that kills each of its workers is dead after ten of them; the others go on."""
    async with new_run() as run:
        broker = run.broker()
        workers = Workers(run, broker.url, 3)
        await workers.start()
        await run.client("publisher", "publisher1", broker.url, width=1, pause=0.05)
        await run.client("publisher", "deadly1", broker.url, deadly=True, count=1)
        async with App("faults", backend=broker.url, worker_mode="-") as app, asyncio.timeout(180):
            while not (dead := await app.event_queue.dead_letters("q")):
                await workers.start()
                await asyncio.sleep(0.1)
        await workers.start()
        await run.end(["publisher1", "deadly1"])
        await run.until(lambda events: nothing_left(_but_deadly(events)), 60)
        events = run.events()
        deaths = [event for event in events if event.op == "handle" and event["key"] == "deadly1-1"]
        for death in deaths:
            assert death.phase == "call"
        assert [letter.message["key"] for letter in dead] == ["deadly1-1"]
        assert len(deaths) == workers.deaths == 10
        others = [event.time for event in checkers.select(events, "handle", "ok")]
        silence = max(later - earlier for earlier, later in itertools.pairwise(others))
        findings = [checkers.no_loss(events, dead=["deadly1-1"]), checkers.attempts(events, 3)]
        run.judge(*findings, Finding({"deaths": len(deaths), "longest_silence": silence}))
        assert silence < 5, dead


def _but_deadly(events: list[Event]) -> list[Event]:
    return [event for event in events if event.facts.get("key") != "deadly1-1"]
