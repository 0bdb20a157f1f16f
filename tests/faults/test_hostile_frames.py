"""Hostile peers of a broker, beside good ones."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corekit.testing import free_port

from . import checkers
from .checkers import Finding
from .processes import SEED, Program, Run, nothing_left, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(60))]

MIB = 1024 * 1024
#: What all the hostility may cost the broker.
MOST = 64 * MIB

GOOD = [
    *(("consumer", "consumer1"), ("publisher", "publisher1"), ("subscriber", "subscriber1")),
    *(("sender", "sender1"), ("reader", "reader1"), ("contender", "contender1")),
]


def peak(pid: int) -> int:
    """Return the most memory that a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


async def test_hostile_frames_harm_nobody(new_run: Callable[[], Run], tmp_path: Path) -> None:
    """The broker lives, keeps its memory, and no good client sees an error."""
    async with new_run() as run:
        port = free_port()
        broker = run.broker(listen=f"tcp://127.0.0.1:{port}")
        program = broker.program
        assert program is not None
        for kind, name in GOOD:
            await run.client(kind, name, broker.url, width=2, pause=0.02, block=0.0)
        await asyncio.sleep(1)
        before, begun = peak(program.pid), time.monotonic()
        path = Path(__file__).with_name("hostile.py")
        command = [sys.executable, str(path), str(port), str(scaled(20_000)), str(SEED)]
        hostile = run.clients["hostile"] = Program(command, tmp_path / "hostile.log")
        sent = await asyncio.to_thread(hostile.line)
        await asyncio.sleep(1)
        cost, lasted = peak(program.pid) - before, time.monotonic() - begun
        assert program.runs
        assert sent, hostile.log
        await run.end(["publisher1", "sender1", "reader1", "contender1", "hostile"])
        await run.until(nothing_left, 30)
        await run.end(["consumer1", "subscriber1"])
        events = run.events()
        errors = [event for event in events if event.phase in ("fail", "unknown", "lost")]
        figures = {**json.loads(sent), "memory_mib": cost / MIB, "errors": len(errors)}
        figures["log_kib_per_second"] = broker.log.stat().st_size / 1024 / lasted
        run.judge(checkers.no_loss(events), checkers.gaps(events), Finding(figures))
        assert errors == []
        assert checkers.select(events, "gap") == []
        assert cost < MOST
        assert broker.program is program
        assert "Traceback" not in broker.log.read_text()
        assert figures["log_kib_per_second"] < 30
