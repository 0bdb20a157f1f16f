"""ZMTP, as a client without keys speaks it: against its rules, and against libzmq."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
import zmq
from corekit_zeromq.link import Stage
from corekit_zeromq.plain_link import PlainLink
from corekit_zeromq.zmtp import Dealer, ForeignPeerError, OtherMechanismError, framed
from hypothesis import given
from hypothesis import strategies as st

from corekit.testing import eventually

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER"
HANDSHAKE = GREETING + READY


def ready(largest: int = 1 << 30) -> Dealer:
    """Return a dealer after its handshake, for messages of up to *largest* bytes."""
    dealer = Dealer(largest)
    assert dealer.take(HANDSHAKE) == []
    assert dealer.is_ready
    assert dealer.take_answers()
    return dealer


def test_handshake() -> None:
    """The opening and the answers make the 64 bytes of a greeting, and one READY as DEALER."""
    dealer = Dealer(1 << 30)
    dealer.take(HANDSHAKE)
    said = Dealer.opening + dealer.take_answers()
    assert said[:64] == GREETING
    assert said[64:] == (
        b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
    )
    assert dealer.take_answers() == b""


@given(
    st.lists(st.binary(max_size=300) | st.integers(255, 70_000).map(bytes), max_size=5),
    st.lists(st.integers(1, 90), max_size=40),
)
def test_pieces(messages: list[bytes], cuts: list[int]) -> None:
    """However the stream is cut, the same messages come out, once and in order.

    Also if each piece stands where the one before it stood.
    """
    stream = HANDSHAKE + b"".join(framed(message) for message in messages)
    dealer = Dealer(1 << 30)
    buffer = bytearray(len(stream))
    got: list[bytes] = []
    for cut in [*cuts, len(stream)]:
        piece, stream = stream[:cut], stream[cut:]
        buffer[: len(piece)] = piece
        got += dealer.read(memoryview(buffer), len(piece))
    assert got == messages


@st.composite
def pieces(draw: st.DrawFn) -> bytes:
    """Return a whole message, maybe with one byte changed, or some bytes."""
    if draw(st.booleans()):
        return draw(st.binary(min_size=1, max_size=30))
    piece = bytearray(framed(draw(st.binary(max_size=20) | st.integers(250, 260).map(bytes))))
    if draw(st.booleans()):
        piece[draw(st.integers(0, min(9, len(piece) - 1)))] = draw(st.integers(0, 255))
    return bytes(piece)


def outcome(take: Callable[[], list[bytes]]) -> object:
    """Return what *take* returns or raises."""
    try:
        return take()
    except ForeignPeerError as error:
        return repr(error)


@given(st.lists(pieces(), max_size=4), st.sampled_from([1 << 30, 255]))
def test_read_takes(said: list[bytes], largest: int) -> None:
    """To read from a buffer is to take what stands in it, whatever that is."""
    reader, taker = ready(largest), ready(largest)
    buffer = memoryview(bytearray(1000))
    for piece in said:
        buffer[: len(piece)] = piece
        found = outcome(lambda: reader.read(buffer, len(piece)))  # noqa: B023 - called at once
        assert found == outcome(lambda: taker.take(piece))  # noqa: B023 - called at once
        assert repr(reader) == repr(taker)
        if type(found) is str:
            return


@given(st.data())
def test_garbage(data: st.DataObject) -> None:
    """Any bytes, before and after the handshake, are messages or one of the two errors."""
    dealer = ready() if data.draw(st.booleans()) else Dealer(1 << 30)
    try:
        for piece in data.draw(st.lists(st.binary(max_size=80), max_size=6)):
            for message in dealer.take(piece):
                assert type(message) is bytes
    except (ForeignPeerError, OtherMechanismError):
        pass


@given(st.integers(0, len(HANDSHAKE) - 1), st.integers(0, 255))
def test_a_wrong_byte_in_the_handshake(place: int, byte: int) -> None:
    """A handshake with one byte changed ends in one of the two errors, or is still a handshake."""
    changed = HANDSHAKE[:place] + bytes([byte]) + HANDSHAKE[place + 1 :]
    dealer = Dealer(1 << 30)
    try:
        assert dealer.take(changed) == []
    except (ForeignPeerError, OtherMechanismError):
        assert byte != HANDSHAKE[place]


def test_ping() -> None:
    """A PING is answered with its context, between messages, and is no message."""
    dealer = ready()
    ping = b"\x04\x09\x04PING\x00\x14ab"
    assert dealer.take(framed(b"one") + ping + framed(b"two")) == [b"one", b"two"]
    assert dealer.take_answers() == b"\x04\x07\x04PONGab"


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\xff" + bytes(8) + b"\x00",
        b"\xff" + bytes(8) + b"\x7f\x01",
        GREETING + READY.replace(b"ROUTER", b"DEALER"),
        GREETING + framed(b"before READY"),
        GREETING + b"\x04\x09\x05ERROR\x02no",
        HANDSHAKE + b"\x01\x03abc",
        HANDSHAKE + b"\x02\xff\xff\xff\xff\xff\xff\xff\xff",
        HANDSHAKE + b"\x04\x00",
        HANDSHAKE + b"\x80\x00",
    ],
    ids=[
        "http",
        "signature",
        "zmtp 2",
        "no router",
        "too early",
        "error",
        "two parts",
        "too large",
        "empty command",
        "reserved flag",
    ],
)
def test_foreign_peers(said: bytes) -> None:
    """What a ROUTER without keys does not say is told as soon as it is there."""
    with pytest.raises(ForeignPeerError):
        Dealer(1 << 30).take(said)


def test_another_mechanism() -> None:
    """A peer that wants keys is known by its greeting."""
    with pytest.raises(OtherMechanismError, match="CURVE"):
        Dealer(1 << 30).take(GREETING.replace(b"NULL\0", b"CURVE"))


@pytest.fixture
def router() -> Iterator[zmq.Socket[bytes]]:
    """Return a ROUTER socket of libzmq."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.router_mandatory = True
        yield socket


