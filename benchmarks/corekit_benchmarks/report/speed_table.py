"""The README's table: the goals for speed, and what a run found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..results import CaseResult, Line, Results
from .quantities import shown, shown_ratio


@dataclass(frozen=True, slots=True)
class _Ratio:
    """Ours is to be at least so many times as fast as theirs; None: only told."""

    work: str
    workload: str
    ours: str
    """How the subject's name begins."""

    theirs: str
    goal: float | None


_RATIOS = (
    _Ratio("memory: `cache.get`", "cache.get", "memory:", "cashews mem://", 6),
    _Ratio("memory: hit of a cached function", "cache.wrap_hit", "memory:", "cashews mem://", 10),
    _Ratio("ZeroMQ: pub/sub, process to process", "pub_sub.throughput", "zmq", "nats-py core", 2),
    _Ratio("ZeroMQ: queue, fsync before confirm", "queue.throughput", "zmq", "JetStream", 2),
    _Ratio(
        "the same, beside one that syncs too", "queue.throughput", "zmq", "JetStream, fsync", None
    ),
    _Ratio("etcd: lock and release", "lock.uncontended", "etcd:", "two bare etcd writes", 0.8),
    _Ratio("memory: lock and release", "lock.uncontended", "memory:", "asyncio.Lock", 0.1),
)

#: The throughput at depth is to be this share of that at depth 0.
_AT_DEPTH = 0.9

#: What `import corekit` may take, in seconds.
_IMPORT = 0.04


def markdown(results: Results) -> str:
    """Return the table in Markdown, with the run that it stands for below it.

    What the run has not measured is left out.
    """
    rows = [row for goal in _RATIOS if (row := _ratio_row(results, goal))]
    rows += [row for row in (_depth_row(results), _import_row(results)) if row]
    head = [
        "| work | corekit | compared with | ratio | goal |",
        "|---|---:|---|---:|---:|",
    ]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows), "", _origin(results)])


def _ratio_row(results: Results, goal: _Ratio) -> Sequence[str] | None:
    case = _case(results, goal.workload)
    ours = _line(case, goal.ours) if case else None
    theirs = case.line(goal.theirs) if case else None
    if case is None or ours is None or theirs is None:
        return None
    main = case.figures[0]
    if (ratio := ours.ratio(main.name, theirs)) is None:
        return None
    return (
        goal.work,
        shown(ours.median(main.name), main),
        f"{goal.theirs}: {shown(theirs.median(main.name), main)}",
        shown_ratio(ratio),
        f"≥ {goal.goal:g} x" if goal.goal else "",
    )


def _depth_row(results: Results) -> Sequence[str] | None:
    cases = sorted(
        (
            case
            for case in results.cases
            if case.workload == "queue.depth" and case.scaled == "depth"
        ),
        key=lambda case: case.value,
    )
    measured = [(case, line) for case in cases if (line := _line(case, "zmq"))]
    if len(measured) < 2 or measured[0][0].value != 0:
        return None
    (empty, shallow), (full, deep) = measured[0], measured[-1]
    main = full.figures[0]
    if (ratio := deep.ratio(main.name, shallow)) is None:
        return None
    return (
        f"ZeroMQ: queue with {full.value:,.0f} messages waiting",
        shown(deep.median(main.name), main),
        f"the same with none: {shown(shallow.median(main.name), empty.figures[0])}",
        shown_ratio(ratio),
        f"≥ {_AT_DEPTH:g} x",
    )


def _import_row(results: Results) -> Sequence[str] | None:
    case = _case(results, "start.import")
    line = _line(case, "memory:") if case else None
    if case is None or line is None:
        return None
    figure = case.figures[1]
    goal = shown(_IMPORT, figure)
    return ("`import corekit`", shown(line.median(figure.name), figure), "", "", f"≤ {goal}")


def _case(results: Results, workload: str) -> CaseResult | None:
    cases = (case for case in results.cases if case.workload == workload and not case.scaled)
    return next(cases, None)


def _line(case: CaseResult, beginning: str) -> Line | None:
    found = (line for line in case.lines if line.subject.startswith(beginning))
    return next((line for line in found if line.repetitions), None)


def _origin(results: Results) -> str:
    machine = results.machine
    return (
        f"Medians of {results.repeat} repetitions in turns, {results.begun[:10]}, on "
        f"{machine['cores']} cores of {machine['processor']}, {machine['python']}; fdatasync of "
        f"4 KiB takes {machine['fdatasync of 4 KiB, median seconds'] * 1e3:.2g} ms there."
    )
