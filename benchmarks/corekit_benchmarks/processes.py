"""Roles in child processes, which talk to their director in JSON lines on stdin and stdout."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import psutil

from .contracts import Stage, Workload
from .settings import Settings
from .subjects import Subject

#: A line may hold the latencies of a whole repetition, in bytes.
_LONGEST_LINE = 64 * 1024 * 1024

#: How long a process may take to close its client, in seconds.
_LAST_WORDS = 10.0

_TAIL = 2000

T = TypeVar("T")


class RoleFailed(Exception):
    """A role ended with an error, or said nothing for too long; the text says which."""


class _RoleLine:
    """A role in a child process, as its director sees it."""

    def __init__(self, child: _Child, number: int, name: str, patience: float) -> None:
        self._child = child
        self._number = number
        self._name = name
        self._patience = patience
        self._heard = asyncio.Event()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def __repr__(self) -> str:
        state = "open" if self._heard.is_set() else "opening"
        return f"<_RoleLine {self._name} {state} in {self._child!r}>"

    def send(self, **values: Any) -> None:
        self._child.write(self._number, tell=values)

    def hear(self, message: dict[str, Any]) -> None:
        """Take what the role says: first that its client is open, or why it is not."""
        self._heard.set()
        if "opened" not in message:
            self._inbox.put_nowait(message)

    async def opened(self) -> None:
        """Return when the role's client is open, or has failed; `receive` raises then."""
        await self._patiently(self._heard.wait())

    async def receive(self) -> dict[str, Any]:
        message = await self._patiently(self._inbox.get())
        if "failed" in message:
            raise RoleFailed(f"{self._name}: {message['failed']}")
        told: dict[str, Any] = message["tell"]
        return told

    async def kill(self) -> None:
        await self._child.kill()

    async def _patiently(self, awaited: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await awaited
        except TimeoutError:
            raise RoleFailed(f"{self._name} said nothing for {self._patience:g} s") from None


class _Child:
    """A process that plays roles."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._lines: dict[int, _RoleLine] = {}
        self._reading = asyncio.create_task(self._read(), name=f"read from {process.pid}")

    def __repr__(self) -> str:
        return f"<_Child {self._process.pid} roles={len(self._lines)}>"

    @classmethod
    async def start(cls, directory: Path) -> _Child:
        log = directory / f"{os.urandom(4).hex()}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "corekit_benchmarks.child"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                limit=_LONGEST_LINE,
            )
        return cls(process, log)

    def play(self, name: str, orders: dict[str, Any], patience: float) -> _RoleLine:
        number = len(self._lines)
        self._lines[number] = line = _RoleLine(self, number, name, patience)
        self.write(number, start={"role": name, **orders})
        return line

    def write(self, number: int, **message: Any) -> None:
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps({"to": number, **message}).encode() + b"\n")

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Let the process close its clients and end; kill it if it does not."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            async with asyncio.timeout(_LAST_WORDS):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            await self.kill()
            await self._reading

    async def _read(self) -> None:
        if self._process.stdout is None:
            return
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            self._lines[message["from"]].hear(message)
        await self._process.wait()
        tail = self._log.read_bytes()[-_TAIL:].decode(errors="replace")
        ended = f"its process ended with status {self._process.returncode}\n{tail}"
        for role in self._lines.values():
            role.hear({"failed": ended})


class ProcessStage:
    """Plays the roles of one repetition of *workload* on *subject*.

    The roles of a subject that lives in one process share one process and its event loop; all
    others have a process each.
    """

    def __init__(
        self, workload: Workload, subject: Subject, settings: Settings, directory: Path
    ) -> None:
        self.settings = settings
        self.shared = subject.shared
        self.statement = subject.statement
        self._subject = subject
        self._directory = directory
        self._children: list[_Child] = []
        self._places: dict[int, _Child] = {}
        self._prepared = False
        # New in each repetition, so that nothing meets what an earlier one has left.
        self._orders = {
            "workload": workload.about.name,
            "peer": subject.peer,
            "offer": subject.name,
            "component": workload.about.component or subject.component,
            "url": subject.url,
            "name": f"bench-{os.urandom(6).hex()}",
            "settings": asdict(settings),
        }

    def __repr__(self) -> str:
        return f"<ProcessStage {self._orders['workload']} {self._subject.name} {self._children}>"

    async def start(self, role: str, process: int | None = None) -> _RoleLine:
        place = process if self.shared else 0
        child = self._places.get(place) if place is not None else None
        if child is None:
            child = await _Child.start(self._directory)
            self._children.append(child)
            if place is not None:
                self._places[place] = child
        line = child.play(role, self._orders, self.settings.patience)
        if not self._prepared:
            # What the first client finds missing, it creates. RabbitMQ ends the connection of one
            # that consumes from a quorum queue while another one still creates it.
            self._prepared = True
            await line.opened()
        return line

    def server_memory(self) -> int | None:
        if self._subject.server_pid is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(self._subject.server_pid)
            return sum(int(each.memory_info().rss) for each in [server, *server.children(True)])
        return None

    async def close(self) -> None:
        """End all processes, in the order in which they were started, so that consumers go last."""
        for child in reversed(self._children):
            await child.end()


@asynccontextmanager
async def stage(
    workload: Workload, subject: Subject, settings: Settings, directory: Path
) -> AsyncIterator[Stage]:
    """Yield a stage for one repetition; afterwards nothing of it runs any more."""
    it = ProcessStage(workload, subject, settings, directory)
    try:
        yield it
    finally:
        await it.close()
