"""A block of messages whose bits turn over: what is whole can be had, and the counts stay."""

from typing import Any

import pytest
from corekit_zeromq.broker.block import Extent, packed, rescued, unpacked
from corekit_zeromq.broker.records import Row, checksum, place_of, restored
from hypothesis import given
from hypothesis import strategies as st


def row(number: int) -> Row:
    """Return a message as it is written."""
    seq, id_, body = 10 + 7 * number, f"id{number}é", b"body %d" % number * 3
    crc = checksum(seq, id_.encode(), body)
    return place_of(3, seq, timed=False), id_, None, None, 0, 0, 1.5 + number, crc, body


ROWS = [row(number) for number in range(9)]
EXTENT = Extent.of(ROWS)
DATA = packed(ROWS)


def is_whole(each: Row) -> bool:
    """Tell whether *each* is what was written."""
    place, id_, _, _, attempts, deaths, at, crc, body = each
    return restored(place, id_.encode(), body, attempts, deaths, at, crc) is not None


def checked(rows: list[Row]) -> int:
    """Check what was rescued; return how many of the messages that is.

    A message's own checksum does not know when it was published.
    """
    assert len({each[0] for each in rows}) == len(rows)
    whole = [each for each in rows if is_whole(each)]
    written = {each[0]: (*each[:6], *each[7:]) for each in ROWS}
    assert all((*each[:6], *each[7:]) == written[each[0]] for each in whole)
    for each in rows:
        assert [*map(type, each)] == [int, str, *[type(None)] * 2, int, int, float, int, bytes]
    return len(whole)


def test_what_is_whole_is_read_as_it_was_written() -> None:
    """The messages, and what is known of them."""
    assert EXTENT.is_whole
    assert unpacked(DATA) == tuple(ROWS)
    size = sum(len(each[-1]) for each in ROWS)
    assert EXTENT[:-1] == (ROWS[0][0], ROWS[-1][0], 9, size, 1.5)


def test_any_bit_of_the_messages_may_turn_over() -> None:
    """It costs its own message at most, and the others have as many bytes as before."""
    for bit in range(8 * len(DATA)):
        data = bytearray(DATA)
        data[bit // 8] ^= 1 << bit % 8
        assert unpacked(bytes(data)) is None
        rows = rescued(EXTENT, bytes(data), [])
        assert checked(rows) >= 8
        assert len(rows) == 9
        assert sum(len(each[-1]) for each in rows) == EXTENT.size


def test_a_damaged_message_keeps_what_can_be_read() -> None:
    """Whoever looks at its dead letter sees which one it was."""
    (lost,) = (
        each
        for each in rescued(EXTENT, DATA.replace(b"body 5", b"BODY 5", 1), [])
        if not is_whole(each)
    )
    assert lost[1] == "id5é"
    assert lost[-1] == b"BODY 5body 5body 5"


@given(st.data())
def test_whatever_is_left_of_a_block(data: st.DataObject) -> None:
    """Pieces of it, and anything between: what is whole is found, and nothing else."""
    at = sorted(data.draw(st.lists(st.integers(0, len(DATA)), min_size=2, max_size=2)))
    left = DATA[: at[0]] + data.draw(st.binary(max_size=20)) + DATA[at[1] :]
    taken = {EXTENT.first + 1, EXTENT.first + 2}
    rows = rescued(EXTENT, left, taken)
    assert checked(rows) >= sum(packed([each])[5:] in left for each in ROWS)
    assert len(rows) == 9
    assert taken.isdisjoint(each[0] for each in rows)
    assert sum(len(each[-1]) for each in rows) == EXTENT.size


@given(
    field=st.sampled_from(Extent._fields),
    value=st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
)
def test_what_is_known_of_a_block_is_checked(field: str, value: Any) -> None:
    """A change of any field, or of its type, is seen."""
    if type(value) is not type(getattr(EXTENT, field)) or value != getattr(EXTENT, field):
        assert not EXTENT._replace(**{field: value}).is_whole


def test_without_anything_known_only_what_is_whole_is_there() -> None:
    """Nobody can tell how many there were; and messages of other queues are none."""
    extent = EXTENT._replace(entries=8)
    damaged = DATA.replace(b"body 5", b"BODY 5", 1)
    rows = rescued(extent, damaged, [])
    assert rows == [each for each in ROWS if each[1] != "id5é"]
    assert rescued(extent._replace(first=place_of(4, 1, timed=False)), damaged, []) == []


@pytest.mark.parametrize("data", [b"", b"\x99", b"\x99\xcf" * 50, bytes(100)])
def test_nothing_readable_is_still_messages(data: bytes) -> None:
    """All that can be done is to have something to count and to bury."""
    assert unpacked(data) is None
    rows = rescued(EXTENT, data, [])
    assert len(rows) == 9
    assert checked(rows) == 0
    assert sum(len(each[-1]) for each in rows) == EXTENT.size
