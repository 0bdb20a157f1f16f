"""`corekit bench`."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .contracts import Component, Workload
from .machine import machine, versions
from .measure import Case, measure, planned
from .report import table
from .results import Results
from .settings import Settings
from .subjects import Subject, backend_subjects
from .workloads import WORKLOADS, matching


@click.command()
@click.option("--backend", "backends", multiple=True, metavar="URL", help="Measure all that it offers.")
@click.option("--workload", "patterns", multiple=True, metavar="NAME", help="A workload, or all of a kind.")
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--duration", default=2.0, show_default=True, type=float)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def bench(backends, patterns, repeat, duration, json_file) -> None:
    """Compare backends."""
    console = Console()
    subjects = [subject for url in backends or ("memory://",) for subject in backend_subjects(url)]
    workloads = [w for p in patterns for w in matching(p)] or list(WORKLOADS)
    settings = Settings(duration=duration)
    begun = time.time()
    with tempfile.TemporaryDirectory() as d:
        cases = planned(workloads, settings, {}, own_scales=False)
        async def run():
            out = []
            for c in cases:
                if c.subjects(subjects):
                    r = await measure(c, subjects, repeat, Path(d), lambda t: console.print(t, style="dim"))
                    console.print(table.case_table(r))
                    out.append(r)
            return out
        res = Results("corekit bench", "", time.time()-begun, repeat, {}, machine(Path(d)), versions(["corekit"]), {}, asyncio.run(run()), {})
    if json_file: res.save(json_file)
