"""`corekit demo`: the main job on real input."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import App
from .indexer import CANCEL, FILES, Indexer, serve

#: How many publishes wait for their confirmation at a time, and results are read at a time.
_CHUNK = 64
#: Without any file being done for this long, in seconds, what is left counts as lost.
_PATIENCE = 30.0
#: How often the counts are looked at, in seconds.
_TICK = 0.05


@dataclass
class Report:
    """What came of a run."""

    files: int
    seconds: float = 0.0
    lines: int = 0
    definitions: int = 0
    words: int = 0
    instances: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    lost: int = 0
    set_ups: int = 0
    told_word: int = 0
    told_cancel: int = 0

    def problems(self, instances: int) -> list[str]:
        """Return what went wrong, nothing if all is well."""
        facts = {
            f"{self.lost} files lost": self.lost == 0,
            f"{self.duplicates} files counted twice": self.duplicates == 0,
            f"set up {self.set_ups} times": self.set_ups == 1,
            f"the new word reached {self.told_word} of {instances}": self.told_word == instances,
            f"the cancel reached {self.told_cancel} of {instances}": self.told_cancel == instances,
        }
        return [fact for fact, holds in facts.items() if not holds]


@click.command()
@click.argument(
    "path", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False
)
@click.option("--instances", default=4, show_default=True, type=click.IntRange(1, 64))
@click.option(
    "--backend", metavar="URL", help="Default: zmq+local:// if installed, else memory://."
)
@click.option(
    "--word", default="async", show_default=True, help="The word to look for from half-way on."
)
def demo(path: Path | None, instances: int, backend: str | None, word: str) -> None:
    """Index the Python files under PATH (default: the standard library) on several instances.

    Files go through the event queue, results and counts through the cache, the index is set up
    under a lock, the word to look for changes half-way by a sync message, and the end is broadcast
    over pub/sub. Exits with 1 if anything was lost or doubled.
    """
    root = path or Path(sysconfig.get_path("stdlib"))
    files = _sources(root)
    if not files:
        raise click.ClickException(f"no Python files under {root}")
    console = Console()
    app_name = f"demo-{os.getpid()}"
    url = backend or _default_backend()
    run = _Run(app_name, url, files, instances, word, console)
    where = "in this process" if run.in_process else "as processes of their own"
    console.print(f"{len(files)} files under {root}, {instances} instances {where}, {url}")
    report = asyncio.run(run.run())
    console.print(_table(report))
    problems = report.problems(instances)
    for problem in problems:
        console.print(f"[red]{problem}[/red]")
    raise SystemExit(1 if problems else 0)


def _sources(root: Path) -> list[str]:
    """Return the Python files under *root*, without what was installed beside it."""
    installed = {"site-packages", "dist-packages"}
    return sorted(
        str(file)
        for file in root.rglob("*.py")
        if file.is_file() and not installed.intersection(file.relative_to(root).parts)
    )


def _default_backend() -> str:
    try:
        distribution("corekit-zeromq")
    except PackageNotFoundError:
        return "memory://"
    return "zmq+local://corekit-demo"


class _Run:
    """One run of the demo, seen from the instance that hands out the work."""

    def __init__(
        self, app: str, url: str, files: list[str], instances: int, word: str, console: Console
    ) -> None:
        self._app_name = app
        self._url = url
        self._files = files
        self._ids = [f"{app}-{number}" for number in range(1, instances + 1)]
        self._word = word
        self._console = console

    async def run(self) -> Report:
        """Start the instances, hand out the files, change the word half-way, end, and count."""
        report = Report(len(self._files))
        async with self._app() as app, self._instances():
            self._counts = await app.cache_manager.create_counter("counts")
            await self._until("up", len(self._ids))
            began = time.monotonic()
            with self._progress() as progress:
                task = progress.add_task("indexing", total=len(self._files))
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._publish(app))
                    await self._watch(lambda done: progress.update(task, completed=done))
            report.seconds = time.monotonic() - began
            await app.pub_sub_manager.publish(CANCEL, None)
            report.told_cancel = await self._until("cancelled", len(self._ids))
            await self._count(app, report)
        return report

    def _app(self, *, instance_id: str | None = None, indexer: Indexer | None = None) -> App:
        # The memory store keeps 2000 entries of a cache unless it is told otherwise.
        room = "memory://?max=1000000" if self.in_process else None
        return App(
            self._app_name,
            backend=self._url,
            cache=room,
            instance_id=instance_id,
            plugins=[indexer] if indexer else [],
        )

    @property
    def in_process(self) -> bool:
        """Whether all instances live in this process: memory adapters know no other."""
        return self._url.startswith("memory:")

    @asynccontextmanager
    async def _instances(self) -> AsyncIterator[None]:
        start = self._task if self.in_process else self._process
        async with AsyncExitStack() as stack:
            for instance_id in self._ids:
                await stack.enter_async_context(start(instance_id))
            yield

    @asynccontextmanager
    async def _task(self, instance_id: str) -> AsyncIterator[None]:
        indexer = Indexer()
        app = self._app(instance_id=instance_id, indexer=indexer)
        task = asyncio.create_task(serve(app, indexer), name=instance_id)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    @asynccontextmanager
    async def _process(self, instance_id: str) -> AsyncIterator[None]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "corekit.cli.indexer",
            self._app_name,
            self._url,
            instance_id,
        )
        try:
            yield
            async with asyncio.timeout(_PATIENCE):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )

    async def _publish(self, app: App) -> None:
        changed = False
        for start in range(0, len(self._files), _CHUNK):
            chunk = self._files[start : start + _CHUNK]
            await asyncio.gather(
                *(app.event_queue.publish(FILES, file, timeout=60, max_retries=3) for file in chunk)
            )
            if not changed and start + _CHUNK >= len(self._files) / 2:
                changed = True
                await app.cache.set("word", self._word)
                await app.sync_message_manager.publish(Indexer.name, {"word": self._word})

    async def _watch(self, show: Callable[[int], None]) -> None:
        """Show how many files are done until all are, or nothing has moved for too long."""
        done, moved = 0, time.monotonic()
        while done < len(self._files) and time.monotonic() - moved < _PATIENCE:
            await asyncio.sleep(_TICK)
            now_done = await self._counts.get("done")
            if now_done != done:
                done, moved = now_done, time.monotonic()
                show(done)

    async def _until(self, key: str, expected: int) -> int:
        """Wait until the count *key* is what is *expected*; return what it is in the end."""
        deadline = time.monotonic() + _PATIENCE
        count = await self._counts.get(key)
        while count < expected and time.monotonic() < deadline:
            await asyncio.sleep(_TICK)
            count = await self._counts.get(key)
        return count

    async def _count(self, app: App, report: Report) -> None:
        results = await app.cache_manager.create_cache("results")
        for start in range(0, len(self._files), _CHUNK):
            for result in await results.mget(self._files[start : start + _CHUNK]):
                if result is None:
                    report.lost += 1
                else:
                    report.lines += result["lines"]
                    report.definitions += result["definitions"]
                    report.words += result["words"]
        for instance_id in self._ids:
            report.instances[instance_id] = await self._counts.get(f"files {instance_id}")
        report.duplicates = await self._counts.get("duplicates")
        report.set_ups = await self._counts.get("set-ups")
        report.told_word = await self._counts.get(f"word {self._word}")


def _table(report: Report) -> Table:
    table = Table("", "count", title="corekit demo")
    table.add_row("files", str(report.files))
    table.add_row("lines", str(report.lines))
    table.add_row("definitions", str(report.definitions))
    table.add_row("words found", str(report.words), end_section=True)
    for instance_id, count in report.instances.items():
        table.add_row(f"by {instance_id}", str(count))
    table.add_section()
    table.add_row("duplicates", str(report.duplicates))
    table.add_row("lost", str(report.lost))
    table.add_row("files per second", f"{report.files / report.seconds:.0f}")
    return table
