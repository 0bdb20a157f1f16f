"""What the processes of a fault test did and saw: one JSON line for each event.

Each process appends to a file of its own, before and after each operation. CLOCK_MONOTONIC is
common to all processes of a machine, so that the events of all files can be put in order.

Also imported by the programs of this directory, which run as scripts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a history."""

    time: float
    """When, in seconds of CLOCK_MONOTONIC."""

    process: str
    op: str

    phase: str
    """"call" before; then "ok", "fail" (it has not happened), or "unknown" (it may have)."""

    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


class Recorder:
    """Writes the events of one process; each line is in the file when the call returns."""

    def __init__(self, directory: Path, process: str) -> None:
        self.process = process
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(directory / f"{process}.history", flags, 0o600)

    def __call__(self, op: str, phase: str, **facts: Any) -> None:
        line = json.dumps([time.monotonic(), self.process, op, phase, facts])
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file; what was written stays."""
        os.close(self._file)


class Reader:
    """Reads the events of all processes that write to *directory*, each once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        """Return all events so far, in order of time."""
        for path in sorted(self._directory.glob("*.history")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                # Half a line at the end: it is being written; or its process was killed before it
                # was, and before what it would have told of a call that follows.
                lines, ends, _ = file.read().rpartition(b"\n")
            self._read[path] = self._read.get(path, 0) + len(lines + ends)
            self._events += [Event(*json.loads(line)) for line in lines.splitlines()]
        self._events.sort(key=lambda event: event.time)
        return list(self._events)


def read(directory: Path) -> list[Event]:
    """Return the events of all processes that wrote to *directory*, in order of time."""
    return Reader(directory).events()
