"""Whatever a client reads: it takes it, or says what is wrong, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import math
import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
from corekit_zeromq import connection as connections
from corekit_zeromq.cache import Cache
from corekit_zeromq.event_queue import EventQueue
from corekit_zeromq.local import Place
from corekit_zeromq.lock import Lock
from corekit_zeromq.protocol import (
    VERSION,
    Op,
    Reply,
    decode,
    decode_batch,
    encode,
    packed,
)
from corekit_zeromq.pub_sub import PubSub
from corekit_zeromq.session import Session
from corekit_zeromq.settings import Settings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from corekit.adapters import Delivery, Grant
from corekit.config import BackendURL
from corekit.errors import (
    BackendUnavailable,
    ConfigurationError,
    CorekitError,
    SerializationError,
)
from corekit.testing import make_context

from .values import VALUES

#: What would do in some place of some reply, and what is next to it. Requests count from 1.
NEARLY = st.sampled_from(
    [
        *(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -1, 1 << 62),
        *(0.5, float("nan"), float("inf"), None, True, "c", "q", "m", "invalid_name", "text"),
        *(b"", b"x", [], [None], [1], [b"x"], ["k"], [b"x", 1], [[b"x", 1]], [1, 5.0, b"o"]),
        *([0, 0, 0, 0], [["m", b"x", "error", 1, 5.0]], [[b"t", "m", b"x", 1, 0, 5.0]], {}),
        *(["m"], [None, "m"], [["queue_full", "text"]], [["queue_full"]]),
        *([["m", b"x"]], [[b"t", 5, b"x", 1, 0, 5.0]], [[b"t", "m", "x", None, 0, 5.0]]),
        *([[1, b"x"]], [[1, packed([b"x"])]], [[2, packed([b"x"])], 5]),
    ]
)

COMMANDS = st.tuples(
    st.sampled_from([*Reply, Reply.OK, Reply.OK, Reply.OK, 99]),
    st.lists(st.one_of(NEARLY, NEARLY, VALUES), max_size=5),
).map(lambda one: [one[0], *one[1]])

DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), max_size=2)

FRAMES = st.one_of(st.tuples(st.lists(COMMANDS, max_size=4), DAMAGE), st.binary(max_size=40))


def damaged(data: bytes, damage: list[tuple[int, int]]) -> bytes:
    """Return *data* with some of its bits turned over."""
    changed = bytearray(data)
    for place, bits in damage:
        changed[place % len(changed)] ^= bits
    return bytes(changed)


class Link:
    """Stands in for the link: it is up at once, again and again."""

    def __init__(self, *_: Any, take: Callable[[bytes], bool], **__: Any) -> None:
        self.take = take
        self.is_up = self.was_up = False
        self.number = 0
        self.links = 0
        self.intervals: list[float] = []
        self.closed = False

    def welcome(self, **changed: Any) -> list[Any]:
        """Return the WELCOME of a new session, with some of its fields *changed*."""
        fields = {
            "version": VERSION,
            "session": b"session",
            "secret": b"secret",
            "epoch": self.links,
            "resumed": False,
            "received": 0,
            "info": {"durability": "full", "heartbeat": 1.0, "max_message": 1000},
        }
        return [Reply.WELCOME, *{**fields, **changed}.values()]

    def start(self) -> None:
        """Be up, in a new session."""
        if not self.closed:
            self.links += 1
            self.number = 0
            self.take(encode(0, 0, [self.welcome()]))

    async def ready(self) -> None:
        """Be up already."""

    def accept(self, interval: float) -> None:
        self.is_up = self.was_up = True
        self.intervals.append(interval)

    def end(self, reason: CorekitError) -> None:
        assert isinstance(reason, CorekitError)
        self.is_up = False
        asyncio.get_running_loop().call_soon(self.start)

    def send(self, frame: bytes) -> None:
        decode(frame)

    def read_on(self) -> None:
        """Hand on nothing: nothing was kept."""

    def absence(self) -> CorekitError:
        return BackendUnavailable("away")

    async def close(self, farewell: Callable[[], None]) -> None:
        self.closed = True
        farewell()

    def say(self, commands: Sequence[Any], damage: list[tuple[int, int]]) -> None:
        """Bring a frame with *commands*."""
        self.number += 1
        self.take(damaged(encode(self.number, 0, list(commands)), damage))


@pytest.fixture(scope="module", autouse=True)
def _links() -> Iterator[None]:
    """Let no connection need a broker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "LinkKeeper", Link)
        yield


