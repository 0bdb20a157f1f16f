"""A TCP proxy that breaks connections as networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

#: More than any frame that somebody would count on to arrive in one piece.
_PIECE = 65536

#: Makes a close a reset: what was not yet sent is dropped, and the peer is told so.
_RESET = struct.pack("ii", 1, 0)


class Direction:
    """What passes through a proxy from one side to the other; each setting holds at once."""

    def __init__(self) -> None:
        self._flowing = asyncio.Event()
        self.restore()

    def __repr__(self) -> str:
        state = [name for name in ("holding", "losing", "halving") if getattr(self, name)]
        return f"<Direction {', '.join(state) or 'open'}, {self.piece} B each {self.delay} s>"

    @property
    def holding(self) -> bool:
        """Whether nothing passes on, without anything being closed: what a dead network looks like.

        What was held passes on, in order, when it is set to False.
        """
        return not self._flowing.is_set()

    @holding.setter
    def holding(self, value: bool) -> None:
        if value:
            self._flowing.clear()
        else:
            self._flowing.set()

    def restore(self) -> None:
        """Pass everything on, as it comes, beginning with what was held."""
        self.losing = False
        """Whether everything is thrown away. Whoever goes on with such a connection afterwards
        sees a stream with a hole, which no network makes: `Proxy.cut` it."""

        self.halving = False
        """Whether the next piece ends in its middle, and its connection with it."""

        self.piece = _PIECE
        """How many bytes pass on at once, at most."""

        self.delay = 0.0
        """How long each piece is kept before it passes on, in seconds."""

        self.holding = False

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass on what comes from *source*, and in the end how it has ended."""
        try:
            while data := await self._next(source):
                if self.halving:
                    sink.write(data[: len(data) // 2])
                    sink.close()
                    return
                if not self.losing:
                    sink.write(data)
                    await sink.drain()
            sink.write_eof()
        except OSError:
            _reset(sink)

    async def _next(self, source: asyncio.StreamReader) -> bytes:
        data = await source.read(self.piece)
        await self._flowing.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        return data


class Proxy:
    """Stands between clients and a server of this machine, on a free loopback port.

    It is for the clauses of the suites that ask for lost connections, and for tests of your own:

        async with Proxy(4222) as proxy:
            adapter = MyPubSub(BackendURL.parse(f"mine://{proxy.address}"), make_context())
            ...
            proxy.cut()

    `requests` is what clients say, `answers` what the server says: each can be held back, lost,
    halved, cut into pieces and delayed. A connection that one side ends or resets is ended or reset
    at the other. At the end of the block all connections are reset.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self._host, self._target = host, port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests = Direction()
        self.answers = Direction()

        self.port = 0
        """Where it listens; 0 before the block is entered."""

        self.refusing = False
        """Whether new connections are reset."""

        self.accepted = 0
        """How many connections there were, without those that were refused."""

    def __repr__(self) -> str:
        state = "refusing" if self.refusing else f"{len(self._connections)} connections"
        return f"<Proxy {self.port} to {self._host}:{self._target}, {state}>"

    @property
    def address(self) -> str:
        """Where clients find it, as HOST:PORT."""
        return f"127.0.0.1:{self.port}"

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
        if self._server is not None:
            self._server.close()
        self.cut()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection; set `refusing` first if none may follow."""
        for writer in self._writers:
            _reset(writer)

    def hold(self) -> None:
        """Pass nothing on in either direction, without closing anything."""
        self.requests.holding = self.answers.holding = True

    def restore(self) -> None:
        """Be whole again: accept connections, and pass everything on, first what was held."""
        self.refusing = False
        self.requests.restore()
        self.answers.restore()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._server.is_serving():
            # It was on its way when the block ended.
            _reset(writer)
            return
        # Here, since a task that is cancelled before its first step would never close it.
        self._writers.add(writer)
        connection = asyncio.ensure_future(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        try:
            if self.refusing:
                return
            self.accepted += 1
            far_reader, far_writer = await asyncio.open_connection(self._host, self._target)
        except OSError:
            return
        else:
            await self._join(reader, writer, far_reader, far_writer)
        finally:
            _reset(writer)
            self._writers.discard(writer)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._writers.add(far_writer)
        try:
            await asyncio.gather(
                self.requests.pump(reader, far_writer), self.answers.pump(far_reader, writer)
            )
            for sink in (writer, far_writer):
                # What was written still goes out.
                sink.close()
                with suppress(OSError):
                    await sink.wait_closed()
        finally:
            _reset(far_writer)
            self._writers.discard(far_writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, unless it has been closed already."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
