"""The README's table: the goals for speed, and what a run found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..contracts import Figure
from ..machine import SYNC, SYNC_AT_REST
from ..results import CaseResult, Line, Results, curves
from .quantities import shown, shown_ratio

#: How corekit's own subjects are called in a full run.
_MEMORY, _ZMQ, _IPC, _ETCD = "memory://", "zmq://", "zmq+ipc://", "etcd://"


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One figure of ours beside the same one of a peer."""

    work: str
    workload: str
    ours: str
    theirs: str
    goal: float | None = None
    """The ratio of ours to theirs that is aimed at, at least or, of what is better less, at most;
    None: it is only told."""

    figure: int = 0
    """Which one of the workload's figures."""


_QUEUE = "ZeroMQ: queue, publish to acknowledged"
_LOCK = "etcd: lock and release, one at a time"

_COMPARISONS = (
    _Comparison("memory: `cache.get`", "cache.get", _MEMORY, "cashews mem://", 6),
    _Comparison("memory: cached function, hit", "cache.wrap_hit", _MEMORY, "cashews mem://", 10),
    _Comparison("ZeroMQ: `cache.get`", "cache.get", _ZMQ, "redis-py"),
    _Comparison("ZeroMQ: cached function, hit", "cache.wrap_hit", _ZMQ, "cashews redis://"),
    _Comparison("etcd: `cache.get`, one at a time", "cache.get", _ETCD, "bare etcd", 1.5, 1),
    _Comparison("etcd: `cache.set`", "cache.set", _ETCD, "bare etcd", 0.7),
    _Comparison("ZeroMQ: pub/sub", "pub_sub.throughput", _ZMQ, "nats-py core", 2),
    _Comparison("the same", "pub_sub.throughput", _ZMQ, "redis-py"),
    _Comparison("the same", "pub_sub.throughput", _ZMQ, "aio-pika"),
    _Comparison("ZeroMQ: pub/sub, latency at rest", "pub_sub.latency", _ZMQ, "nats-py core", 1),
    _Comparison("ZeroMQ, ipc: pub/sub", "pub_sub.throughput", _IPC, "nats-py core", 2),
    _Comparison("ZeroMQ, ipc: latency at rest", "pub_sub.latency", _IPC, "nats-py core", 1),
    _Comparison("ZeroMQ: pub/sub, deliveries to 4", "pub_sub.fan_out", _ZMQ, "nats-py core"),
    _Comparison(_QUEUE, "queue.throughput", _ZMQ, "JetStream", 2),
    _Comparison("the same", "queue.throughput", _ZMQ, "JetStream, fsync"),
    _Comparison("the same", "queue.throughput", _ZMQ, "aio-pika quorum", 8),
    _Comparison("the same", "queue.throughput", _ZMQ, "Redis Streams, fsync"),
    _Comparison("the same", "queue.throughput", _ZMQ, "taskiq, Redis stream"),
    _Comparison("ZeroMQ: queue, latency at rest", "queue.latency", _ZMQ, "JetStream, fsync"),
    _Comparison(
        "ZeroMQ: queue, after a consumer was killed", "queue.redelivery", _ZMQ, "aio-pika quorum"
    ),
    _Comparison("memory: lock and release", "lock.uncontended", _MEMORY, "asyncio.Lock", 0.1),
    _Comparison("ZeroMQ: lock and release", "lock.uncontended", _ZMQ, "redis-py lock"),
    _Comparison("ZeroMQ: lock, hand-over among 8", "lock.contended", _ZMQ, "redis-py lock"),
    _Comparison(_LOCK, "lock.uncontended", _ETCD, "two bare etcd writes", 1 / 0.8, 1),
    _Comparison("the same", "lock.uncontended", _ETCD, "etcd3aio lock", 1 / 1.5, 1),
)

#: The throughput at depth is to be this share of that at depth 0, and the broker is to need no
#: more memory for it, in bytes.
_AT_DEPTH = 0.9
_FOR_DEPTH = 64 * 2**20

#: A publish is to be confirmed within so many times what the disk needs to sync, and so many
#: seconds more.
_SYNCS = 3
_BEYOND = 1e-3

#: A contended lock of etcd is to change hands in the time of so many bare writes.
_HAND_OVER = 3

#: What `import corekit` may take, in seconds.
_IMPORT = 0.04

_SECONDS = Figure("", "s", "less")


@dataclass(frozen=True, slots=True)
class _Row:
    work: str
    ours: str
    theirs: str
    ratio: str
    goal: str
    met: bool | None
    """None if there is no goal."""

    def __str__(self) -> str:
        goal = self.goal if self.met in {None, True} else f"{self.goal}: missed"
        return f"| {self.work} | {self.ours} | {self.theirs} | {self.ratio} | {goal} |"


def markdown(results: Results) -> str:
    """Return the table in Markdown, with the run that it stands for below it.

    What the run has not measured is left out.
    """
    rows = [row for each in _COMPARISONS for row in _compared(results, each)]
    for special in (_confirmation, _depth, _depth_memory, _hand_over, _import):
        rows += special(results)
    head = [
        "| work | corekit | compared with | ratio | goal |",
        "|---|---:|---|---:|---:|",
    ]
    return "\n".join([*head, *map(str, rows), "", _origin(results)])


# ---------------------------------------------------------------- rows; none if not measured


