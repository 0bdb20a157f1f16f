"""The proxy passes on what it should, and breaks what it is told to break."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from corekit.testing import Proxy, eventually


class Server:
    """Keeps what it is told, echoes it, and may be told to say more, or nothing."""

    def __init__(self) -> None:
        self.heard = b""
        self.ends: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.echoes = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self.writers.append(writer)
        try:
            while data := await reader.read(4096):
                self.heard += data
                if self.echoes:
                    writer.write(data)
            self.ends.append("end")
        except OSError as error:
            self.ends.append(type(error).__name__)
        finally:
            writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Server, Proxy]]:
    """Start a server, and a proxy before it."""
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with Proxy(listening.sockets[0].getsockname()[1]) as proxy:
        yield server, proxy
    listening.close()
    await eventually(lambda: len(server.ends) == len(server.writers))


@asynccontextmanager
async def connected(
    proxy: Proxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect through *proxy*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def silent(reader: asyncio.StreamReader) -> bool:
    """Tell whether nothing comes for a moment."""
    try:
        async with asyncio.timeout(0.1):
            return await reader.read(1) is None
    except TimeoutError:
        return True


async def test_it_passes_everything_on() -> None:
    """What clients say and what the server answers arrives whole, however much it is."""
    async with proxied() as (server, proxy), connected(proxy) as (reader, writer):
        said = bytes(range(256)) * 4096
        writer.write(said)
        assert await reader.readexactly(len(said)) == said
        assert server.heard == said
        assert proxy.accepted == 1
        assert proxy.address == f"127.0.0.1:{proxy.port}"


async def test_an_end_is_passed_on() -> None:
    """A connection that one side ends has ended on the other, after what was said last."""
    async with proxied() as (server, proxy):
        async with connected(proxy) as (reader, writer):
            writer.write(b"last")
            writer.close()
            await eventually(lambda: server.ends == ["end"])
            assert server.heard == b"last"
        async with connected(proxy) as (reader, writer):
            writer.write(b"more")
            assert await reader.readexactly(4) == b"more"
            server.writers[-1].write(b"bye")
            server.writers[-1].close()
            assert await reader.read() == b"bye"


async def test_a_reset_is_passed_on() -> None:
    """A connection that one side resets is reset on the other."""
    async with proxied() as (server, proxy), connected(proxy) as (_, writer):
        writer.write(b"x")
        await eventually(lambda: server.heard == b"x")
        reset = b"\1\0\0\0\0\0\0\0"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()
        await eventually(lambda: server.ends == ["ConnectionResetError"])


async def test_a_cut_resets_both_sides() -> None:
    """`cut` resets every connection there is; the next one is served."""
    async with proxied() as (server, proxy), connected(proxy) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await eventually(lambda: server.ends == ["ConnectionResetError"])
        async with connected(proxy) as (reader, writer):
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"


async def test_refusing() -> None:
    """While it refuses, what is open goes on, and new connections are reset."""
    async with proxied() as (server, proxy), connected(proxy) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.refusing = True
        with pytest.raises(ConnectionResetError):
            async with connected(proxy) as (second, _):
                await second.read()
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        assert proxy.accepted == len(server.writers) == 1
        proxy.restore()
        async with connected(proxy) as (reader, writer):
            writer.write(b"z")
            assert await reader.readexactly(1) == b"z"


async def test_a_server_that_is_away() -> None:
    """Where no server listens, connections are reset."""
    async with proxied() as (_, proxy):
        port = proxy.port
    async with Proxy(port) as proxy:
        with pytest.raises(ConnectionResetError):
            async with connected(proxy) as (reader, _):
                await reader.read()


async def test_holding() -> None:
    """What is held arrives when it is let go, complete and in order, and so does the end."""
    async with proxied() as (server, proxy), connected(proxy) as (reader, writer):
        proxy.hold()
        writer.write(b"held")
        writer.write_eof()
        assert await silent(reader)
        assert (server.heard, server.ends) == (b"", [])
        proxy.restore()
        assert await reader.read() == b"held"
        assert (server.heard, server.ends) == (b"held", ["end"])


async def test_a_cut_while_holding() -> None:
    """What was held when the connection was cut never arrives."""
    async with proxied() as (server, proxy), connected(proxy) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.hold()
        writer.write(b"held")
        await asyncio.sleep(0.05)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        proxy.restore()
        await eventually(lambda: server.ends == ["ConnectionResetError"])
        assert server.heard == b"x"


@pytest.mark.parametrize("setting", ["holding", "losing"])
async def test_one_direction(setting: str) -> None:
    """Each direction can be held or lost by itself, while the other one works."""
    async with proxied() as (server, proxy), connected(proxy) as (reader, writer):
        setattr(proxy.answers, setting, True)
        writer.write(b"question")
        await eventually(lambda: server.heard == b"question")
        assert await silent(reader)
        proxy.restore()
        setattr(proxy.requests, setting, True)
        server.writers[0].write(b"news")
        lost = b"" if setting == "losing" else b"question"
        assert await reader.readexactly(len(lost) + 4) == lost + b"news"
        writer.write(b"unheard")
        assert await silent(reader)
        assert server.heard == b"question"


async def test_halving() -> None:
    """The next piece ends in its middle, and its connection after that."""
    async with proxied() as (server, proxy), connected(proxy) as (reader, writer):
        server.echoes = False
        writer.write(b"whole")
        await eventually(lambda: server.heard == b"whole")
        proxy.requests.halving = True
        writer.write(b"12345678")
        await eventually(lambda: server.ends == ["end"])
        assert server.heard == b"whole1234"
        assert await reader.read() == b""


async def test_pieces_and_delay() -> None:
    """Pieces pass one by one, each after the delay."""
    async with proxied() as (_, proxy), connected(proxy) as (reader, writer):
        proxy.requests.piece, proxy.requests.delay = 2, 0.03
        loop = asyncio.get_running_loop()
        # The read that waits for the first piece was begun with the old size.
        writer.write(b"-")
        await reader.readexactly(1)
        begun = loop.time()
        writer.write(b"abcdef")
        assert await reader.readexactly(6) == b"abcdef"
        assert loop.time() - begun >= 0.08


async def test_nothing_is_left() -> None:
    """At the end connections are reset, held ones and those without an answer too."""
    async with proxied() as (server, proxy), connected(proxy) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.hold()
        writer.write(b"held")
        await asyncio.sleep(0.02)
        await proxy.__aexit__(None, None, None)
        await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        assert server.heard == b"x"


async def test_a_connection_that_has_just_come() -> None:
    """At the end it is reset too, if nothing was done for it yet."""
    async with proxied() as (_, proxy):
        client = socket.create_connection(("127.0.0.1", proxy.port))
        client.settimeout(5)
        while "1 connections" not in repr(proxy):  # noqa: ASYNC110 - at the very next turn
            await asyncio.sleep(0)
    with client, pytest.raises(ConnectionResetError):
        await asyncio.to_thread(client.recv, 1)


async def test_its_state_is_shown() -> None:
    """The repr tells where it stands, and what it does to what passes."""
    async with proxied() as (_, proxy):
        proxy.requests.losing = True
        proxy.answers.halving = proxy.answers.holding = True
        assert repr(proxy) == f"<Proxy {proxy.port} to 127.0.0.1:{proxy._target}, 0 connections>"
        assert repr(proxy.requests) == "<Direction losing, 65536 B each 0.0 s>"
        assert repr(proxy.answers) == "<Direction holding, halving, 65536 B each 0.0 s>"
        proxy.restore()
        proxy.refusing = True
        assert repr(proxy).endswith("refusing>")
        assert repr(proxy.requests) == "<Direction open, 65536 B each 0.0 s>"
