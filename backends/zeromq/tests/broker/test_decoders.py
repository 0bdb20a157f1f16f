"""Whatever bytes reach the broker: it answers, refuses or drops them, and goes on."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sqlite3
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zmq
from corekit_zeromq.broker import exits, query, security
from corekit_zeromq.broker.data_directory import DataDirectory, HighWater
from corekit_zeromq.broker.exits import BrokerRefused
from corekit_zeromq.broker.journal import FILE
from corekit_zeromq.broker.limits import Limits
from corekit_zeromq.broker.records import LAST_SEQ
from corekit_zeromq.broker.server import Broker
from corekit_zeromq.protocol import MAGIC, VERSION, Op, Reply, decode, encode
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from corekit.errors import (
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
    SerializationError,
)

from ..values import VALUES
from .peer import Bench, Peer

MIB = 1024 * 1024

#: Stands for the token of a delivery that the peer holds.
HELD = b"<a token>"

#: What would do in some place of some command, and what is next to it.
NEARLY = st.sampled_from(
    [
        *(0, 1, 2, -1, 1 << 62, (1 << 62) + 1, 1 << 63),
        *(0.0, 0.5, 1e9, 1e300, float("nan"), float("inf")),
        *("q", "k", "", "m1", "\0", "\ud7ff", "x" * 9000, None, True, False),
        *(b"", HELD, b"x" * 65, [], [HELD], [HELD, HELD], [b"x"], ["k"], ["k", 1]),
        *({}, {"k": b"v"}, {"": b""}, {"k": None}, [[]]),
        *(
            [["m1", b""]],
            [["m2", b"", 0.5, "k"], ["m3", b""]],
            [["m1"], ["", b""], ["m4", b"", 0, 1]],
        ),
    ]
)

COMMANDS = st.tuples(
    st.sampled_from([*Op, *Op, *Op, 99, -1, 1 << 40]),
    st.lists(st.one_of(NEARLY, NEARLY, VALUES), max_size=8),
).map(lambda one: [one[0], *one[1]])

#: Bits that are turned over: where, and which.
DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), max_size=3)

FRAMES = st.one_of(
    st.tuples(st.lists(COMMANDS, max_size=5), DAMAGE),
    st.binary(max_size=60),
)

numbers = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return an engine for all examples of a test: each has connections of its own."""
    return Bench(tmp_path_factory.mktemp("decoders"), cache_bytes=MIB, queue_messages=1000)


def damaged(data: bytes, damage: list[tuple[int, int]]) -> bytes:
    """Return *data* with some of its bits turned over."""
    changed = bytearray(data)
    for place, bits in damage:
        if changed:
            changed[place % len(changed)] ^= bits
    return bytes(changed)


def with_tokens(value: Any, token: bytes) -> Any:
    """Return *value* with the real token in it."""
    if value == HELD:
        return token
    if isinstance(value, list):
        return [with_tokens(one, token) for one in value]
    return value


@settings(max_examples=200, deadline=None)
@given(frames=st.lists(FRAMES, max_size=5), greets=st.booleans())
def test_any_frame_at_the_engine(shared: Bench, frames: list[Any], greets: bool) -> None:
    """No frame raises, from whoever it comes; and another client is served as before."""
    bench = shared
    peer = Peer(bench, b"hostile%d" % next(numbers))
    token = b""
    if greets:
        peer.hello()
        peer.publish("m1")
        delivered = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
        token = delivered[0][2][0][0] if delivered else b""
    for frame in frames:
        if isinstance(frame, bytes):
            peer.raw(frame)
            continue
        commands, damage = frame
        peer.sent += 1
        data = encode(peer.sent, peer.received, with_tokens(commands, token))
        peer.raw(damaged(data, damage))
        bench.wait(0.01)
    good = Peer(bench, b"good%d" % next(numbers))
    good.hello()
    assert good.send([Op.PURGE, 1, "q"])[-1][:2] == [Reply.OK, 1]
    assert good.publish("m2") == "m2"
    for one in (peer, good):
        session = bench.engine.sessions.by_route.get(one.route)
        if session is not None:
            bench.engine.end(session, died=False)
        bench.peers.pop(one.route, None)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(NEARLY, VALUES), max_size=8), DAMAGE)
def test_any_greeting(shared: Bench, fields: list[Any], damage: list[tuple[int, int]]) -> None:
    """A HELLO of any form is welcomed, refused or dropped; nothing is kept of a refused one."""
    bench = shared
    before = len(bench.engine.sessions)
    good = [MAGIC, VERSION, b"", b"", 0, {"name": "peer"}]
    for arguments in (fields, [*good[:2], *fields], [*good[:5], *fields[:1]]):
        peer = Peer(bench, b"greeting%d" % next(numbers))
        peer.raw(damaged(encode(0, 0, [[Op.HELLO, *arguments]]), damage))
        session = bench.engine.sessions.by_route.get(peer.route)
        assert (session is not None) == bool(peer.welcome)
        if session is not None:
            bench.engine.end(session, died=False)
        bench.peers.pop(peer.route)
    assert len(bench.engine.sessions) == before


