"""The machine and the software that a result stands for."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_PROBES = 200

#: How long the disk, and the process, rest before each probe: as in `queue.latency`, in seconds.
_REST = 0.01

#: What the disk takes for one after another, and for one after a rest: then both it and the
#: processor have to wake up, which takes longer than the work.
SYNC = "fdatasync of 4 KiB, median seconds"
SYNC_AT_REST = "fdatasync of 4 KiB at rest, median seconds"


def machine(directory: Path) -> dict[str, Any]:
    """Describe the machine; *directory* is where the servers keep their data."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load before": list(os.getloadavg()),
        "file system": _file_system(directory),
        SYNC: _sync_time(directory, 0.0),
        SYNC_AT_REST: _sync_time(directory, _REST),
    }


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those *distributions* that are installed."""
    found = {}
    for name in sorted(set(distributions)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def _file_system(directory: Path) -> str:
    mounts = [
        each
        for each in psutil.disk_partitions(all=True)
        if directory.is_relative_to(each.mountpoint)
    ]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else "?"


def _sync_time(directory: Path, rest: float) -> float:
    times = []
    probe = directory / "fdatasync"
    with probe.open("wb") as file:
        for _ in range(_PROBES):
            time.sleep(rest)
            file.write(bytes(4096))
            file.flush()
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    probe.unlink()
    return statistics.median(times)
