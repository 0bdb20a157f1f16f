"""A peer that does what a test tells it: answers, hangs, lies, resets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq
import zmq.asyncio
from corekit_zeromq.protocol import VERSION, Op, Reply, decode, encode

from corekit.adapters import AdapterContext
from corekit.config import BackendURL
from corekit.testing import eventually
from corekit.testing.contexts import make_context

T = TypeVar("T")

#: Answers a command with replies, or with None: not at all.
Script = Callable[[list[Any]], list[list[Any]] | None]

#: Heartbeats of the fake, in seconds: silence is noticed after three.
HEARTBEAT = 0.1


def _ok(command: list[Any]) -> list[list[Any]]:
    return [[Reply.OK, command[1], None]]


class FakeBroker:
    """A ROUTER on a loopback port with a script for each kind of command.

    What has no script is taken without an answer. `said` holds all commands, `frames` all frames.
    """

    def __init__(self) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._tasks: list[asyncio.Task[None]] = []
        self._route = b""
        self._number = 0
        self.scripts: dict[int, Script] = {Op.HELLO: self.welcome, Op.SUBSCRIBE: self._subscribed}
        self.said: list[list[Any]] = []
        self.hellos: list[list[Any]] = []
        self.frames: list[tuple[int, int, list[list[Any]]]] = []
        self.received = 0
        self.info: dict[str, Any] = {
            "durability": "full",
            "heartbeat": HEARTBEAT,
            "max_message": 1_000_000,
        }
        self.epoch = 1
        self.resumes = False
        #: Whether it beats, and whether it tells what it received.
        self.beating = True
        self.confirming = True

    @property
    def url(self) -> str:
        return f"zmq://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat())]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    def welcome(self, command: list[Any]) -> list[list[Any]]:
        """Take up a session; scripts may build on it."""
        if not self.resumes:
            self.received = self._number = 0
        return [
            [
                Reply.WELCOME,
                VERSION,
                b"session",
                b"secret",
                self.epoch,
                self.resumes,
                self.received,
                self.info,
            ]
        ]

    @staticmethod
    def _subscribed(command: list[Any]) -> list[list[Any]]:
        return [[Reply.OK, command[1], 1]]

    def answer(self, op: Op, value: Any) -> None:
        """Let requests *op* be answered with *value*."""
        self.scripts[op] = lambda command: [[Reply.OK, command[1], value]]

    def commands(self, op: Op) -> list[list[Any]]:
        """Return what was said of kind *op*."""
        return [command for command in self.said if command[0] == op]

    async def heard(self, op: Op, count: int = 1) -> list[list[Any]]:
        """Wait until *op* was said *count* times, and return all of them."""
        await eventually(lambda: len(self.commands(op)) >= count)
        return self.commands(op)

    async def say(self, *commands: list[Any], number: int | None = None) -> None:
        """Send a frame with *commands* to whoever spoke last."""
        if number is None:
            self._number += 1
            number = self._number
        await self.send(encode(number, self.received if self.confirming else 0, commands))

    async def send(self, frame: bytes) -> None:
        """Send any bytes."""
        await self._socket.send_multipart([self._route, frame])

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT / 2)
            if self.beating and self._route:
                await self.say(number=0)

    async def _listen(self) -> None:
        while True:
            self._route, data = await self._socket.recv_multipart()
            number, received, commands = decode(data)
            self.frames.append((number, received, commands))
            if number and number <= self.received:
                continue
            self.received = number or self.received
            for command in commands:
                (self.hellos if command[0] == Op.HELLO and not number else self.said).append(
                    command
                )
                script = self.scripts.get(command[0])
                replies = script(command) if script is not None else None
                if replies is not None:
                    await self.say(*replies, number=None if number else 0)


@asynccontextmanager
async def opened(kind: Callable[[BackendURL, AdapterContext], T], url: str, *arguments: Any) -> Any:
    """Open an adapter of *kind*, give it away, and close it."""
    adapter: Any = kind(BackendURL.parse(url), make_context())
    await adapter.open(*arguments)
    try:
        yield adapter
    finally:
        await adapter.close()
