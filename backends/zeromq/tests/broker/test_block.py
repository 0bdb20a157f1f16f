"""A block of messages whose bits turn over: nothing wrong comes out, and the counts stay."""

from typing import Any

from corekit_zeromq.broker.block import Block
from corekit_zeromq.broker.records import Message, Row, checksum, place_of
from hypothesis import given
from hypothesis import strategies as st

ROWS: list[Row] = [
    (
        place_of(3, 10 + 7 * number, timed=False), f"id{number}é", None, None, 0, 0, 1.5,
        checksum(10 + 7 * number, f"id{number}é".encode(), b"body %d" % number),
        b"body %d" % number,
    )
    for number in range(9)
]  # fmt: skip
BLOCK = Block.of(ROWS)
WRITTEN = {
    place: Message(10 + 7 * number, id_, body, 0, 0, 1.5, False)
    for number, (place, id_, *_, body) in enumerate(ROWS)
}


def test_what_is_whole_is_read_as_it_was_written() -> None:
    """Places, messages, and the rows themselves."""
    assert BLOCK.is_whole
    assert dict(BLOCK.read()) == WRITTEN
    assert BLOCK.rows() == ROWS
    assert (BLOCK.first, BLOCK.last, BLOCK.entries, BLOCK.size) == (
        ROWS[0][0], ROWS[-1][0], 9, sum(len(row[-1]) for row in ROWS)
    )  # fmt: skip


def checked(block: Block) -> int:
    """Check what is read of a damaged block; return how many messages of it are whole.

    What can change in a message, and its time of publishing, are not in its own checksum.
    """
    assert not block.is_whole
    rows = block.rows()
    read = block.read()
    assert [row[0] for row in rows] == [place for place, _ in read]
    assert len(rows) == 9
    assert sum(len(row[-1]) for row in rows) == BLOCK.size
    assert len({row[0] for row in rows}) == 9
    whole = 0
    for row, (place, message) in zip(rows, read, strict=True):
        assert [*map(type, row)] == [int, str, *map(type, row[2:4]), int, int, float, int, bytes]
        if message is not None:
            known = message._replace(attempts=0, deaths=0, published_at=1.5)
            assert known == WRITTEN[place]
            whole += 1
    return whole


def test_any_bit_of_the_messages_may_turn_over() -> None:
    """The messages that are delivered are what was published; the others have as many bytes."""
    rescued = []
    for bit in range(8 * len(BLOCK.messages)):
        messages = bytearray(BLOCK.messages)
        messages[bit // 8] ^= 1 << bit % 8
        rescued.append(checked(BLOCK._replace(messages=bytes(messages))))
    # A bit in a body or an id costs that message only.
    assert rescued.count(8) > len(rescued) / 3


@given(
    field=st.sampled_from(["last", "entries", "size", "crc"]),
    value=st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
)
def test_whatever_else_is_damaged_costs_no_message(field: str, value: Any) -> None:
    """Each message says by itself that it is whole."""
    block = BLOCK._replace(**{field: value})
    if value == getattr(BLOCK, field):
        return
    assert checked(block) == 9


@given(
    st.binary(max_size=200),
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3),
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3),
)
def test_a_block_that_says_nothing_is_still_messages(
    messages: bytes, entries: Any, size: Any
) -> None:
    """All that can be done is to have something to count and to bury."""
    block = BLOCK._replace(messages=messages, entries=entries, size=size)
    rows = block.rows()
    assert 0 < len(rows) < 1000
    assert [message for _, message in block.read()] == [None] * len(rows)
    assert sum(len(row[-1]) for row in rows) <= len(messages)
