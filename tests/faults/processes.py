"""Brokers and clients as processes, and a run of them that is judged at its end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import checkers, history
from .checkers import Finding
from .history import Event

#: Multiplies the number of faults, and the time of the soak; 100 before a release.
SCALE = float(os.environ.get("COREKIT_FAULTS_SCALE", "1"))
SEED = int(os.environ.get("COREKIT_FAULTS_SEED", "0")) or random.SystemRandom().getrandbits(32)

#: Faster than in production, so that deaths are noticed soon.
HEARTBEAT, SESSION_TIMEOUT, RECLAIM = 0.3, 1.5, 1.0

CLIENTS = Path(__file__).with_name("clients.py")


def scaled(count: float) -> int:
    """Return *count* times the scale, at least 1."""
    return max(1, round(count * SCALE))


def memory(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Program:
    """A child process; what it prints as errors goes to a file."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        self._paused = False
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def pause(self) -> None:
        """Stop it where it stands."""
        self._paused = True
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._paused = False
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would, and wait until it has gone."""
        self._process.kill()
        self._process.communicate()

    def end(self, within: float) -> int:
        """Let it end in order, and return its exit code."""
        if self._paused:
            self.resume()
        try:
            self._process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self._process.returncode


class Broker:
    """A broker of the command line, on a socket, which keeps socket and data over restarts."""

    def __init__(
        self, directory: Path, *options: str, listen: str | None = None, data: Path | None = None
    ) -> None:
        self.data = data or directory.with_name(directory.name + "-data")
        self.log = directory.with_name(directory.name + ".log")
        self.address = listen or f"ipc://{directory}.socket"
        self.url = "zmq+" + self.address if listen is None else listen.replace("tcp", "zmq")
        self._options = list(options)
        self.program: Program | None = None

    def start(self) -> Program:
        """Start the process; it listens when this returns."""
        limits = {
            "heartbeat": HEARTBEAT,
            "session_timeout": SESSION_TIMEOUT,
            "reclaim": RECLAIM,
        }
        command = [sys.executable, "-m", "corekit_zeromq", "--data", str(self.data)]
        command += ["--listen", self.address, *self._options]
        for name, value in limits.items():
            command += ["--limit", f"{name}={value}"]
        before = self._listened()
        self.program = Program(command, self.log)
        deadline = time.monotonic() + 20
        while self._listened() == before:
            if not self.program.runs or time.monotonic() > deadline:
                raise RuntimeError(f"no broker: {self.log.read_text()[-3000:]}")
            time.sleep(0.01)
        return self.program

    def _listened(self) -> int:
        """Return how often a broker has said in the log that it listens."""
        return self.log.read_text().count("listening on") if self.log.exists() else 0

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.program is not None:
            self.program.kill()
            self.program = None


class Run:
    """Processes, the faults they suffer, and their history.

    Everything random comes from `random`, whose seed the report shows.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / "history"
        self.directory.mkdir()
        self.random = random.Random(f"{SEED}/{name}")  # noqa: S311 - repeatable
        self.clients: dict[str, Program] = {}
        self._stack = AsyncExitStack()
        self._history = history.Reader(self.directory)
        self.record = self.record_as("test")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in self.clients.values():
            client.kill()
        await self._stack.aclose()
        if error is not None:
            for path in sorted(self.directory.glob("*.log")):
                print(f"--- {path.name}\n{path.read_text()[-1500:]}")  # noqa: T201

    def record_as(self, name: str) -> history.Recorder:
        """Return a recorder of what the test sees of *name*."""
        recorder = history.Recorder(self.directory, name)
        self._stack.callback(recorder.close)
        return recorder

    def broker(self, *options: str, listen: str | None = None) -> Broker:
        """Return a broker that has been started, and is killed at the end."""
        broker = Broker(self.directory.parent / "broker", *options, listen=listen)
        self.own(broker)
        return broker

    def own(self, broker: Broker) -> None:
        """Start *broker*; it is killed at the end."""
        self._stack.callback(broker.kill)
        broker.start()

    async def client(self, kind: str, name: str, url: str, **options: Any) -> Program:
        """Start a client and wait until it is at work."""
        text = json.dumps({"seed": SEED, **options})
        command = [sys.executable, str(CLIENTS), kind, name, str(self.directory), url, text]
        program = self.clients[name] = Program(command, self.directory / f"{name}.log")
        async with asyncio.timeout(20):
            if await asyncio.to_thread(program.line) != "ready":
                raise RuntimeError(f"{name} did not start: {program.log[-3000:]}")
        return program

    @asynccontextmanager
    async def fault(self, kind: str, target: str) -> AsyncIterator[None]:
        """Record a fault, from its beginning to its end."""
        self.record("fault", "call", kind=kind, target=target)
        yield
        self.record("fault", "ok", kind=kind, target=target)

    async def kill_broker(self, broker: Broker, away: float = 0.0) -> None:
        """Kill *broker* and start it again after *away* seconds."""
        async with self.fault("kill", "broker"):
            broker.kill()
            await asyncio.sleep(away)
            await asyncio.to_thread(broker.start)

    async def end(self, names: Iterable[str], within: float = 30) -> None:
        """Let clients end in order; each must end well."""
        ending = {name: self.clients.pop(name) for name in names}
        codes = await asyncio.gather(
            *(asyncio.to_thread(program.end, within) for program in ending.values())
        )
        assert set(codes) <= {0}, [program.log[-3000:] for program in ending.values()]

    def events(self) -> list[Event]:
        """Return the history so far."""
        return self._history.events()

    async def until(
        self, condition: Callable[[list[Event]], bool], within: float, *, each: float = 0.5
    ) -> bool:
        """Wait until the history fulfils *condition*; say whether it does."""
        deadline = time.monotonic() + within
        while not condition(await asyncio.to_thread(self.events)):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(each)
        return True

    def judge(self, *findings: Finding) -> None:
        """Report the figures of the run; fail if a checker objects."""
        line = f"{self.name}: {checkers.report(*findings)} (seed {SEED}, scale {SCALE:g})"
        print(line)  # noqa: T201 - shown by pytest -rP
        report = os.environ.get("COREKIT_FAULTS_REPORT")
        if report:
            with open(report, "a") as file:
                file.write(line + "\n")
        violations = [text for finding in findings for text in finding.violations]
        assert not violations, violations


def nothing_left(events: list[Event]) -> bool:
    """Tell whether every confirmed message was handled to its end."""
    return checkers.keys(events, "publish", "ok") <= checkers.keys(events, "handle", "ok")
