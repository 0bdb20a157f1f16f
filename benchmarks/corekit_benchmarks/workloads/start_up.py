"""Starting up: what an import costs, how long until a client is open, and in how much memory."""

from __future__ import annotations

import asyncio
import statistics
import sys

from ..contracts import About, Figure, Link, Sample, Stage, Workload
from ..settings import Settings

_IMPORTS = 3

_TIMED = "import time; begin = time.perf_counter(); {}; print(time.perf_counter() - begin)"


class Import:
    """The import statement of a user, in a fresh interpreter that has imported nothing else."""

    about = About(
        "start.import",
        None,
        "import, beyond a bare interpreter: what a user needs, and the bare package",
        (Figure("time", "s", "less"), Figure("package", "s", "less")),
    )

    async def run(self, stage: Stage) -> Sample:
        # "import redis.asyncio" and "from redis import asyncio" both name the package second.
        package = stage.statement.split()[1].partition(".")[0].rstrip(",")
        return Sample(
            {
                "time": await self._median(stage.statement),
                "package": await self._median(f"import {package}"),
            }
        )

    async def _median(self, statement: str) -> float:
        return statistics.median([await self._import(statement) for _ in range(_IMPORTS)])

    async def _import(self, statement: str) -> float:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _TIMED.format(statement)), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise ImportError(f"{statement!r} ended with status {process.returncode}")
        return float(output)


class Open:
    """From the start of the program to a connected client."""

    about = About(
        "start.open",
        None,
        "imports and connecting, in a process that has asyncio; resident memory beyond it",
        (Figure("time", "s", "less"), Figure("memory", "B", "less")),
    )

    async def run(self, stage: Stage) -> Sample:
        client = await stage.start("client")
        return Sample(await client.receive())

    async def client(self, client: object, link: Link, settings: Settings) -> None:
        """Tell when the client was open."""
        link.send(**link.opening)


WORKLOADS: tuple[Workload, ...] = (Import(), Open())
