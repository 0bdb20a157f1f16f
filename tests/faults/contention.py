"""Five contenders for one lock, the resource that it guards, and what they suffer."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from corekit.testing import eventually

from . import checkers, history
from .checkers import Finding
from .history import Event
from .processes import Run

#: Mostly between two turns of the loop: what wakes up there has not been cancelled yet.
SHORT_WORK: dict[str, Any] = {"uses": 8, "block": 0.06, "work": 0.003}
#: Longer than any lease here, and cancelled in time by its deadline.
LONG_WORK: dict[str, Any] = {"uses": 200, "block": 0.004, "work": 0.02}


class Guarded:
    """A resource that takes a use only if no newer token has been there before.

    It records every use in the order in which it saw them.
    """

    def __init__(self, directory: Path, record: history.Recorder, *, checks: bool = True) -> None:
        self.address = str(directory / "resource")
        self._record = record
        self._checks = checks
        self._highest: dict[str, int] = {}
        #: How often it was used, and by whom the last time.
        self.uses = 0
        self.holder = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                use = json.loads(line)
                taken = not self._checks or use["token"] >= self._highest.get(use["name"], 0)
                if taken:
                    self._highest[use["name"]] = use["token"]
                    self.uses += 1
                    self.holder = use["holder"]
                self._record("use", "ok" if taken else "fail", **use)
                writer.write(b"+" if taken else b"-")
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def used(self) -> None:
        """Return when it was used once more."""
        await eventually(lambda before=self.uses: self.uses > before, within=30)

    async def handed_on(self, holder: str) -> None:
        """Return when somebody other than *holder* has used it."""
        await eventually(lambda: self.holder != holder, within=30)


class Contention:
    """Contenders for one lock, each at a URL of its own."""

    def __init__(
        self, run: Run, resource: Guarded, urls: list[str], ttl: float, work: dict[str, Any]
    ) -> None:
        self.run = run
        self.resource = resource
        self.ttl = ttl
        self._options = {"ttl": ttl, "resource": resource.address, "component": "lock", **work}
        self._urls = {f"contender{number}": url for number, url in enumerate(urls, 1)}

    async def start(self, names: list[str] | None = None) -> None:
        """Start the contenders *names*, or all."""
        for name in names or self._urls:
            await self.run.client("contender", name, self._urls[name], **self._options)

    async def end(self) -> None:
        """Let what was broken end by its time, and then the contenders in order."""
        await asyncio.sleep(self.ttl + 2)
        await self.run.end(self._urls, within=60)

    async def hit(self, kind: str, suffer: Callable[[str], Awaitable[None]]) -> None:
        """Let whoever holds the lock suffer, until another one holds it."""
        await asyncio.sleep(self.run.random.uniform(0.3, 1))
        # Who has just used it will mostly do so again, after a while in which nothing cancels it.
        await self.resource.used()
        await asyncio.sleep(0.015)
        target = self.resource.holder
        async with self.run.fault(kind, target):
            await suffer(target)

    def beyond_the_lease(self) -> float:
        """Return a time that is longer than a lease and what is added to it."""
        return self.ttl + self.run.random.uniform(0.5, 1.5)

    async def pause(self, target: str) -> None:
        """Pause a contender past its lease, and until another one has been at the resource."""
        program = self.run.clients[target]
        program.pause()
        await asyncio.sleep(self.beyond_the_lease())
        await self.resource.handed_on(target)
        program.resume()

    async def kill(self, target: str) -> None:
        """Kill a contender."""
        self.run.clients[target].kill()


def interrupted(events: list[Event]) -> list[Event]:
    """Return the faults that hit a contender which held the lock."""
    found = []
    for fault in checkers.select(events, "fault", "call"):
        mine = [e for e in events if e.process == fault["target"] and e.time < fault.time]
        if mine and mine[-1].op == "acquire" and mine[-1].phase == "ok":
            found.append(fault)
    return found


def handed_on(events: list[Event], within: float) -> Finding:
    """After its holder was hit, somebody else gets the lock *within* seconds."""
    acquired = checkers.select(events, "acquire", "ok")
    took: dict[str, list[float]] = {}
    for fault in interrupted(events):
        later = (each for each in acquired if each.time > fault.time)
        taken = next((each for each in later if each.process != fault["target"]), None)
        kind = fault["kind"].replace(" ", "_")
        took.setdefault(kind, []).append(taken.time - fault.time if taken else float("inf"))
    longest = {kind: max(each) for kind, each in sorted(took.items())}
    finding = Finding({"handed_on": sum(map(len, took.values()))})
    finding.figures |= {f"handed_on_after_{kind}": each for kind, each in longest.items()}
    if not took:
        finding.violations.append("no holder was hit: the run proves nothing")
    late = [f"{each:.2f} s after {kind}" for kind, each in longest.items() if each > within]
    if late:
        finding.violations.append(f"the next one waited longer than {within:g} s: {late}")
    return finding


def told(events: list[Event], ttl: float) -> Finding:
    """Who was cut off from the backend at work stops before its *ttl* is over, most as lost."""
    lost, after = 0, [0.0]
    finding = Finding()
    for fault in interrupted(events):
        mine = [e for e in events if e.process == fault["target"] and e.time > fault.time]
        stopped = next((each for each in mine if each.op in ("leave", "work")), None)
        if stopped is None or stopped.time > fault.time + ttl:
            finding.violations.append(f"{fault['target']} was not told by its lease's end")
        else:
            lost += stopped.phase == "lost"
            after.append(stopped.time - fault.time)
    finding.figures = {"told": lost, "told_after": max(after)}
    if not lost:
        finding.violations.append("nobody lost a lease at work: the run proves nothing")
    return finding


def going_on(events: list[Event], within: float) -> Finding:
    """Nobody is missed at the resource for longer than *within* seconds."""
    times = [event.time for event in checkers.select(events, "use", "ok")]
    silence = max(later - earlier for earlier, later in itertools.pairwise(times))
    finding = Finding({"longest_silence": silence})
    if silence > within:
        finding.violations.append(f"nobody was at the resource for {silence:.1f} s")
    return finding
