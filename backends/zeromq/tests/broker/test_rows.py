"""Messages in the database: the same ones come out, whether they stand alone or in blocks."""

import sqlite3
from collections.abc import Iterator
from itertools import chain, pairwise

import pytest
from corekit_zeromq.broker import rows, schema
from corekit_zeromq.broker.records import (
    LAST_SEQ,
    TIMED,
    Message,
    Row,
    checksum,
    place_of,
    places_of,
)
from hypothesis import given
from hypothesis import strategies as st

QUEUES = (1, 2)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Yield an empty database."""
    database = empty()
    yield database
    database.close()


def empty() -> sqlite3.Connection:
    """Return an empty database with the journal's tables."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(schema._QUEUES)
    return db


def row(queue: int, seq: int, size: int = 256, *, timed: bool = False) -> Row:
    """Return a message as it is written."""
    id_, body = f"m{seq}é", b"x" * size
    due = 5.0 if timed else None
    crc = checksum(seq, id_.encode(), body)
    return place_of(queue, seq, timed=timed), id_, due, due, 0, 0, 1.5, crc, body


def message(each: Row) -> Message:
    """Return *each* as it is read."""
    place, id_, _, _, attempts, deaths, at, _, body = each
    return Message(place & LAST_SEQ, id_, body, attempts, deaths, at, place & TIMED > 0)


def read(db: sqlite3.Connection, queue: int, after: int = 0) -> list[Message | None]:
    """Return the messages of a queue behind the seq *after*."""
    placed = chain.from_iterable(rows.read(db, *places_of(queue, after)))
    return [each for _, each in placed]


def counts(db: sqlite3.Connection) -> tuple[int, int]:
    """Count the messages alone, and the blocks."""
    found: tuple[int, int] = db.execute(
        "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM block)"
    ).fetchone()
    return found


def test_what_comes_together_stands_together(db: sqlite3.Connection) -> None:
    """Hundreds of messages are a few blocks, and come out in their order, from any place on."""
    written = [row(1, seq) for seq in range(1, 501)]
    rows.insert(db, written)
    assert counts(db) == (0, 8)
    for after in (0, 1, 63, 64, 65, 250, 499, 500):
        assert read(db, 1, after) == [message(each) for each in written[after:]]


def test_blocks_are_of_one_queue(db: sqlite3.Connection) -> None:
    """Messages that alternate between queues are in blocks all the same; delayed ones in none."""
    written = [row(seq % 3 + 1, seq, timed=seq % 3 == 2) for seq in range(1, 91)]
    rows.insert(db, written)
    assert counts(db) == (30, 2)
    for queue in QUEUES:
        assert read(db, queue) == [
            message(each) for each in written if each[0] >> 45 == queue and each[2] is None
        ]


@pytest.mark.parametrize(("count", "size"), [(7, 10), (100, 8000), (3, 100_000)])
def test_few_or_large_messages_stand_alone(db: sqlite3.Connection, count: int, size: int) -> None:
    """A block of them would save nothing; and what is large is read one by one."""
    written = [row(1, seq, size) for seq in range(1, count + 1)]
    rows.insert(db, written)
    assert counts(db) == (count, 0)
    assert all(len(some) == 1 for some in rows.read(db, *places_of(1)))


def test_a_block_is_bounded_by_bytes(db: sqlite3.Connection) -> None:
    """So that to read it takes no memory worth mentioning."""
    rows.insert(db, [row(1, seq, 1000) for seq in range(1, 101)])
    sizes = [size for (size,) in db.execute("SELECT size FROM block")]
    assert sizes == [32_000] * 3
    assert counts(db) == (4, 3)


def test_what_is_consumed_in_order_is_removed_in_blocks(db: sqlite3.Connection) -> None:
    """Only the block in which one stops is broken up; the rest of it follows the next time."""
    rows.insert(db, [row(1, seq) for seq in range(1, 641)])
    rows.delete(db, [place_of(1, seq, timed=False) for seq in range(1, 201)])
    assert counts(db) == (56, 6)
    rows.delete(db, [place_of(1, seq, timed=False) for seq in range(201, 641)])
    assert counts(db) == (0, 0)


def test_removing_what_is_not_there_removes_nothing_else(db: sqlite3.Connection) -> None:
    """Neither a block that ends before or begins behind the place, nor that of another queue."""
    rows.insert(db, [row(queue, seq) for seq in range(100, 120) for queue in QUEUES])
    for seq in (1, 99, 120, 500):
        for queue in (0, 1, 2, 3):
            rows.delete(db, [place_of(queue, seq, timed=False)])
    assert counts(db) == (0, 2)


