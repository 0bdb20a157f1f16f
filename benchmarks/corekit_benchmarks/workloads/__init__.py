"""The workloads, by name."""

from __future__ import annotations

from ..contracts import Workload
from . import cache, event_queue, lock, pub_sub, start_up

WORKLOADS: tuple[Workload, ...] = (
    *cache.WORKLOADS,
    *pub_sub.WORKLOADS,
    *event_queue.WORKLOADS,
    *lock.WORKLOADS,
    *start_up.WORKLOADS,
)


def find_workload(name: str) -> Workload:
    """Return the workload *name*; raises LookupError if there is none."""
    for workload in WORKLOADS:
        if workload.about.name == name:
            return workload
    raise LookupError(f"there is no workload {name!r}")


def matching(pattern: str) -> list[Workload]:
    """Return the workload *pattern*, or those whose names begin with it and a dot."""
    return [
        workload
        for workload in WORKLOADS
        if workload.about.name == pattern or workload.about.name.startswith(f"{pattern}.")
    ]
