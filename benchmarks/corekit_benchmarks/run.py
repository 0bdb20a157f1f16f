"""A whole run: the cases in order, each component's servers running only meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .machine import machine, versions
from .measure import Case, Told, measure
from .peers import load_peer
from .results import CaseResult, Results
from .servers import Server, ServerMissing, running
from .settings import Settings
from .subjects import COMPONENTS, Subject

_OWN_DISTRIBUTIONS = ("corekit", "corekit-zeromq", "corekit-etcd", "msgpack", "pluggy", "pyzmq")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    cases: Sequence[Case]
    subjects: Sequence[Subject]
    repeat: int
    settings: Settings
    command: str
    not_measured: dict[str, str]
    """What is known to be missing, and why."""

    def repetitions(self, case: Case) -> int:
        """Return how often *case* is measured: points of a curve less often than the rest."""
        wanted = max(1, self.repeat // 2) if case.scaled else self.repeat
        return min(wanted, case.workload.about.repeat_at_most)

    @property
    def size(self) -> int:
        """How many repetitions there are, all together."""
        return sum(
            self.repetitions(case) * len(case.subjects(self.subjects)) for case in self.cases
        )


def run(
    plan: Plan,
    directory: Path,
    told: Told,
    found: Callable[[CaseResult], Any],
) -> Results:
    """Measure everything; *directory* takes the servers' data and the processes' logs.

    *told* hears of what comes, *found* takes each case when it is done.
    """
    began, begun = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    peers = {subject.peer for subject in plan.subjects if subject.peer}
    results = Results(
        command=plan.command,
        begun=begun,
        seconds=0,
        repeat=plan.repeat,
        settings=dataclasses.asdict(plan.settings),
        machine=machine(directory),
        versions=versions(
            [
                *_OWN_DISTRIBUTIONS,
                *(name for peer in peers for name in load_peer(peer).distributions),
            ]
        ),
        servers={},
        cases=[],
        not_measured=dict(plan.not_measured),
    )
    for component in (*COMPONENTS, None):
        cases = [case for case in plan.cases if case.workload.about.component == component]
        if cases:
            _run_cases(plan, cases, directory, results, told, found)
    results.seconds = time.monotonic() - began
    return results


def _run_cases(
    plan: Plan,
    cases: Sequence[Case],
    directory: Path,
    results: Results,
    told: Told,
    found: Callable[[CaseResult], Any],
) -> None:
    """Run *cases*, which are all about the same component."""
    wanted = cases[0].subjects(plan.subjects)
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in dict.fromkeys(subject.server for subject in wanted if subject.server):
            told(f"starting {name}")
            try:
                servers[name] = stack.enter_context(running(name, directory))
            except ServerMissing as missing:
                results.not_measured[f"server {name}"] = str(missing)
        results.servers.update({name: server.description for name, server in servers.items()})
        subjects = [
            _served(subject, servers)
            for subject in wanted
            if subject.server is None or subject.server in servers
        ]
        for case in cases:
            result = asyncio.run(measure(case, subjects, plan.repetitions(case), directory, told))
            results.cases.append(result)
            found(result)


def _served(subject: Subject, servers: dict[str, Server]) -> Subject:
    if subject.server is None:
        return subject
    server = servers[subject.server]
    return dataclasses.replace(subject, url=server.url, server_pid=server.pid)