def test_one_message_can_be_had_from_a_block(db: sqlite3.Connection) -> None:
    """It has a row of its own then, like the others of the block."""
    rows.insert(db, [row(1, seq) for seq in range(1, 65)])
    assert rows.one(db, place_of(1, 40, timed=False)) == message(row(1, 40))
    assert rows.one(db, place_of(1, 65, timed=False)) is None
    assert counts(db) == (64, 0)


def test_sweeping_removes_blocks_and_rows(db: sqlite3.Connection) -> None:
    """A bounded part at a time, and nothing of the queues beside."""
    for queue in (1, 2, 3):
        rows.insert(db, [row(queue, seq) for seq in range(1, 641)])
        rows.insert(db, [row(queue, seq, timed=True) for seq in range(641, 651)])
    begin, end = (place_of(queue, 0, timed=False) for queue in (2, 3))
    costs = []
    while cost := rows.sweep(db, begin, end, 70):
        costs.append(cost)
    assert sum(costs) == 10 * rows._BLOCK_COST + 10
    assert max(costs) < 70 + rows._BLOCK_COST
    assert counts(db) == (20, 20)
    assert read(db, 2) == []


Step = tuple[str, list[int]]


def test_many_messages_are_taken_out_of_their_blocks_together(db: sqlite3.Connection) -> None:
    """Blocks that have none of them stay; delayed messages are in none."""
    rows.insert(db, [row(1, seq) for seq in range(1, 641)])
    rows.insert(db, [row(1, seq, timed=True) for seq in range(641, 650)])
    assert not rows.break_up(db, [place_of(1, seq, timed=True) for seq in range(641, 650)])
    assert not rows.break_up(db, [place_of(2, 1, timed=False)])
    places = [place_of(1, seq, timed=False) for seq in (700, 65, 64, 300, 66)]
    assert rows.break_up(db, places)
    assert counts(db) == (9 + 3 * 64, 7)
    assert read(db, 1) == [message(row(1, seq)) for seq in range(1, 641)]


def test_the_oldest_message_is_known_without_reading_a_block(db: sqlite3.Connection) -> None:
    """Whether it is in a row or a block, and nothing of other queues."""
    assert rows.oldest(db, *places_of(1)) is None
    rows.insert(db, [row(2, seq) for seq in range(1, 20)])
    assert rows.oldest(db, *places_of(1)) is None
    new = [(*row(1, seq)[:6], float(seq), *row(1, seq)[7:]) for seq in range(20, 60)]
    rows.insert(db, new)
    assert rows.oldest(db, *places_of(1)) == 20.0
    rows.delete(db, [place_of(1, seq, timed=False) for seq in range(20, 25)])
    assert rows.oldest(db, *places_of(1)) == 25.0
    assert rows.oldest(db, *places_of(3)) is None


STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "delete first", "one"]),
        st.lists(st.integers(0, 60), min_size=1, max_size=14),
    ),
    max_size=12,
)


@pytest.mark.usefixtures("small_blocks")
@given(steps=STEPS)
def test_blocks_are_not_to_be_seen(steps: list[Step]) -> None:
    """Whatever is written, removed and taken alone: each queue is read as if there were none."""
    db, seq = empty(), 0
    there: dict[int, Row] = {}
    for what, numbers in steps:
        places = list(there)
        if what == "insert":
            new = []
            for number in numbers:
                seq += 1
                new.append(row(QUEUES[number % 2], seq, number, timed=number % 7 == 6))
            rows.insert(db, new)
            there |= {each[0]: each for each in new}
        elif what == "delete":
            gone = {places[number % len(places)] for number in numbers if places}
            rows.delete(db, gone)
            there = {place: each for place, each in there.items() if place not in gone}
        elif what == "delete first":
            gone = set(places[: numbers[0]])
            rows.delete(db, gone)
            there = {place: each for place, each in there.items() if place not in gone}
        elif places:
            place = places[numbers[0] % len(places)]
            assert rows.one(db, place) == message(there[place])
        for queue in QUEUES:
            begin, end = places_of(queue)
            expected = [message(each) for place, each in there.items() if begin < place < end]
            assert read(db, queue) == expected
        intact(db)
    db.close()


def intact(db: sqlite3.Connection) -> None:
    """Check that blocks do not overlap, with each other or with rows."""
    extents = db.execute("SELECT first, last FROM block ORDER BY first").fetchall()
    assert all(first <= last for first, last in extents)
    assert all(one[1] < next_[0] for one, next_ in pairwise(extents))
    inside = "SELECT count(*) FROM message, block WHERE place BETWEEN first AND last"
    assert db.execute(inside).fetchone() == (0,)
