"""Everything at once, with faults, for a while: what it costs stays flat."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from corekit.testing import free_port

from . import checkers, links
from .checkers import Finding
from .history import Event
from .processes import SCALE, Program, Run, memory, nothing_left

#: How long, in seconds: a minute, scaled 20 minutes at most.
LENGTH = 60 * min(max(SCALE, 0.5), 20)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(LENGTH + 180)]

MIB = 1024 * 1024
#: How much more a process may need at the end than after its first third.
GROWTH = {"memory": 8 * MIB, "files": 4, "threads": 1, "tasks": 6}


def gauge(program: Program) -> dict[str, int]:
    """Return what a broker costs at the moment."""
    threads = len(os.listdir(f"/proc/{program.pid}/task"))
    files = len(os.listdir(f"/proc/{program.pid}/fd"))
    return {"memory": memory(program.pid), "files": files, "threads": threads}


def flat(events: list[Event]) -> Finding:
    """In each process the middle of the last third is not above that of the second."""
    finding = Finding()
    gauges = checkers.select(events, "gauge")
    for process in sorted({event.process for event in gauges}):
        mine = [event for event in gauges if event.process == process]
        third = len(mine) // 3
        for name in mine[0].facts:
            values = [event[name] for event in mine]
            if third < 5:
                finding.violations.append(f"{process} was looked at too seldom")
                break
            early = statistics.median(values[third : 2 * third])
            growth = statistics.median(values[2 * third :]) - early
            unit = MIB if name == "memory" else 1
            finding.figures[f"{process}_{name}"] = early / unit
            finding.figures[f"{process}_{name}_growth"] = growth / unit
            if growth > GROWTH[name]:
                finding.violations.append(f"{name} of {process} grew by {growth} from {early}")
    if not gauges:
        finding.violations.append("nobody was looked at")
    return finding


def test_growth_is_seen() -> None:
    """A process that opens files without end is named; one that does not is not."""

    def history(step: int) -> list[Event]:
        return [Event(n, "a", "gauge", "ok", {"files": 10 + step * n}) for n in range(60)]

    assert flat(history(0)).violations == []
    assert flat(history(1)).violations == ["files of a grew by 20.0 from 39.5"]
    assert flat([]).violations != []


async def test_mixed_load_with_faults_stays_flat(new_run: Callable[[], Run]) -> None:
    """Three processes use everything over links that break, and a broker that pauses.

    Memory, files, threads and tasks do not grow; nothing is lost.
    """
    async with AsyncExitStack() as stack:
        run = await stack.enter_async_context(new_run())
        port = free_port()
        broker = run.broker(listen=f"tcp://127.0.0.1:{port}")
        assert broker.program is not None
        names = ["mixed1", "mixed2", "mixed3"]
        paths = {}
        for name in names:
            paths[name] = await stack.enter_async_context(links.Link(port))
            await run.client("mixed", name, f"zmq://{paths[name].address}")
        watching = asyncio.create_task(watch(run, broker.program))
        await make_trouble(run, broker.program, paths)
        await asyncio.sleep(3)
        watching.cancel()
        await run.end(names)
        events = run.events()
        assert nothing_left(events)
        expected: dict[str, Any] = {}
        for op in ("publish", "send", "set", "lock"):
            expected[op] = len(checkers.select(events, op, "ok"))
        run.judge(Finding(expected), checkers.faults(events), flat(events))
        assert min(expected.values()) > LENGTH * 20


async def watch(run: Run, program: Program) -> None:
    """Look at the broker each half second."""
    record = run.record_as("broker")
    while True:
        record("gauge", "ok", **gauge(program))
        await asyncio.sleep(0.5)


async def make_trouble(run: Run, program: Program, paths: dict[str, links.Link]) -> None:
    """Break a link, or pause the broker, each few seconds."""
    end = time.monotonic() + LENGTH
    while time.monotonic() < end:
        await asyncio.sleep(run.random.uniform(1, 3))
        kind = run.random.choice([*links.KINDS, "pause"])
        target = "broker" if kind == "pause" else run.random.choice(list(paths))
        async with run.fault(kind, target):
            if kind == "pause":
                program.pause()
                await asyncio.sleep(0.7)
                program.resume()
            else:
                await paths[target].suffer(kind, run.random.choice([0.2, 2.0]))
