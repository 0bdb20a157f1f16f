"""A whole run: the cases in order, each component's servers running only meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .contracts import Component
from .machine import machine, versions
from .measure import Case, Told, measure, unmeasured
from .peers import load_peer
from .results import Results
from .servers import Server, ServerMissing, running
from .settings import Settings
from .subjects import Subject

#: What takes longest comes last.
_ORDER: tuple[Component | None, ...] = ("cache", "pub_sub", "lock", None, "event_queue")

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
        """Return how often *case* is measured: as its workload wants, points of curves seldom."""
        about = case.workload.about
        wanted = self.repeat
        if not case.scaled:
            wanted *= about.repeat_times
        elif not about.repeats_curves:
            wanted = max(1, wanted // 2)
        return min(wanted, about.repeat_at_most)

    @property
    def size(self) -> int:
        """How many repetitions there are, all together."""
        return sum(
            self.repetitions(case) * len(case.subjects(self.subjects)) for case in self.cases
        )


class Run:
    """One run of *plan*; *directory* takes the servers' data and the processes' logs.

    *told* hears of what comes; *found* is called after each case, and when the run is stopped, with
    the results so far.
    """

    def __init__(
        self, plan: Plan, directory: Path, told: Told, found: Callable[[Results], None]
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._told = told
        self._found = found
        self._began = time.monotonic()
        peers = {subject.peer for subject in plan.subjects if subject.peer}
        theirs = [name for peer in peers for name in load_peer(peer).distributions]
        self.results = Results(
            command=plan.command,
            begun=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=0,
            repeat=plan.repeat,
            settings=dataclasses.asdict(plan.settings),
            machine=machine(directory),
            versions=versions([*_OWN_DISTRIBUTIONS, *theirs]),
            servers={},
            cases=[],
            not_measured=dict(plan.not_measured),
        )

    def __repr__(self) -> str:
        return f"<Run {len(self.results.cases)} of {len(self._plan.cases)} cases>"

    def measure(self) -> Results:
        """Measure everything, one component after the other, and return what was found."""
        try:
            for component in _ORDER:
                self._measure_component(component)
        except BaseException:
            self.results.not_measured["the rest"] = "the run was stopped"
            self._update()
            raise
        return self.results

    def _measure_component(self, component: Component | None) -> None:
        cases = [case for case in self._plan.cases if case.workload.about.component == component]
        subjects = cases[0].subjects(self._plan.subjects) if cases else ()
        if subjects:
            self._measure(cases, subjects)

    def _update(self) -> None:
        self.results.seconds = time.monotonic() - self._began
        if self.results.cases:
            self._found(self.results)

    def _measure(self, cases: Sequence[Case], subjects: Sequence[Subject]) -> None:
        with ExitStack() as stack:
            servers = self._start({subject.server for subject in subjects}, stack)
            served = [
                _served(subject, servers)
                for subject in subjects
                if subject.server is None or subject.server in servers
            ]
            for case in cases:
                repeat = self._plan.repetitions(case)
                result = unmeasured(case, served)
                self.results.cases.append(result)
                asyncio.run(measure(case, served, result, repeat, self._directory, self._told))
                self._update()

    def _start(self, names: Iterable[str | None], stack: ExitStack) -> dict[str, Server]:
        servers = {}
        for name in sorted(filter(None, names)):
            self._told(f"starting {name}")
            try:
                server = stack.enter_context(running(name, self._directory))
            except (ServerMissing, OSError) as missing:
                self.results.not_measured[f"server {name}"] = str(missing)
            else:
                servers[name] = server
                self.results.servers[name] = server.description
        return servers


def _served(subject: Subject, servers: dict[str, Server]) -> Subject:
    if subject.server is None:
        return subject
    server = servers[subject.server]
    return dataclasses.replace(subject, url=server.url, server_pid=server.pid)
