"""The program of a child process: plays the roles that its director asks for.

Each line on stdin is a JSON object for one role, named by its number: `start` with what it needs,
then what its director tells. Each line on stdout is what a role tells, or why it failed. When stdin
ends, so do the roles. Logs and what libraries print go to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import psutil

from .contracts import Component, Opener
from .settings import Settings
from .workloads import find_workload

_MEASURED = psutil.Process()


class ChildLink:
    """The line from a role to its director."""

    def __init__(self, number: int, output: int) -> None:
        self._number = number
        self._output = output
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.opening: Mapping[str, float] = {}

    def __repr__(self) -> str:
        return f"<ChildLink {self._number} waiting={self.inbox.qsize()}>"

    def opened(self, seconds: float, memory: int) -> None:
        """Tell that the role's client is open, and remember what that took."""
        self.opening = {"time": seconds, "memory": memory}
        self._write(opened=True)

    def send(self, **values: Any) -> None:
        self._write(tell=values)

    async def receive(self) -> dict[str, Any]:
        return await self.inbox.get()

    def fail(self, reason: str) -> None:
        """Tell that the role has ended, and why."""
        self._write(failed=reason)

    def _write(self, **message: Any) -> None:
        line = json.dumps({"from": self._number, **message}).encode() + b"\n"
        while line:
            line = line[os.write(self._output, line) :]


async def play(orders: dict[str, Any], link: ChildLink) -> None:
    """Open the client that *orders* name and play the role with it."""
    workload = find_workload(orders["workload"])
    role = orders["role"]
    if role not in workload.about.roles:
        raise LookupError(f"{workload.about.name} has no role {role!r}")
    settings = Settings(**orders["settings"])
    memory, began = _MEASURED.memory_info().rss, time.monotonic()
    try:
        async with _opener(orders)(orders["url"], orders["name"], settings) as client:
            link.opened(time.monotonic() - began, _MEASURED.memory_info().rss - memory)
            await getattr(workload, role)(client, link, settings)
    except Exception as error:  # noqa: BLE001 - whatever a library raises, the director is to know
        traceback.print_exc()
        link.fail(_reason(error))


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, NotImplementedError):
        # A peer says in a sentence what it does not offer.
        return str(error)
    return f"{type(error).__name__}: {error}"


def _opener(orders: dict[str, Any]) -> Opener:
    # Imported here: what a subject imports is a part of what it costs.
    component: Component = orders["component"]
    if orders["peer"] is None:
        from .application import OPENERS

        return OPENERS[component]
    from .peers import find_offer

    return find_offer(orders["peer"], orders["offer"], component).open


async def main(output: int) -> None:
    """Play roles until stdin ends."""
    lines = asyncio.StreamReader(limit=1024 * 1024)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    links: dict[int, ChildLink] = {}
    roles: set[asyncio.Task[None]] = set()
    while line := await lines.readline():
        message = json.loads(line)
        if "start" in message:
            link = links[message["to"]] = ChildLink(message["to"], output)
            roles.add(asyncio.create_task(play(message["start"], link)))
        else:
            links[message["to"]].inbox.put_nowait(message["tell"])
    for role in roles:
        role.cancel()
    if roles:
        await asyncio.wait(roles)


if __name__ == "__main__":
    # What a library prints must not end up among the lines for the director.
    own_output = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(own_output))
