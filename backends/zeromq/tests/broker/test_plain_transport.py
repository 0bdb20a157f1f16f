"""The listener for connections without keys: bounds, and the ends of connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from corekit_zeromq.broker import BrokerRefused, Limits
from corekit_zeromq.broker.addresses import Endpoint
from corekit_zeromq.broker.plain_transport import PlainTransport
from corekit_zeromq.broker.rate import RateLimit
from corekit_zeromq.broker.transport import Arrival
from corekit_zeromq.link import Link
from corekit_zeromq.plain_link import PlainLink
from corekit_zeromq.session import FULL

from corekit.testing import eventually

MIB = 1024 * 1024


@contextlib.asynccontextmanager
async def listening(
    address: str = "tcp://127.0.0.1:*", **limits: int
) -> AsyncIterator[PlainTransport]:
    """Give a transport that listens and that nobody attends to."""
    complaints = RateLimit(logging.getLogger("test"))
    transport = PlainTransport([Endpoint.parse(address)], Limits(**limits), complaints)
    try:
        await transport.open()
        yield transport
    finally:
        await transport.close()


class Client:
    """A connection to the transport."""

    def __init__(self, transport: PlainTransport) -> None:
        self.frames: list[bytes] = []
        self.is_lost = False
        self.link: Link = PlainLink(transport.addresses[0], self._take, self._lost)

    async def __aenter__(self) -> Client:
        await self.link.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.finish(1.0)

    def _take(self, frame: bytes) -> bool:
        self.frames.append(frame)
        return True

    def _lost(self) -> None:
        self.is_lost = True


async def test_there_and_back() -> None:
    """Frames come in with their connection, in order, and answers find it, until it has gone."""
    async with listening() as transport:
        async with Client(transport) as one, Client(transport) as two:
            one.link.send(b"one")
            one.link.send(b"more")
            two.link.send(b"two")
            arrivals: list[Arrival] = []
            while len(arrivals) < 3:
                await eventually(transport.readable)
                arrivals += transport.receive(9, MIB)
            assert transport.receive(9, MIB) == []
            routes = {data: route for route, data, _ in arrivals}
            of_one = [data for route, data, _ in arrivals if route == routes[b"one"]]
            assert routes[b"one"] == routes[b"more"] != routes[b"two"]
            assert of_one == [b"one", b"more"]
            assert transport.send(routes[b"two"], b"answer") is True
            await eventually(lambda: two.frames == [b"answer"])
            assert one.frames == []
        await eventually(lambda: transport.send(routes[b"two"], b"late") is None)


async def test_what_is_received_is_bounded() -> None:
    """By frames and by bytes, as whoever asks can take; the rest waits, in order."""
    async with listening() as transport, Client(transport) as client:
        for number in range(10):
            client.link.send(b"%d" % number * 100)
        await eventually(lambda: len(transport.arrived) == 10)
        taken = [
            [data[:1] for _, data, _ in transport.receive(*most)] for most in ((3, MIB), (9, 250))
        ]
        assert taken == [[b"0", b"1", b"2"], [b"3", b"4", b"5"]]
        assert [data[:1] for _, data, _ in transport.receive(9, 1)] == [b"6"]
        assert [data[:1] for _, data, _ in transport.receive(9, MIB)] == [b"7", b"8", b"9"]


async def test_a_flood_waits_outside() -> None:
    """What is not received is read up to a bound for each connection, and hurts no other one."""
    async with (
        listening() as transport,
        Client(transport) as flood,
        Client(transport) as other,
    ):
        count = 400
        for _ in range(count):
            flood.link.send(bytes(50_000))
        await eventually(lambda: "backlog=1" in repr(next(iter(transport._connections.values()))))
        other.link.send(b"other")
        received = 0
        most = 0
        while True:
            await eventually(transport.readable)
            most = max(most, sum(len(data) for _, data in transport.arrived))
            received += len(transport.receive(1, MIB))
            if received == count + 1:
                break
        assert not transport.readable()
        # A read of the system's may bring a little more than the bound.
        assert most < 2 * MIB


async def test_many_small_frames_count_by_what_they_take() -> None:
    """Frames of no size fill the bound as well."""
    async with listening() as transport, Client(transport) as client:
        client.link.send(b"")
        for _ in range(200_000):
            client.link.send(b"")
        await eventually(lambda: len(transport.arrived) > 4_000)
        waiting = len(transport.arrived)
        await asyncio.sleep(0)
        assert waiting <= len(transport.arrived) < 140_000


async def test_who_does_not_read_is_full() -> None:
    """To a connection that does not read `send` is refused in the end, and told of when it goes on.

    Nothing of what was sent is lost by that.
    """
    told = asyncio.Event()
    async with listening() as transport:
        host, port = transport.addresses[0].removeprefix("tcp://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1000)
        greeting = await reader.readexactly(64)
        ready = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
        writer.write(greeting + ready + b"\x00\x05hello")
        await eventually(transport.readable)
        ((route, data, _),) = transport.receive(1, MIB)
        assert data == b"hello"
        transport.attend(told.set)
        sent = 0
        while transport.send(route, bytes(100_000)):
            sent += 1
            await asyncio.sleep(0)
        assert sent > 5
        assert not told.is_set()
        expected = 43 + sent * (9 + 100_000)
        got = 0
        while got < expected:
            got += len(await reader.read(1 << 20))
        await asyncio.wait_for(told.wait(), 5)
        assert transport.send(route, b"again") is True
        writer.close()
        await writer.wait_closed()


async def test_the_number_of_connections_is_bounded() -> None:
    """One too many is closed at once; when another one has gone there is room again."""
    async with listening(connections=2) as transport, Client(transport) as first:
        async with Client(transport), Client(transport) as third:
            await eventually(lambda: third.is_lost)
            assert not first.is_lost
        await eventually(lambda: len(transport._connections) == 1)
        async with Client(transport) as fourth:
            fourth.link.send(b"here")
            await eventually(transport.readable)
            assert not fourth.is_lost


async def test_silent_connections_end() -> None:
    """Who says nothing for some looks in a row is cut off, before and after the handshake."""
    async with listening() as transport, Client(transport) as silent, Client(transport) as alive:
        silent.link.send(b"once")
        alive.link.send(b"alive")
        await eventually(lambda: len(transport.arrived) == 2)
        host, port = transport.addresses[0].removeprefix("tcp://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\xff")
        await eventually(lambda: len(transport._connections) == 3)
        now = asyncio.get_running_loop().time()
        for look in range(1, 5):
            before = len(transport.arrived)
            alive.link.send(b"alive")
            # A byte more of a greeting is no sign of life.
            writer.write(b"\0")
            await eventually(lambda before=before: len(transport.arrived) > before)  # type: ignore[misc]
            assert not silent.is_lost
            transport.tick(now + look * 10)
        await eventually(lambda: silent.is_lost)
        assert await reader.read() == b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
        assert not alive.is_lost
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f\x01"])
async def test_foreign_peers_are_cut_off(said: bytes) -> None:
    """As soon as it shows that they do not speak ZMTP 3."""
    async with listening() as transport:
        host, port = transport.addresses[0].removeprefix("tcp://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        with contextlib.suppress(ConnectionResetError):
            assert len(await reader.read()) == 64
        await eventually(lambda: not transport._connections)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_addresses_that_are_taken(tmp_path: Path) -> None:
    """A port or a path that another one listens on is refused; a path is free after its end."""
    async with listening() as transport:
        with pytest.raises(BrokerRefused, match="cannot listen on"):
            async with listening(transport.addresses[0]):
                pass
    path = tmp_path / "socket"
    async with listening(f"ipc://{path}"):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BrokerRefused, match="another broker"):
            async with listening(f"ipc://{path}"):
                pass
    assert not path.exists()
    async with listening(f"ipc://{path}") as transport, Client(transport) as client:
        client.link.send(b"here")
        await eventually(transport.readable)


async def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    """What a killed broker left in the file system does not keep the next one from listening."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with listening(f"ipc://{path}") as transport, Client(transport) as client:
        client.link.send(b"here")
        await eventually(transport.readable)