class Collected:
    """What a link handed on; takes *room* frames, and then no more."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.frames: list[bytes] = []
        self.room = room
        self.losses = 0

    def take(self, frame: bytes) -> bool:
        """Take a frame."""
        self.frames.append(frame)
        return len(self.frames) < self.room

    def lost(self) -> None:
        """Take note of the end."""
        self.losses += 1


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://[::1]:0", "ipc"])
async def test_with_libzmq(
    address: str, router: zmq.Socket[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Messages of all sizes pass both ways over a real ROUTER; closing it is noticed."""
    if address == "ipc":
        address = f"ipc://{tmp_path_factory.mktemp('i')}/s"
    router.ipv6 = "[" in address
    router.heartbeat_ivl = 20
    router.heartbeat_timeout = 5_000
    router.bind(address)
    sizes = [0, 1, 255, 256, 65_536, 3_000_000]
    collected = Collected()
    link = PlainLink(router.last_endpoint.decode(), collected.take, collected.lost)
    await link.open()
    for size in sizes:
        link.send(bytes(size))
    for size in sizes:
        await eventually(lambda: router.poll(0))
        route, frame = router.recv_multipart()
        assert len(frame) == size
        router.send_multipart([route, frame])
    await eventually(lambda: len(collected.frames) == len(sizes))
    assert [len(frame) for frame in collected.frames] == sizes
    assert link.stage is Stage.SPEAKING
    router.close(0)
    await eventually(lambda: collected.losses)
    assert collected.losses == 1
    link.send(b"to nobody")
    await link.finish(1.0)


async def test_reading_stops(router: zmq.Socket[bytes]) -> None:
    """Who takes no more gets no more, and holds up the sender in the end, until it reads on."""
    router.sndhwm = 5
    router.bind("tcp://127.0.0.1:0")
    collected = Collected(room=3)
    link = PlainLink(router.last_endpoint.decode(), collected.take, collected.lost)
    await link.open()
    link.send(b"here")
    await eventually(lambda: router.poll(0))
    route = router.recv_multipart()[0]
    sent = 0

    def full() -> bool:
        nonlocal sent
        try:
            router.send_multipart([route, bytes(1_000_000)], zmq.NOBLOCK)
            sent += 1
        except zmq.Again:
            return True
        return False

    await eventually(full)
    await eventually(lambda: link.held_back)
    assert len(collected.frames) == 3
    collected.room = 1_000_000
    link.read_on()
    await eventually(lambda: len(collected.frames) == sent)
    await link.finish(1.0)
    assert collected.losses == 0


async def test_a_link_that_cannot_be_made() -> None:
    """Where nobody listens, `open` raises OSError."""
    collected = Collected()
    link = PlainLink("tcp://127.0.0.1:1", collected.take, collected.lost)
    with pytest.raises(ConnectionRefusedError):
        await link.open()
    assert link.stage is Stage.CONNECTING
    await link.finish(1.0)


async def test_closed_while_it_connects() -> None:
    """A link that is closed before its connection is there connects to nobody for long."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        collected = Collected()
        link = PlainLink(f"tcp://{host}:{port}", collected.take, collected.lost)
        link.close()
        await link.open()
        async with asyncio.timeout(5):
            await ended.wait()
    assert collected.losses == 0
