"""`corekit bench`."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from corekit.errors import CorekitError

from .contracts import Workload
from .measure import planned
from .peers import PEERS
from .report import page, speed_table, table
from .results import Results
from .run import Plan, Run
from .settings import Settings
from .subjects import COMPONENTS, chosen_subjects, peer_subjects
from .workloads import WORKLOADS, matching

#: What a full run measures of ours.
_FULL_BACKENDS = ("memory://", "zmq://", "etcd://")

#: And as one component only: a broker's socket in the file system.
_FULL_PUB_SUB = "zmq+ipc://"

_FILE_WIDTH = 180

_Command = Callable[..., Any]


def _settings_options(command: _Command) -> _Command:
    """Add an option for each field of Settings."""
    for field in reversed(dataclasses.fields(Settings)):
        number = click.FloatRange(0) if isinstance(field.default, float) else click.IntRange(0)
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            default=field.default,
            show_default=True,
            type=number,
            help=field.metadata["help"],
        )(command)
    return command


def _backend_options(command: _Command) -> _Command:
    """Add an option for each component's URLs, and one for those of all components."""
    for component in reversed(COMPONENTS):
        command = click.option(
            f"--{component.replace('_', '-')}",
            multiple=True,
            metavar="URL",
            help=f"Measure this as {component} only.",
        )(command)
    return click.option(
        "--backend",
        multiple=True,
        metavar="URL",
        help="Measure all that it offers; repeat it to compare. zmq://, zmq+ipc:// and etcd:// "
        "without an address start a server of their own. Default: memory://.",
    )(command)


def _file(name: str, explanation: str, *, exists: bool = False) -> Callable[[_Command], _Command]:
    path = click.Path(exists=exists, dir_okay=False, path_type=Path)
    return click.option(f"--{name}", f"{name}_file", metavar="FILE", type=path, help=explanation)


@click.command()
@_backend_options
@click.option(
    "--workload",
    "patterns",
    multiple=True,
    metavar="NAME",
    help="As --list shows it, or a kind: cache, pub_sub, queue, lock, start. Default: all.",
)
@click.option("--peers", is_flag=True, help="Measure also what people would use instead.")
@click.option("--peer", "chosen_peers", multiple=True, type=click.Choice(PEERS), help="Only this.")
@click.option(
    "--repeat",
    default=5,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Repetitions, in turns; half as many for the points of curves.",
)
@_settings_options
@click.option("--scale", "scales", multiple=True, metavar="NAME=V,V,...", help="Vary a parameter.")
@click.option("--curves", is_flag=True, help="Vary what each workload proposes to vary.")
@click.option(
    "--full",
    is_flag=True,
    help="Everything: memory, a broker, etcd, all peers, all curves. With "
    "--repeat 3 --duration 1 --patience 40 it takes about forty minutes.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where servers keep their data meanwhile. Default: a temporary directory.",
)
@_file("json", "Write the results.")
@_file("html", "Write a page with plots.")
@_file("read", "Show these results instead of measuring.", exists=True)
@_file("table", "Print the README's speed table from these results.", exists=True)
@click.option("--list", "lists", is_flag=True, help="List the workloads.")
def bench(
    *,
    lists: bool,
    read_file: Path | None,
    table_file: Path | None,
    json_file: Path | None,
    html_file: Path | None,
    data: Path | None,
    **choices: Any,
) -> None:
    """Compare backends with each other, and with what people would use instead.

    Figures are medians over the repetitions, a spread is half their range, and ratios are to the
    first line that was measured.
    """
    console = _console()
    if lists:
        console.print(_list())
    elif table_file is not None:
        click.echo(speed_table.markdown(_loaded(table_file)))
    else:
        if read_file is not None:
            results = _loaded(read_file)
            table.show(results, console)
        else:
            results = _measured(_plan(**choices), data, json_file, console)
        if html_file is not None:
            html_file.write_text(page.html(results), encoding="utf-8")


def _console() -> Console:
    console = Console()
    # A file or a pipe has no edge at which tables would have to break.
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def _plan(
    *,
    backend: Sequence[str],
    patterns: Sequence[str],
    peers: bool,
    chosen_peers: Sequence[str],
    repeat: int,
    scales: Sequence[str],
    curves: bool,
    full: bool,
    **others: Any,
) -> Plan:
    by_component = {component: others.pop(component) for component in COMPONENTS}
    settings = Settings(**others)
    if full:
        backend = (*backend, *(url for url in _FULL_BACKENDS if url not in backend))
        if _FULL_PUB_SUB not in (*backend, *by_component["pub_sub"]):
            by_component["pub_sub"] = (*by_component["pub_sub"], _FULL_PUB_SUB)
    elif not backend and not chosen_peers and not any(by_component.values()):
        backend = ("memory://",)
    try:
        subjects = chosen_subjects(backend, by_component)
    except CorekitError as error:
        raise click.ClickException(str(error)) from error
    theirs, missing = peer_subjects(PEERS if peers or full else chosen_peers)
    return Plan(
        cases=planned(_workloads(patterns), settings, _scales(scales), own_scales=curves or full),
        subjects=[*subjects, *theirs],
        repeat=repeat,
        settings=settings,
        command=shlex.join(["corekit", *sys.argv[1:]]),
        not_measured=missing,
    )


def _workloads(patterns: Sequence[str]) -> list[Workload]:
    if not patterns:
        return list(WORKLOADS)
    chosen: dict[str, Workload] = {}
    for pattern in patterns:
        found = matching(pattern)
        if not found:
            raise click.BadParameter(f"there is no workload {pattern!r}; --list shows all")
        chosen |= {workload.about.name: workload for workload in found}
    return list(chosen.values())


def _scales(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    known = {field.name for field in dataclasses.fields(Settings)}
    scales = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.replace("-", "_")
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise click.BadParameter(f"--scale {text}: write NAME=1,2,3") from None
        if name not in known:
            raise click.BadParameter(f"--scale {text}: known are {', '.join(sorted(known))}")
        scales[name] = numbers
    return scales


def _measured(plan: Plan, data: Path | None, json_file: Path | None, console: Console) -> Results:
    """Run *plan*; *json_file* has after each case what was found so far, should it be stopped."""
    if not plan.size:
        raise click.ClickException("nothing that was named offers what these workloads need")
    progress = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
    )
    with _ended_by_sigterm(), _directory(data) as directory, progress:
        task = progress.add_task("", total=plan.size)

        def told(what: str, *, done: int = 0) -> None:
            progress.update(task, description=what, advance=done)

        def found(results: Results) -> None:
            console.print(table.case_table(results.cases[-1]))
            if json_file is not None:
                results.save(json_file)

        results = Run(plan, directory, told, found).measure()
    for name, reason in results.not_measured.items():
        console.print(f"not measured: {name}: {reason}", style="yellow", markup=False)
    return results


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run as an error does: no server and no directory outlives it."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="corekit-bench-", dir=data) as directory:
        yield Path(directory)


def _loaded(path: Path) -> Results:
    try:
        return Results.load(path)
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{path} holds no results: {error}") from error


def _list() -> Table:
    listed = Table("workload", "what is measured", "curves over")
    for workload in WORKLOADS:
        about = workload.about
        title = about.title.format(**dataclasses.asdict(Settings()))
        listed.add_row(about.name, title, ", ".join(about.scales))
    return listed
