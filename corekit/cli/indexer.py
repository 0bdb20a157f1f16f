"""The plugin that `corekit demo` runs: it indexes Python source files, on several instances.

It uses each component for what it is there for, so it reads as an example too. As a program
(`python -m corekit.cli.indexer APP URL`) it is one instance as a process of its own.
"""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path
from typing import Any

from .. import App, Cache, Counter, DeliveryContext, Plugin

#: The queue of files to index, and the channel on which the end is broadcast.
FILES = "files"
CANCEL = "cancel"


class Indexer(Plugin):
    """Indexes the files that come through the queue."""

    name = "indexer"

    results: Cache
    counts: Counter

    def __init__(self) -> None:
        self.word = ""
        self.cancelled = asyncio.Event()

    async def before_load(self) -> None:
        self.app.event_queue.subscribe(FILES, self.index, concurrency=2)
        await self.app.pub_sub_manager.subscribe(CANCEL, self.cancel)

    async def load(self) -> None:
        self.results = await self.app.cache_manager.create_cache("results")
        self.counts = await self.app.cache_manager.create_counter("counts")
        # All instances start at the same time; one of them sets up, the others wait for it.
        await self.app.lock_manager.run_exclusive("set-up", self._set_up)
        self.word = await self.app.cache.get("word")
        await self.counts.incr("up")

    async def _set_up(self) -> None:
        if await self.app.cache.add("word", "import"):
            await self.counts.incr("set-ups")

    async def handle_sync_message(self, message: Any) -> None:
        self.word = message["word"]
        await self.counts.incr(f"word {self.word}")

    async def resync(self) -> None:
        self.word = await self.app.cache.get("word")

    async def cancel(self, message: Any) -> None:
        await self.counts.incr("cancelled")
        self.cancelled.set()

    async def index(self, path: str, context: DeliveryContext) -> None:
        """Count what is in the file *path*, unless an earlier delivery of it has."""
        result = await asyncio.to_thread(measure, Path(path), self.word)
        if await self.results.add(path, result):
            await self.counts.incr(f"files {self.app.instance_id}")
        else:
            await self.counts.incr("duplicates")
        await self.counts.incr("done")


def measure(path: Path, word: str) -> dict[str, int]:
    """Return how many lines and definitions *path* has, and how often *word* occurs in it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError):
        # Test data of parsers, and files for other versions of Python.
        nodes = []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        "lines": text.count("\n"),
        "definitions": sum(isinstance(node, kinds) for node in nodes),
        "words": text.count(word),
    }


async def serve(app: App, indexer: Indexer) -> None:
    """Run one instance until the end is broadcast."""
    async with app:
        await indexer.cancelled.wait()


def main(app: str, backend: str, instance_id: str) -> None:
    """Be one instance, as a process of its own."""
    indexer = Indexer()
    asyncio.run(
        serve(App(app, backend=backend, instance_id=instance_id, plugins=[indexer]), indexer)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
