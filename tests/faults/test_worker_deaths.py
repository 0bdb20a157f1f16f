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
        lacking = self._count - len(self.names)
        new = [f"worker{number}" for number in itertools.islice(self._numbers, lacking)]
        options = {"concurrency": 2, "work": 0.2}
        await asyncio.gather(
            *(self._run.client("consumer", name, self._url, **options) for name in new)
        )
        self.names += new

    def alive(self) -> bool:
        """Tell whether any of them lives."""
        return any(self._run.clients[name].runs for name in self.names)

    def remove(self, name: str) -> None:
        """Kill a worker, if it lives."""
        self._run.clients.pop(name).kill()
        self.names.remove(name)


def taken_over(events: list[Event], within: float) -> Finding:
    """Each job in the hands of a worker that failed begins elsewhere *within* seconds.

    Counted from the beginning of the fault: its end may be noted when others have the job already.
    """
    at_work: dict[str, set[str]] = {}
    waiting: dict[str, tuple[str, float]] = {}
    took = []
    for event in events:
        if event.op == "handle":
            jobs, key = at_work.setdefault(event.process, set()), event["key"]
            worker, failed_at = waiting.get(key, ("", 0.0))
            if event.phase != "call":
                jobs.discard(key)
                if worker == event.process:
                    # It was at its end when its worker failed.
                    del waiting[key]
            else:
                jobs.add(key)
                if worker and worker != event.process:
                    took.append(event.time - failed_at)
                    del waiting[key]
        elif event.op == "fault" and event.phase == "call":
            target = event["target"]
            waiting |= dict.fromkeys(at_work.pop(target, ()), (target, event.time))
    finding = Finding({"taken_over": len(took), "after_at_most": max(took, default=0)})
    if not took:
        finding.violations.append("nobody failed at work: the run proves nothing")
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


async def test_jobs_of_paused_workers_are_taken_over(new_run: Callable[[], Run]) -> None:
    """Of workers that fall silent likewise; when they wake up, what they did counts for nothing."""
    async with new_run() as run:
        broker = run.broker()
        names = [f"worker{number}" for number in range(1, 5)]
        for name in names:
            await run.client("consumer", name, broker.url, concurrency=2, work=0.2)
        await run.client("publisher", "publisher1", broker.url, width=1, pause=0.04)
        for _ in range(scaled(5)):
            await asyncio.sleep(run.random.uniform(0.5, 1.5))
            name = run.random.choice(names)
            async with run.fault("pause", name):
                run.clients[name].pause()
                await asyncio.sleep(SESSION_TIMEOUT + run.random.uniform(0.5, 2))
                run.clients[name].resume()
        await run.end(["publisher1"])
        await run.until(nothing_left, 60)
        events = run.events()
        run.judge(
            checkers.no_loss(events),
            # What was at work, and what lay ready.
            checkers.duplicates(events, 2 * 2),
            checkers.no_zombie(events),
            checkers.attempts(events, 3),
            taken_over(events, SESSION_TIMEOUT + 2),
            checkers.faults(events),
        )


async def test_a_deadly_job_ends_as_dead_letter(new_run: Callable[[], Run]) -> None:
    """A job that kills each of its workers is dead after ten of them; the others go on.

    Three workers, and those who replace them, are enough: it comes back later after each death.
    """
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


async def test_deaths_count_over_those_of_the_broker(new_run: Callable[[], Run]) -> None:
    """A broker that is killed after each third death knows of all ten in the end."""
    async with new_run() as run:
        broker = run.broker()
        workers = Workers(run, broker.url, 3)
        await run.client("publisher", "deadly1", broker.url, deadly=True, count=1)
        async with App("faults", backend=broker.url, worker_mode="-") as app, asyncio.timeout(120):
            queue = app.event_queue
            while not await queue.dead_letters("q"):
                await workers.start()
                # Nobody tells when.
                while (stats := await queue.stats("q")).in_flight or (  # noqa: ASYNC110
                    workers.alive() and not stats.dead
                ):
                    await asyncio.sleep(0.05)
                await run.kill_broker(broker)
        await run.end(["deadly1"])
        deaths = checkers.select(run.events(), "handle", "call")
        assert [death["attempt"] for death in deaths] == [1] * 10
        run.judge(Finding({"deaths": len(deaths)}), checkers.attempts(run.events(), 0))


def _but_deadly(events: list[Event]) -> list[Event]:
    return [event for event in events if event.facts.get("key") != "deadly1-1"]
