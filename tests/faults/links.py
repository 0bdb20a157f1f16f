"""Links between clients and a broker that cut, drop, delay and halve what passes."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Self


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Link:
    """A TCP proxy; both directions of each connection suffer alike."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._piece = 65536
        self._delay = 0.0
        self._dropping = False
        self._halving = False
        self._refusing = False
        self.port = 0

    @property
    def url(self) -> str:
        return f"zmq://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._cut()

    async def suffer(self, kind: str, seconds: float) -> None:
        """Be broken in one of the ways of `KINDS`, and whole again after *seconds*."""
        await KINDS[kind](self, seconds)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def cut(self, seconds: float) -> None:
        """Reset every connection, and refuse new ones."""
        self._refusing = True
        self._cut()
        await asyncio.sleep(seconds)
        self._refusing = False

    async def reset(self, seconds: float) -> None:
        """Reset every connection, again and again."""
        for _ in range(5):
            self._cut()
            await asyncio.sleep(seconds / 5)

    async def hold(self, seconds: float) -> None:
        """Pass nothing on, and all of it afterwards, as a network does that was away."""
        self._flowing.clear()
        await asyncio.sleep(seconds)
        self._flowing.set()

    async def drop(self, seconds: float) -> None:
        """Throw everything away, and reset what has lost something."""
        self._dropping = True
        await asyncio.sleep(seconds)
        self._cut()
        self._dropping = False

    async def delay(self, seconds: float) -> None:
        """Pass on small pieces, each late."""
        self._piece, self._delay = 200, 0.02
        await asyncio.sleep(seconds)
        self._piece, self._delay = 65536, 0.0

    async def halve(self, seconds: float) -> None:
        """Pass on half of what comes next, and reset the connection."""
        self._halving = True
        await asyncio.sleep(seconds)
        self._halving = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._refusing:
                raise ConnectionError("refused")
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(self._piece):
                await self._flowing.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                if self._dropping:
                    continue
                if self._halving:
                    sink.write(data[: len(data) // 2])
                    await sink.drain()
                    return
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            # What was written before still goes out; then the other direction ends, too.
            sink.close()


KINDS = {
    "cut": Link.cut,
    "reset": Link.reset,
    "hold": Link.hold,
    "drop": Link.drop,
    "delay": Link.delay,
    "halve": Link.halve,
}
