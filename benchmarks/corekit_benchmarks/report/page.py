"""One page that shows a run: bars, latency distributions, curves, and every figure in tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from html import escape

from ..contracts import MEDIAN, Figure
from ..results import SHARES, CaseResult, Line, Results, curves
from .plots import PALETTE, Axis, Bar, Curve, bars, even_axis, lines, log_axis
from .quantities import shown, shown_ratio, shown_spread

_KINDS = {
    "cache": "Cache",
    "pub_sub": "Pub/sub",
    "queue": "Event queue",
    "lock": "Lock",
    "start": "Starting up",
}

#: What the distribution shows: the longest of all says more about the machine than about a subject.
_TICKS = ((0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"))

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #667; --grid: #e3e5ea; --ground: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --soft: #99a; --grid: #33373f; --ground: #14171b; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 86rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0 0 .3rem; } h2 { margin: 2.5rem 0 .5rem; border-bottom: 2px solid var(--grid); }
h3 { margin: 1.8rem 0 0; } h3 + p, .soft { color: var(--soft); margin: 0 0 .8rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
  gap: .5rem 2rem; align-items: start; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; }
svg { width: 100%; max-width: 46rem; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); dominant-baseline: middle; }
svg .name { text-anchor: end; } svg .tick { text-anchor: middle; fill: var(--soft); }
svg .range { stroke: var(--ink); fill: none; } svg .grid { stroke: var(--grid); fill: none; }
svg .curve { fill: none; stroke-width: 2; } svg .lead { stroke-width: 1; stroke-dasharray: 2 2; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--grid);
  white-space: nowrap; font-weight: normal; }
thead th { color: var(--soft); }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""


def html(results: Results) -> str:
    """Return the page: one document with everything in it."""
    colours = _colours(results)
    sections = []
    for kind, title in _KINDS.items():
        cases = [case for case in results.cases if case.workload.partition(".")[0] == kind]
        if cases:
            body = "".join(_case(case, colours) for case in cases if not case.scaled)
            sections.append(f"<h2>{title}</h2>{body}{_curves(results, kind, colours)}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>corekit bench</title><style>{_STYLE}</style></head><body>"
        f"{_head(results)}{''.join(sections)}{_machine(results)}</body></html>\n"
    )


def _colours(results: Results) -> dict[str, str]:
    # Those of one component meet in one plot: within it they differ as far as there are colours,
    # which are too few for the bars of starting up.
    colours: dict[str, str] = {}
    for case in sorted(results.cases, key=lambda case: case.workload.startswith("start.")):
        used = [colours[line.subject] for line in case.lines if line.subject in colours]
        free = [colour for colour in PALETTE if colour not in used] or list(PALETTE)
        for line in case.lines:
            if line.subject not in colours:
                colours[line.subject] = free[0]
                free = free[1:] or list(PALETTE)
    return colours


def _head(results: Results) -> str:
    taken = timedelta(seconds=round(results.seconds))
    return (
        "<h1>corekit bench</h1>"
        f'<p class="soft">{escape(results.begun)}, {taken} long, {results.repeat} repetitions, '
        "for some fewer or more, in turns. Bars are medians, with the range of the repetitions; "
        "filled ones are durable: what was confirmed survives a power cut. Ratios are to the first "
        f"line, repetition by repetition.</p><p><code>{escape(results.command)}</code></p>"
    )


def _case(case: CaseResult, colours: dict[str, str]) -> str:
    measured = [line for line in case.lines if line.repetitions]
    plots = _bars(case, measured, colours) + _distribution(measured, colours) if measured else ""
    return (
        f"<h3>{escape(case.workload)}</h3><p>{escape(case.title)}</p>"
        f'<div class="plots">{plots}</div>{_table(case)}'
    )


def _bars(case: CaseResult, measured: Iterable[Line], colours: dict[str, str]) -> str:
    main = case.figures[0]
    rows = []
    first = case.first()
    for line in measured:
        value = line.median(main.name)
        if value is None or first is None:
            continue
        values = [max(0, each) for each in line.values(main.name)]
        ratio = shown_ratio(line.ratio(main.name, first))
        rows.append(
            Bar(
                line.subject,
                max(0, value),
                min(values),
                max(values),
                f"{shown(value, main)} · {ratio}",
                colours[line.subject],
                hollow=not line.durable,
            )
        )
    return _figure(bars(rows, case.title), f"{main.name}; {main.better} is better")


def _distribution(measured: Iterable[Line], colours: dict[str, str]) -> str:
    found = []
    for line in measured:
        distribution = line.distribution()
        if distribution:
            points = [
                (share, max(1e-9, at))
                for share, at in zip(SHARES, distribution, strict=True)
                if share <= _TICKS[-1][0]
            ]
            found.append(Curve(line.subject, points, colours[line.subject]))
    if not found:
        return ""
    values = [y for curve in found for _, y in curve.points]
    across = Axis("of the operations take no longer", _nines, _TICKS)
    up = log_axis("", values, lambda value: shown(value, MEDIAN))
    return _figure(lines(found, across, up, "latency distribution"), "latency; lower is better")


def _nines(share: float) -> float:
    """Give each further nine the same room."""
    return math.log(1 - share) / math.log(1 - _TICKS[-1][0])


def _curves(results: Results, kind: str, colours: dict[str, str]) -> str:
    figures = []
    for (workload, setting), points in curves(results).items():
        if workload.partition(".")[0] != kind:
            continue
        main = points[0][1].figures[0]
        found = []
        for subject in dict.fromkeys(line.subject for _, case in points for line in case.lines):
            places = [
                (at, value)
                for at, case in points
                if (line := case.line(subject)) and (value := line.median(main.name) or 0) > 0
            ]
            if places:
                found.append(Curve(subject, places, colours[subject]))
        if found:
            xs = [x for curve in found for x, _ in curve.points]
            ys = [y for curve in found for _, y in curve.points]
            across = even_axis(setting.replace("_", " "), xs, lambda value: f"{value:,.0f}")
            up = log_axis("", ys, _written(main))
            caption = f"{workload}: {main.name} over {setting.replace('_', ' ')}"
            figures.append(_figure(lines(found, across, up, caption), caption))
    return f'<h3>Curves</h3><p></p><div class="plots">{"".join(figures)}</div>' if figures else ""


def _written(figure: Figure) -> Callable[[float], str]:
    return lambda value: shown(value, figure)


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(case: CaseResult) -> str:
    main, *others = case.figures
    headings = ["", main.name, "spread", "ratio", *(each.name for each in others), "guarantees"]
    first = case.first()
    rows = []
    for line in case.lines:
        ratio = line.ratio(main.name, first) if first is not None else None
        cells = [
            line.subject,
            shown(line.median(main.name), main),
            shown_spread(line.spread(main.name)),
            shown_ratio(ratio),
            *(shown(line.median(each.name), each) for each in others),
            f"not measured: {line.failure}" if line.failure else line.promise,
        ]
        rows.append(_row(cells))
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _machine(results: Results) -> str:
    facts = {**results.machine, **results.servers, **results.versions}
    missing = {f"not measured: {name}": reason for name, reason in results.not_measured.items()}
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in {**facts, **missing}.items()
    )
    return f'<h2>Machine, servers, versions</h2><div class="scroll"><table>{rows}</table></div>'