@given(st.one_of(st.binary(max_size=200), VALUES))
def test_any_bytes_as_a_frame(data: object) -> None:
    """What is decoded has the form of a frame; anything else is a SerializationError."""
    frame = data if isinstance(data, bytes) else encode(0, 0, data)  # type: ignore[arg-type]
    try:
        number, received, commands = decode(frame)
    except SerializationError:
        return
    assert number >= 0
    assert received >= 0
    assert all(command and type(command) is list for command in commands)


#: What a msgpack value of few bytes can be, that takes many in memory, or claims to.
UNITS = {
    "empty lists": b"\x90",
    "empty maps": b"\x80",
    "lists of lists": b"\x91\x90",
    "short texts": b"\xa2ab",
    "short bytes": b"\xc4\x02ab",
    "numbers": b"\xcd\x12\x34",
    "floats": b"\xcb" + bytes(8),
    "nothing": b"\xc0",
    "small maps": b"\x81\xa1a\xc0",
}


def heavy(size: int) -> dict[str, bytes]:
    """Return frames of about *size* bytes with very many elements, or claims of them."""
    frames = {}
    for name, unit in UNITS.items():
        count = size // len(unit)
        frames[name] = b"\x93\x00\x00\xdd" + struct.pack(">I", count) + unit * count
        frames[f"a command of {name}"] = (
            b"\x93\x00\x00\x91\xdd" + struct.pack(">I", count + 1) + b"\x0c" + unit * count
        )
    claim = b"\xdd" + struct.pack(">I", size - 2600)
    frames["claims in claims"] = b"\x93\x00\x00" + claim * 500 + bytes(size - 2600)
    return frames


@pytest.mark.parametrize("name", heavy(9000))
def test_a_heavy_frame_is_cheap(name: str) -> None:
    """A frame of 8 MiB made of tiny elements takes less than its size, and does not stall."""
    frame = heavy(8 * MIB)[name]
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        with pytest.raises(SerializationError):
            decode(frame, elements=Limits().elements)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB
    assert time.perf_counter() - begun < 2


# -- files


def written(path: Path, data: bytes) -> Path:
    """Write a file that nobody else may read."""
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(data)
    return path


KEYS = st.text('#a1%~0 "=\t\u00e9', min_size=39, max_size=41)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=100),
        KEYS.map(lambda key: f'public-key = "{key}"\nsecret-key = "{key}"\n'.encode()),
    )
)
@example(b'public-key = "%s"\nsecret-key = "%s"\n' % (b"#" * 40, b"#" * 40))
def test_any_bytes_as_a_key_file(tmp_path: Path, data: bytes) -> None:
    """A file is the pair of keys that `generate` wrote, or refused."""
    with pytest.raises(BrokerRefused):
        security.read_secret(written(tmp_path / "key", data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DAMAGE)
def test_a_damaged_key_file(tmp_path: Path, damage: list[tuple[int, int]]) -> None:
    """With a few bits turned over it is the same keys, or refused."""
    public = b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
    secret = b"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
    good = b'public-key = "%s"\nsecret-key = "%s"\n' % (public, secret)
    try:
        found = security.read_secret(written(tmp_path / "key", damaged(good, damage)))
    except BrokerRefused:
        assert damage
    else:
        # Some bits of a secret key do not count.
        assert zmq.curve_public(found) == public


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=100), st.lists(KEYS).map(lambda k: "\n".join(k).encode())))
@example(b"#" * 40)
def test_any_bytes_as_a_list_of_keys(tmp_path: Path, data: bytes) -> None:
    """A list has keys, with names, or is refused."""
    try:
        allowed = security.read_allowed(written(tmp_path / "allow", data))
    except BrokerRefused:
        return
    assert all(len(key) == 40 for key in allowed)


