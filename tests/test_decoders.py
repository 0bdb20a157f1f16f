"""Every envelope of the core: what others wrote is read, or refused by its documented error."""

from __future__ import annotations

import logging
import math
import struct
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corekit.adapters import DeadMessage, Member
from corekit.clock import SYSTEM_CLOCK
from corekit.errors import SerializationError
from corekit.lifecycle import Gate
from corekit.managers import delivery
from corekit.managers.cache_entry import BytesCodec, Entry
from corekit.managers.channel import Channel
from corekit.managers.context import ManagerContext
from corekit.managers.membership import PresenceFormat
from corekit.managers.subscription import GAP
from corekit.serialization import Serializer
from corekit.transactions import AfterCommit

KIB = 1024

serializer = Serializer()
context = ManagerContext("shop", "me", SYSTEM_CLOCK, serializer, AfterCommit())

#: What would do in some field of some envelope, and what is next to it.
NEARLY = st.sampled_from(
    [
        *(0, 1, 2, 3, -1, 1 << 63, 1 << 70, True, None, "me", "other", "", b"x"),
        *(0.0, 0.5, 1.0, -1.0, 1e300, math.inf, -math.inf, math.nan),
        *([], [0.5], [math.nan], ["x"], [[1]], (1,), {1}, {"a": 1}, {1: [2]}),
    ]
)

VALUES = st.recursive(
    st.one_of(NEARLY, st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)

DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(1, 255)), max_size=3)

#: The fields of an envelope, sealed; damaged here and there; or any bytes at all.
ENVELOPES = st.one_of(
    st.tuples(st.lists(VALUES, max_size=6), VALUES, DAMAGE).map(
        lambda one: damaged(serializer.seal(one[0], one[1]), one[2])
    ),
    st.binary(max_size=60),
)


def damaged(data: bytes, damage: list[tuple[int, int]]) -> bytes:
    """Return *data* with some of its bits turned over."""
    changed = bytearray(data)
    for place, bits in damage:
        changed[place % len(changed)] ^= bits
    return bytes(changed)


def sealed(fields: int) -> st.SearchStrategy[bytes]:
    """Return envelopes with as many *fields* as there ought to be."""
    head = st.lists(st.one_of(NEARLY, VALUES), min_size=fields, max_size=fields)
    whole = st.tuples(head, VALUES).map(lambda one: serializer.seal(*one))
    return st.one_of(whole, whole, ENVELOPES)


@settings(max_examples=300)
@given(sealed(3))
@example(serializer.seal((1.0, 3, math.nan), "x"))
@example(serializer.seal((math.nan, 3, 0.5), "x"))
def test_any_payload_of_a_queue(payload: bytes) -> None:
    """It is a message and how to handle it, or a SerializationError; a dead letter always shows."""
    dead = DeadMessage("id", payload, "error", 1, 5.0)
    try:
        envelope = delivery.opened(serializer, payload)
    except SerializationError:
        assert delivery.dead_letter(serializer, dead).message == payload
        return
    assert 0 < envelope.timeout < math.inf
    assert envelope.max_retries >= 0
    waits = envelope.waits if isinstance(envelope.waits, list) else [envelope.waits]
    assert all(0 <= wait < math.inf for wait in waits)
    delivery.dead_letter(serializer, dead)


@settings(max_examples=300)
@given(sealed(4))
@example(serializer.seal((math.nan, 1.0, None, 1.0), "x"))
@example(serializer.seal((1.0, 1.0, "claim", math.nan), "x"))
def test_any_entry_of_a_cache(stored: bytes) -> None:
    """It is an entry with deadlines that can be compared, or a SerializationError."""
    codec = BytesCodec(serializer, SYSTEM_CLOCK)
    try:
        entry = codec.decode(stored)
    except SerializationError:
        return
    deadlines = entry.expires, entry.stale_until, entry.claimed_until
    assert not any(map(math.isnan, deadlines))
    assert entry.claim is None or type(entry.claim) is str


