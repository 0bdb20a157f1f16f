"""What a run found, as it is kept in a file."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from .contracts import MEDIAN, P99, Figure, Sample

FORMAT = 1

#: The shares at which the distribution of latencies is kept.
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)


@dataclass(frozen=True, slots=True)
class Repetition:
    """One repetition on one subject."""

    figures: dict[str, float]
    distribution: list[float]
    """The latencies at each of SHARES, in seconds; empty if none were taken."""

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """Return *sample* with its latencies summed up."""
        if not sample.latencies:
            return cls(sample.figures, [])
        last = len(sample.latencies) - 1
        distribution = [sample.latencies[round(share * last)] for share in SHARES]
        taken = {
            MEDIAN.name: distribution[SHARES.index(0.5)],
            P99.name: distribution[SHARES.index(0.99)],
        }
        return cls({**taken, **sample.figures}, distribution)


@dataclass(slots=True)
class Line:
    """All repetitions of a case on one subject."""

    subject: str
    promise: str
    durable: bool
    repetitions: list[Repetition] = field(default_factory=list)
    failure: str = ""
    """Why there are no repetitions, or no more."""

    def values(self, figure: str) -> list[float]:
        """Return what the repetitions found for *figure*."""
        return [each.figures[figure] for each in self.repetitions if figure in each.figures]

    def median(self, figure: str) -> float | None:
        """Return the median over the repetitions, None if *figure* was not measured."""
        values = self.values(figure)
        return statistics.median(values) if values else None

    def spread(self, figure: str) -> float | None:
        """Return half the range of the repetitions as a share of their median.

        None if there are not two of them, or the median is 0.
        """
        values = self.values(figure)
        middle = statistics.median(values) if len(values) > 1 else 0
        return (max(values) - min(values)) / 2 / abs(middle) if middle else None

    def ratio(self, figure: str, first: Line) -> float | None:
        """Return the median of the ratios to *first* within each repetition, None if there is none.

        What ran side by side is compared, so a slow moment of the machine cancels out.
        """
        pairs = zip(self.repetitions, first.repetitions, strict=False)
        ratios = [
            mine.figures[figure] / other.figures[figure]
            for mine, other in pairs
            if mine.figures.get(figure, 0) > 0 and other.figures.get(figure, 0) > 0
        ]
        return statistics.median(ratios) if ratios else None

    def distribution(self) -> list[float]:
        """Return the latencies at each of SHARES, medians over the repetitions."""
        each = [repetition.distribution for repetition in self.repetitions]
        return [statistics.median(at) for at in zip(*(one for one in each if one), strict=True)]


@dataclass(slots=True)
class CaseResult:
    """One workload with one choice of parameters."""

    workload: str
    title: str
    figures: list[Figure]
    scaled: str = ""
    """The setting that this case varies; empty for the case as the user chose it."""

    value: float = 0
    """What the setting is in this case."""

    lines: list[Line] = field(default_factory=list)

    def line(self, subject: str) -> Line | None:
        """Return the line of *subject*, None if it has none."""
        return next((line for line in self.lines if line.subject == subject), None)

    def first(self) -> Line | None:
        """Return the line that the others are compared with: the first that was measured."""
        return next((line for line in self.lines if line.repetitions), None)


@dataclass(slots=True)
class Results:
    """A whole run."""

    command: str
    begun: str
    """When, as ISO 8601 in UTC."""

    seconds: float
    repeat: int
    settings: dict[str, float]
    machine: dict[str, Any]
    versions: dict[str, str]
    servers: dict[str, str]
    """How each server was started, by what it is called."""

    cases: list[CaseResult]
    not_measured: dict[str, str]
    """Why, by what is missing."""

    def save(self, path: Path) -> None:
        """Write it to *path*, as JSON."""
        everything = {"format": FORMAT, **asdict(self)}
        cases = ",\n".join(_written(case) for case in everything.pop("cases"))
        head = json.dumps(everything, indent=1).removesuffix("\n}")
        text = f'{head},\n "cases": [\n{cases}\n ]\n}}'
        path.parent.mkdir(parents=True, exist_ok=True)
        # What the file had is good until the new one is complete.
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what `save` has written; raises ValueError for what is no such file."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise ValueError(f"{path} holds no results of format {FORMAT}")
        cases = [_case(each) for each in stored["cases"]]
        known = {each.name for each in fields(cls)}
        return cls(**{**{key: stored[key] for key in known}, "cases": cases})


def _written(case: dict[str, Any]) -> str:
    """Return *case* in one line, with as many digits as anything was measured to."""
    short = json.loads(json.dumps(case), parse_float=lambda digits: float(f"{float(digits):.6g}"))
    return f"  {json.dumps(short)}"


def _case(stored: dict[str, Any]) -> CaseResult:
    figures = [Figure(**figure) for figure in stored["figures"]]
    lines = [
        Line(**{**line, "repetitions": [Repetition(**each) for each in line["repetitions"]]})
        for line in stored["lines"]
    ]
    return CaseResult(**{**stored, "figures": figures, "lines": lines})


def curves(results: Results) -> dict[tuple[str, str], list[tuple[float, CaseResult]]]:
    """Return the curves: by workload and setting, in rising order, its values and their cases.

    The case as the user chose it is a point of each curve of its workload.
    """
    found: dict[tuple[str, str], list[tuple[float, CaseResult]]] = {}
    for case in results.cases:
        if case.scaled:
            found.setdefault((case.workload, case.scaled), []).append((case.value, case))
    for case in results.cases:
        for (workload, setting), points in found.items():
            if workload == case.workload and not case.scaled and setting in results.settings:
                points.append((results.settings[setting], case))
    return {curve: sorted(points, key=lambda point: point[0]) for curve, points in found.items()}