class Receiver:
    """Takes messages and deliveries, and looks at them."""

    def __init__(self) -> None:
        self.wrong: list[object] = []

    def messages(self, channel: str, payloads: Sequence[bytes]) -> None:
        if (channel, type(payloads)) != ("c", list):
            self.wrong.append(payloads)

    def gap(self, channel: str) -> None:
        if channel != "c":
            self.wrong.append(channel)

    def deliveries(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            fields = one.id, one.payload, one.attempt, one.deaths, one.published_at
            if [*map(type, fields)] != [str, bytes, int, int, float]:
                self.wrong.append(one)

    def expired(self, delivery: Delivery) -> None:
        """Take note."""


async def hear(frames: list[Any]) -> None:
    """Use everything, hear *frames*, and see every call end."""
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    url, context = BackendURL.parse("zmq://127.0.0.1:1"), make_context()
    pub_sub, queue = PubSub(url, context), EventQueue(url, context)
    cache, lock = Cache(url, context), Lock(url, context)
    receiver = Receiver()
    await pub_sub.open(receiver)
    await queue.open()
    await cache.open()
    await lock.open()
    link: Any = pub_sub._client.connection.link
    space = cache.space("s")
    # In this order they have the numbers from 1.
    calls = [
        pub_sub.subscribe("c"),
        queue.publish("q", "m", b"x"),
        queue.stats("q"),
        queue.dead_letters("q", 5),
        space.get("k"),
        space.delete(["k"]),
        space.keys(),
        space.swap("k", b"v", None, None),
        lock.acquire("n", 5.0, 1.0),
        lock.extend(Grant("n", 1, 5.0, 0.0, b"o"), 5.0),
        queue.purge("q"),
    ]
    tasks = [asyncio.ensure_future(call) for call in calls]
    consumer = queue.consume("q", receiver)
    consumer.grant(5)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for frame in frames:
        if isinstance(frame, bytes):
            link.take(frame)
        else:
            link.say(*frame)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert all(0 < interval < math.inf for interval in link.intervals)
    # Those that nobody answered end with their adapters.
    pub_sub._connection = None
    for adapter in (pub_sub, queue, cache, lock):
        adapter._client.connection.leave(adapter)
    async with asyncio.timeout(5):
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert not isinstance(result, BaseException) or isinstance(result, CorekitError)
    for adapter in (pub_sub, queue, cache, lock):
        await adapter._client.close()
    assert failures == receiver.wrong == []


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=4))
@example([([[Reply.OK, 1, "x"]], [])])
@example([([[Reply.OK, 5, []]], [])])
@example([([[Reply.GAP, "c", "x"]], [])])
@example([([[Reply.DELIVERIES, 1, [[b"t", 5, b"x", 1, 0, 5.0]]]], [])])
def test_any_frame_at_the_client(frames: list[Any]) -> None:
    """Whatever the broker says: no call hangs or raises anything but an error of corekit."""
    asyncio.run(hear(frames))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["version", "session", "secret", "epoch", "resumed", "received", "info"]),
        st.one_of(NEARLY, VALUES),
    ),
    st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {}, optional={"heartbeat": st.one_of(NEARLY, VALUES), "max_message": VALUES}
        ),
    ),
)
@example({}, {"heartbeat": float("nan")})
@example({}, {"heartbeat": 0})
@example({"received": 10**6, "resumed": True}, None)
def test_any_welcome(changed: dict[str, Any], info: dict[str, Any] | None) -> None:
    """A WELCOME of any form begins a session, or ends the link; the next one is as good as any."""

    async def greeted() -> None:
        pub_sub = PubSub(BackendURL.parse("zmq://127.0.0.1:1"), make_context())
        await pub_sub.open(Receiver())
        connection = pub_sub._client.connection
        link: Any = connection.link
        fields = changed if info is None else {**changed, "info": info}
        link.take(encode(0, 0, [link.welcome(**fields)]))
        assert all(0 < interval < math.inf for interval in link.intervals)
        assert connection.max_message > 0
        await asyncio.sleep(0)
        assert link.is_up
        await pub_sub._client.close()

    asyncio.run(greeted())


