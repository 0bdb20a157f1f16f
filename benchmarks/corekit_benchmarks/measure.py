"""Runs the cases: each repetition on one subject after another, so that all meet the same noise."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .contracts import Workload
from .processes import RoleFailed, stage
from .results import CaseResult, Line, Repetition
from .settings import Settings
from .subjects import Subject

_LONGEST_REASON = 300

#: Deeper queues than this are measured on corekit's own backends only: filling takes minutes.
_DEEP = 10_000


class Told(Protocol):
    """Takes the news of a run."""

    def __call__(self, what: str, *, done: int = 0) -> None:
        """Show what comes next, and that so many repetitions are done."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """A workload with one choice of parameters."""

    workload: Workload
    settings: Settings
    scaled: str = ""
    """The setting that was varied."""

    @property
    def value(self) -> float:
        """What the varied setting is."""
        return float(getattr(self.settings, self.scaled)) if self.scaled else 0

    @property
    def title(self) -> str:
        """What is measured, with the settings filled in."""
        return self.workload.about.title.format(**dataclasses.asdict(self.settings))

    def __str__(self) -> str:
        name = self.workload.about.name
        return f"{name}, {self.scaled}={self.value:g}" if self.scaled else name

    def subjects(self, subjects: Sequence[Subject]) -> list[Subject]:
        """Return those of *subjects* that it is measured on."""
        about = self.workload.about
        if about.component is None:
            # Each once, by its first component.
            first: dict[str, Subject] = {}
            for each in subjects:
                first.setdefault(each.peer or each.url, each)
            return list(first.values())
        return [
            each
            for each in subjects
            if each.component == about.component
            and not (self.scaled == "depth" and self.value > _DEEP and each.peer)
        ]


def planned(
    workloads: Sequence[Workload],
    settings: Settings,
    scales: dict[str, tuple[float, ...]],
    *,
    own_scales: bool,
) -> list[Case]:
    """Return the cases: each workload as chosen, and varied over *scales*.

    *own_scales*: and over those that the workload itself proposes. What is as chosen anyway is not
    measured a second time.
    """
    cases = []
    for workload in workloads:
        about = workload.about
        cases.append(Case(workload, settings))
        for name, values in {**(about.scales if own_scales else {}), **scales}.items():
            if name in scales and f"{{{name}}}" not in about.title:
                continue
            kind = type(getattr(settings, name))
            cases += [
                Case(workload, dataclasses.replace(settings, **{name: kind(value)}), name)
                for value in values
                if value != getattr(settings, name)
            ]
    return cases


def unmeasured(case: Case, subjects: Sequence[Subject]) -> CaseResult:
    """Return a line for each of *subjects* that *case* is measured on, without figures yet."""
    about = case.workload.about
    lines = [
        Line(subject.name, subject.promise, subject.durable) for subject in case.subjects(subjects)
    ]
    return CaseResult(about.name, case.title, list(about.figures), case.scaled, case.value, lines)


async def measure(
    case: Case,
    subjects: Sequence[Subject],
    result: CaseResult,
    repeat: int,
    directory: Path,
    told: Told,
) -> None:
    """Add to *result* what *case* finds on *subjects*, each *repeat* times, in turns.

    A subject that fails is left out from then on; its line says why. So is one that takes longer
    than the workload repeats. *directory* takes the processes' logs.
    """
    lines = list(zip(case.subjects(subjects), result.lines, strict=True))
    for subject, line in lines:
        if case.workload.about.needs_shared and not subject.shared:
            line.failure = "it lives in one process"
    enough = set()
    for number in range(repeat):
        for subject, line in lines:
            told(f"{case}: {subject.name}, {number + 1} of {repeat}")
            if not line.failure and subject.name not in enough:
                begin = time.monotonic()
                await _repetition(case, subject, line, directory)
                if time.monotonic() - begin > case.workload.about.repeat_within:
                    enough.add(subject.name)
            told("", done=1)


async def _repetition(case: Case, subject: Subject, line: Line, directory: Path) -> None:
    limit = case.settings.limit
    try:
        async with stage(case.workload, subject, case.settings, directory) as it:
            try:
                async with asyncio.timeout(limit):
                    sample = await case.workload.run(it)
            except TimeoutError:
                raise RoleFailed(f"it took longer than {limit:g} s") from None
        line.repetitions.append(Repetition.of(sample))
    except Exception as failure:  # noqa: BLE001 - whatever one subject does, the others go on
        line.failure = "; ".join(dict.fromkeys(_reasons(failure)))


def _reasons(failure: BaseException) -> list[str]:
    if isinstance(failure, BaseExceptionGroup):
        return [reason for each in failure.exceptions for reason in _reasons(each)]
    told = isinstance(failure, RoleFailed | ImportError)
    reason = str(failure) if told else f"{type(failure).__name__}: {failure}"
    return [" ".join(reason.split())[:_LONGEST_REASON]]