def _compared(results: Results, each: _Comparison) -> Iterator[_Row]:
    found = _measured(results, each.workload, each.ours)
    other = _measured(results, each.workload, each.theirs)
    if found is None or other is None:
        return
    (case, ours), (_, theirs) = found, other
    figure = case.figures[each.figure]
    if (ratio := ours.ratio(figure.name, theirs)) is None:
        return
    # What keeps less is easily faster.
    tells = {line.durable for line in case.lines} == {True, False} and ours.durable
    kept = f" ({theirs.promise.partition(';')[0]})" if tells else ""
    yield _Row(
        f"{each.work}{', durable' if tells and each.work != 'the same' else ''}",
        shown(ours.median(figure.name), figure),
        f"{theirs.subject}{kept}: {shown(theirs.median(figure.name), figure)}",
        shown_ratio(ratio),
        *_goal(ratio, each.goal, figure.better == "more", _times),
    )


def _confirmation(results: Results) -> Iterator[_Row]:
    """Compare a single durable publish with what the disk needs to sync."""
    found = _measured(results, "queue.latency", _ZMQ)
    if found is None:
        return
    case, line = found
    figure = case.figures[2]
    took = line.median(figure.name)
    sync, at_rest = (results.machine[each] for each in (SYNC, SYNC_AT_REST))
    if took is not None:
        yield _Row(
            "ZeroMQ: one durable publish at rest, confirmed",
            shown(took, figure),
            f"fdatasync of 4 KiB: {shown(sync, _SECONDS)}, at rest {shown(at_rest, _SECONDS)}",
            shown_ratio(took / sync),
            f"≤ {_SYNCS} x + {shown(_BEYOND, _SECONDS)}",
            took <= _SYNCS * sync + _BEYOND,
        )


def _depth(results: Results) -> Iterator[_Row]:
    points = _depths(results)
    if len(points) < 2 or points[0][0] != 0:
        return
    (_, case, shallow), (depth, _, deep) = points[0], points[-1]
    main = case.figures[0]
    if (ratio := deep.ratio(main.name, shallow)) is None:
        return
    yield _Row(
        f"ZeroMQ: queue with {depth:,.0f} messages waiting",
        shown(deep.median(main.name), main),
        f"the same with none: {shown(shallow.median(main.name), main)}",
        shown_ratio(ratio),
        *_goal(ratio, _AT_DEPTH, True, _times),
    )


def _depth_memory(results: Results) -> Iterator[_Row]:
    points = _depths(results)
    if not points:
        return
    depth, case, line = points[-1]
    figure = case.figures[-1]
    if (grown := line.median(figure.name)) is not None:
        yield _Row(
            f"the broker's memory for {depth:,.0f} messages",
            shown(grown, figure),
            "",
            "",
            *_goal(grown, _FOR_DEPTH, False, lambda goal: shown(goal, figure)),
        )


def _hand_over(results: Results) -> Iterator[_Row]:
    """Compare the turns of the most contenders with bare writes, of which the peer times two."""
    points = curves(results).get(("lock.contended", "contenders"), [])
    found = _measured(results, "lock.uncontended", "two bare etcd writes")
    if not points or found is None:
        return
    contenders, case = points[-1]
    uncontended, writes = found
    line = case.line(_ETCD)
    rate = line.median(case.figures[0].name) if line else None
    two = writes.median(uncontended.figures[1].name)
    if rate and two:
        yield _Row(
            f"etcd: lock, hand-over among {contenders:,.0f}",
            shown(1 / rate, _SECONDS),
            f"one bare etcd write: {shown(two / 2, _SECONDS)}",
            shown_ratio(2 / rate / two),
            *_goal(2 / rate / two, _HAND_OVER, False, _times),
        )


def _import(results: Results) -> Iterator[_Row]:
    found = _measured(results, "start.import", _MEMORY)
    if found is None:
        return
    case, line = found
    figure = case.figures[1]
    if (took := line.median(figure.name)) is not None:
        goal = _goal(took, _IMPORT, False, lambda goal: shown(goal, figure))
        yield _Row("`import corekit`", shown(took, figure), "", "", *goal)


# ---------------------------------------------------------------- what rows are made of


def _goal(
    value: float, goal: float | None, more: bool, written: Callable[[float], str]
) -> tuple[str, bool | None]:
    if goal is None:
        return "", None
    return f"{'≥' if more else '≤'} {written(goal)}", value >= goal if more else value <= goal


def _times(goal: float) -> str:
    return f"{goal:.3g} x"


def _measured(results: Results, workload: str, subject: str) -> tuple[CaseResult, Line] | None:
    """Return the case as it was chosen and the line of *subject*, None if there are no figures."""
    for case in results.cases:
        if case.workload == workload and not case.scaled:
            line = case.line(subject)
            return (case, line) if line is not None and line.repetitions else None
    return None


def _depths(results: Results) -> list[tuple[float, CaseResult, Line]]:
    points = curves(results).get(("queue.depth", "depth"), [])
    return [
        (depth, case, line)
        for depth, case in points
        if (line := case.line(_ZMQ)) is not None and line.repetitions
    ]


def _origin(results: Results) -> str:
    machine = results.machine
    sync = shown(machine[SYNC], _SECONDS)
    return (
        f"`{results.command}`: medians of {results.repeat} repetitions, for some fewer or more, in "
        f"turns, {results.begun[:10]}, on {machine['cores']} cores of {machine['processor']}, "
        f"{machine['python']}; fdatasync of 4 KiB takes {sync} there."
    )