async def test_what_was_sent_leaves_at_the_end() -> None:
    """Closing sends what is on its way to those who read."""
    async with listening() as transport, Client(transport) as client:
        client.link.send(b"here")
        await eventually(transport.readable)
        ((route, _, _),) = transport.receive(1, MIB)
        transport.send(route, bytes(3_000_000))
        await transport.close()
        await eventually(lambda: client.is_lost)
        assert [len(frame) for frame in client.frames] == [3_000_000]


async def test_under_load_turns_are_shared() -> None:
    """At rest each arrival is told at once; what comes in soon after a turn is told together."""
    async with (
        listening() as transport,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(Client(transport)) for _ in range(20)]
        for client in clients:
            client.link.send(b"hello")
        await eventually(lambda: len(transport.arrived) == 20)
        turns: list[int] = []

        def turn() -> None:
            turns.append(len(transport.arrived))
            while transport.receive(9, MIB):
                pass

        transport.attend(turn)
        for client in clients:
            client.link.send(b"at once")
        await eventually(lambda: sum(turns) >= 40)
        assert sum(turns) == 40
        assert len(turns) < 12
        transport.ignore()
        clients[0].link.send(b"nobody hears")
        await eventually(transport.readable)
        assert sum(turns) == 40


async def test_a_full_frame_leaves_at_once(tmp_path: Path) -> None:
    """Through the file system, too, the system takes two full frames that nobody reads yet."""
    async with listening(f"ipc://{tmp_path}/s") as transport, Client(transport) as client:
        client.link.send(b"here")
        await eventually(transport.readable)
        (connection,) = transport._connections.values()
        assert isinstance(client.link, PlainLink)
        assert client.link._transport is not None
        # Without a pause nobody reads: this loop is the other side as well.
        for _ in range(2):
            client.link.send(bytes(FULL))
            transport.send(connection.route, bytes(FULL))
        assert client.link._transport.get_write_buffer_size() == 0
        assert connection.transport.get_write_buffer_size() == 0