@given(st.one_of(VALUES, st.just(Entry(1, 2.0))))
def test_an_entry_that_is_not_bytes(stored: object) -> None:
    """What a broken store gives back is a SerializationError, too."""
    if type(stored) is not bytes:
        with pytest.raises(SerializationError):
            BytesCodec(serializer, SYSTEM_CLOCK).decode(stored)


class Listener:
    """Takes what a channel distributes."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[Any], int]] = []

    def put(self, batch: list[Any], gaps: int) -> None:
        self.batches.append((batch, gaps))


@settings(max_examples=300)
@given(st.lists(sealed(4), max_size=4))
@example([serializer.seal(("other", 5, 1, math.nan), "x")])
@example([serializer.seal(([], {}, [], "2"), "x")])
@example([serializer.seal(("other", [1], 1, 0), "x")])
def test_any_payload_of_a_channel(payloads: Sequence[bytes]) -> None:
    """It is handed on, dropped, or a gap that is told; good ones among it arrive."""
    channel = Channel(context, Gate("c"), None, "c", "shop/c")
    listeners = [Listener(), Listener()]
    channel.subscriptions = listeners  # type: ignore[assignment]
    good = [
        serializer.seal(("somebody", 1 << 62, number, 0), f"good {number}") for number in (1, 2)
    ]
    channel.receive([good[0], *payloads, good[1]])
    for listener in listeners:
        (batch, gaps) = listener.batches[0]
        told = [one for one in batch if one is not GAP]
        assert told[0] == "good 1"
        assert told[-1] == "good 2"
        assert gaps == len(batch) - len(told)


@settings(max_examples=300)
@given(sealed(2))
@example(serializer.seal((5, "now"), None))
@example(serializer.seal(("other", math.nan), None))
def test_any_value_of_a_member(value: bytes) -> None:
    """It is an instance's id and time, or left out; the others are seen."""
    presence = PresenceFormat(context)
    good = presence.write(5.0)
    members = [Member("a", 1, good), Member("b", 2, value), Member("c", 3, good)]
    seen = list(presence.read(members))
    assert [one.name for one in seen if one.name != "b"] == ["a", "c"]
    for one in seen:
        assert type(one.instance_id) is str
        assert type(one.since) is float
        assert math.isfinite(one.since)


#: Values of few bytes that take many in memory, and what only claims to be one.
UNITS = {
    "empty lists": b"\x90",
    "empty maps": b"\x80",
    "lists of lists": b"\x91\x90",
    "short texts": b"\xa2ab",
    "numbers": b"\xcd\x12\x34",
    "floats": b"\xcb" + bytes(8),
    "dates": b"\xd6\xff" + bytes(4),
}


def heavy(size: int) -> dict[str, bytes]:
    """Return data of about *size* bytes with very many elements, or claims of them."""
    found = {}
    for name, unit in UNITS.items():
        count = size // len(unit)
        found[name] = b"\xdd" + struct.pack(">I", count) + unit * count
    found["claims in claims"] = (b"\xdd" + struct.pack(">I", size - 2600)) * 500 + bytes(
        size - 2600
    )
    found["claims in maps"] = (b"\xdf" + struct.pack(">I", size // 2) + b"\xa0") * 400 + bytes(size)
    found["deep"] = b"\x91" * size
    return found


READERS: dict[str, Callable[[bytes], object]] = {
    "decode": serializer.decode,
    "unseal": lambda data: serializer.unseal(data, 3),
}


@pytest.mark.parametrize("name", heavy(9000))
@pytest.mark.parametrize("reader", READERS)
def test_the_cost_is_bounded_by_the_size(name: str, reader: str) -> None:
    """However it is composed, data takes at most 200 times its size, and few seconds, to read."""
    data = heavy(256 * KIB)[name]
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        READERS[reader](data)
    except SerializationError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200 * 256 * KIB
    assert time.perf_counter() - begun < 10


def test_what_cannot_be_read_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of nonsense on a channel costs one line."""
    channel = Channel(context, Gate("c"), None, "c", "shop/c")
    channel.subscriptions = [Listener()]  # type: ignore[list-item]
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            channel.receive([b"nonsense"])
    assert len(caplog.records) == 1