@given(st.lists(st.one_of(st.binary(max_size=33), st.sampled_from([b"1.0", b"CURVE"])), max_size=8))
def test_any_question_of_zap(parts: list[bytes]) -> None:
    """What is no question about a key on the corekit domain has no key."""
    assert security.Authenticator._key_of(parts) is None
    good = [b"1.0", b"1", b"corekit", b"::1", b"", b"CURVE", bytes(32)]
    assert security.Authenticator._key_of(good) == "0" * 40


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(VALUES, VALUES).map(
            lambda pair: json.dumps({"seq": pair[0], "wall": pair[1]}, default=repr).encode()
        ),
    )
)
@example(b'{"seq": Infinity, "wall": 0}')
@example(b'{"seq": 5, "wall": NaN}')
@example(b"[" * 100_000)
@example(b'{"seq": %s, "wall": 0}' % (b"9" * 5000))
def test_any_bytes_as_a_high_water_mark(tmp_path: Path, data: bytes) -> None:
    """A mark is whole, or counts as missing: it only warns."""
    (tmp_path / "high-water.json").write_bytes(data)
    mark = DataDirectory(tmp_path).high_water()
    if mark is not None:
        assert type(mark.seq) is int
        assert not math.isnan(mark.wall)
    DataDirectory(tmp_path).keep_high_water(HighWater(7, 5.0))
    assert DataDirectory(tmp_path).high_water() == HighWater(7, 5.0)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a journal that has something in each table."""
    directory = tmp_path_factory.mktemp("journal")
    bench = Bench(directory)
    peer = bench.peer()
    for number in range(3):
        peer.publish(f"m{number}", dedup=f"d{number}")
    peer.publish("later", delay=60.0)
    peer.send([Op.LOCK_ACQUIRE, 1, "n", 60.0, None], [Op.CONSUME, 1, "q"])
    token = peer.send([Op.CREDIT, 1, 1])[0][2][0][0]
    peer.send([Op.BURY, 1, token, "error"])
    bench.journal.close()
    return directory


#: What nobody wrote there.
FOREIGN: list[Any] = [None, -1, 1 << 62, 1e300, "text", "", b"\xff\xfe", b"", b"\x81\xa1a\xc0"]


def spoiled(
    journal: Path, directory: Path, table: str, column: str, value: Any, where: str = "1"
) -> bool:
    """Copy *journal* with *value* in one column of *table*; tell whether sqlite lets it in."""
    shutil.copytree(journal, directory)
    db = sqlite3.connect(directory / FILE)
    try:
        with db:
            db.execute(f"UPDATE {table} SET {column}=? WHERE {where}", (value,))  # noqa: S608
    except sqlite3.IntegrityError:
        return False
    finally:
        db.close()
    return True


def cells(path: Path) -> list[tuple[str, str]]:
    """Return all tables and columns of a journal, of those tables that are not empty."""
    db = sqlite3.connect(path)
    try:
        tables = [
            name
            for (name,) in db.execute(
                "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE TABLE%'"
            )
        ]
        found = []
        for table in tables:
            if db.execute(f"SELECT 1 FROM {table}").fetchone():  # noqa: S608 - our own tables
                found += [(table, row[1]) for row in db.execute(f"PRAGMA table_info({table})")]
    finally:
        db.close()
    return found


async def test_a_journal_with_foreign_values(journal: Path, tmp_path: Path) -> None:
    """Whatever stands in a cell of the journal, the broker starts, or says that it is damaged."""
    refused = 0
    for number, ((table, column), value) in enumerate(
        itertools.product(cells(journal / FILE), FOREIGN)
    ):
        directory = tmp_path / f"{number}"
        if not spoiled(journal, directory, table, column, value):
            continue
        status = None
        try:
            async with Broker(["tcp://127.0.0.1:0"], directory):
                pass
        except BrokerRefused as error:
            status = error.status
        assert status in (None, exits.CORRUPT)
        refused += status is not None
    assert refused > 10


@pytest.mark.parametrize("column", ["id", "attempts", "deaths", "published_at", "crc", "body"])
@pytest.mark.parametrize("value", FOREIGN, ids=repr)
def test_a_damaged_message_is_alone(journal: Path, tmp_path: Path, column: str, value: Any) -> None:
    """A message with a foreign value in it becomes a dead letter; all others are delivered."""
    if not spoiled(journal, tmp_path / "data", "message", column, value, f"place&{LAST_SEQ}=2"):
        pytest.skip("sqlite refuses it by itself")
    if column == "published_at" and isinstance(value, int | float):
        pytest.skip("another time cannot be told from the right one")
    bench = Bench(tmp_path / "data")
    bench.wait(bench.limits.reclaim)
    peer = bench.peer()
    delivered = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 10])
    assert [one[1] for command in delivered for one in command[2]] == ["m2"]
    dead = peer.send([Op.DEAD_LETTERS, 1, "q", 10])[-1][2]
    assert {one[2] for one in dead} == {"error", "the message was damaged on disk"}
    for one in dead:
        assert type(one[1]) is bytes
    bench.journal.close()


# -- the command line's view of a broker


class Answers:
    """A socket from which certain frames come."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)

    def send(self, frame: bytes) -> None:
        """Take what is asked."""

    def poll(self, timeout: int) -> bool:
        return bool(self.frames)

    def recv(self) -> bytes:
        return self.frames.pop(0)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.lists(VALUES, max_size=3).map(lambda commands: encode(0, 0, commands)),
            st.lists(
                st.tuples(st.sampled_from(Reply), st.lists(st.one_of(st.just(1), VALUES))).map(
                    lambda one: [one[0], *one[1]]
                ),
                max_size=3,
            ).map(lambda commands: encode(0, 0, commands)),
        ),
        max_size=3,
    )
)
def test_any_answer_to_the_question_for_a_status(frames: list[bytes]) -> None:
    """What answers is a broker's state, or an error that says what it is."""
    try:
        state = query._ask(Answers(*frames), "zmq://x", time.monotonic() + 10)  # type: ignore[arg-type]
    except (ConfigurationError, BackendUnavailable, BackendRefused):
        return
    assert type(state) is dict
