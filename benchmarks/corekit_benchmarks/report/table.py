"""Tables on the terminal: one for each case, one line for each subject."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results import CaseResult, Results
from .quantities import shown, shown_ratio, shown_spread


def show(results: Results, console: Console) -> None:
    """Print everything that a run found."""
    for case in results.cases:
        console.print(case_table(case))
    for name, reason in results.not_measured.items():
        console.print(Text(f"not measured: {name}: {reason}", style="yellow"))


def case_table(case: CaseResult) -> Table:
    """Return the table of one case.

    The first figure is compared: its spread is half the range of the repetitions, its ratio the
    median of those to the first line, repetition by repetition. All other figures are medians.
    """
    name = f"{case.workload}, {case.scaled}={case.value:g}" if case.scaled else case.workload
    table = Table(title=f"{name}: {case.title}", title_justify="left", title_style="bold")
    table.add_column("", overflow="fold")
    main, *others = case.figures
    for heading in (main.name, "spread", "ratio", *(each.name for each in others)):
        table.add_column(heading, justify="right")
    table.add_column("guarantees", overflow="fold")
    first = case.first()
    for line in case.lines:
        if not line.repetitions:
            blank = [""] * (len(case.figures) + 2)
            reason = Text(f"not measured: {line.failure}", style="yellow")
            table.add_row(line.subject, *blank, reason)
            continue
        ratio = line.ratio(main.name, first) if first is not None else None
        table.add_row(
            line.subject,
            shown(line.median(main.name), main),
            shown_spread(line.spread(main.name)),
            shown_ratio(ratio),
            *(shown(line.median(each.name), each) for each in others),
            line.promise + (f" (then failed: {line.failure})" if line.failure else ""),
        )
    return table