@given(
    st.lists(
        st.one_of(st.binary(max_size=30), st.builds(encode, *[st.integers(0, 9)] * 2, st.just([])))
    )
)
def test_any_frame_of_a_session(frames: list[bytes]) -> None:
    """A frame is taken, or a SerializationError; what was confirmed stays so."""
    session = Session()
    session.add([Op.BYE])
    while session.next_frame() is not None:
        pass
    for frame in frames:
        before = session.received, session.confirmed
        try:
            session.take(frame)
        except SerializationError:
            continue
        assert session.received in (before[0], before[0] + 1)
        assert before[1] <= session.confirmed <= session.transmitted


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.one_of(st.binary(max_size=5), VALUES), max_size=5).map(msgpack.packb),
        st.lists(st.binary(max_size=5), max_size=5).map(packed),
    ),
    st.integers(1, 6),
)
def test_any_bytes_as_a_batch(batch: bytes, count: int) -> None:
    """A batch is as many bytes as it should have, or a SerializationError."""
    try:
        payloads = decode_batch(count, batch)
    except SerializationError:
        return
    assert len(payloads) == count
    assert {type(payload) for payload in payloads} == {bytes}
    assert packed(payloads) == batch or len(batch) > len(packed(payloads))


@pytest.mark.parametrize(
    "heavy",
    [b"\x92", b"\x90", b"\xc4\x00", b"\x92\xc4\x02xx", b"\xdc\x03\xe8" + b"\x90" * 1000],
    ids=["arrays", "empty-arrays", "empty-payloads", "pairs", "arrays-of-arrays"],
)
def test_a_heavy_batch_is_cheap(heavy: bytes) -> None:
    """A batch of 8 MiB made of tiny elements takes about its size, and is read no further."""
    count = 100_000
    batch = b"\xdd" + count.to_bytes(4, "big") + heavy * (8 * 1024 * 1024 // len(heavy))
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError):
            decode_batch(count, batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(batch)


# -- files


KEYS = st.text('#a1%~0 "=\t\u00e9', min_size=39, max_size=41)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=100),
        KEYS.map(lambda key: f'public-key = "{key}"\nsecret-key = "{key}"\n'.encode()),
    )
)
@example(b'public-key = "%s"\nsecret-key = "%s"\n' % (b"#" * 40, b"#" * 40))
def test_any_bytes_as_key_files(tmp_path: Path, data: bytes) -> None:
    """Files are keys, or the URL is refused."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(data)
    url = f"zmq://127.0.0.1:1?server_key={path}&key_file={path}"
    try:
        found = Settings.parse(BackendURL.parse(url), make_context())
    except ConfigurationError:
        return
    assert found.keys is not None
    assert len(found.keys.server) == len(found.keys.secret) == 40


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=60))
@example(b"\xff")
@example(b"a\0b")
def test_any_bytes_as_the_address_of_the_local_broker(tmp_path: Path, data: bytes) -> None:
    """A file that is no address counts as none: a broker is started, and the file replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path))
        patch.delenv("XDG_RUNTIME_DIR", raising=False)
        place = Place("x")
        place.make()
        (place.directory / "address").write_bytes(data)
        address = place.address()
        assert address is None or os.path.isabs(address)
        assert place.choose_address() == place.address()
