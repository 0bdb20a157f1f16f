"""The messages in the database: each in a row of its own, or many together in a block.

Messages that are not consumed soon reach the database by the hundred. A block takes a third of the
time of as many rows to write, and less to read and to remove. It is written once and never changed:
before anything is done to one of its messages alone, it is broken up into rows. Between the places
of a block stands no other message of its queue.
"""

from __future__ import annotations

import logging
import sqlite3
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain

from .block import Block
from .records import LAST_SEQ, TIMED, Message, Placed, Row, restored

logger = logging.getLogger("corekit.broker.queue")

_INSERT = "INSERT INTO message VALUES "
_ROW = "(?,?,?,?,?,?,?,?,?)"

#: So many rows are written by one statement, which takes two thirds of the time.
_TOGETHER = 50
_INSERT_TOGETHER = _INSERT + ",".join([_ROW] * _TOGETHER)

#: Messages in one block; fewer are as quick in rows.
_LEAST = 8
_MOST = 64

#: Bytes of the bodies in one block; few large messages are as quick in rows.
_MOST_BYTES = 32 * 1024

#: So many rows take as long to remove as a block.
_BLOCK_COST = 10

#: A message in its row, as `restored` takes it.
_MESSAGE = "SELECT place, CAST(id AS BLOB), body, attempts, deaths, published_at, crc FROM message"

#: What is damaged may be of another type now, or null.
_BLOCK = "SELECT first, last, entries, size, crc, coalesce(CAST(messages AS BLOB), x'') FROM block"
_EXTENT = "SELECT first, CAST(last AS INTEGER) AS end, entries FROM block"

#: Begins with the last block before a place, in which it may be.
_FROM = "WHERE first>=coalesce((SELECT max(first) FROM block WHERE first<=?1), ?1)"
_BLOCKS_BETWEEN = f"{_BLOCK} {_FROM} AND first<?2 AND last>?1 ORDER BY first"
_BLOCK_AT = f"{_BLOCK} {_FROM} AND first<=?1 AND last>=?1"
_NEXT_EXTENT = f"{_EXTENT} {_FROM} AND end>=?1 ORDER BY first LIMIT 1"


def read(db: sqlite3.Connection, begin: int, end: int) -> Generator[list[Placed]]:
    """Yield those between two places of a queue, in order, some at a time.

    The database must not be written to meanwhile.
    """
    at = begin
    with closing(db.execute(_BLOCKS_BETWEEN, (begin, end))) as blocks:
        for block in map(Block._make, blocks):
            yield from _read_alone(db, at, block.first)
            messages = block.read()
            yield messages if block.first > begin else [one for one in messages if one[0] > begin]
            at = messages[-1][0]
    yield from _read_alone(db, at, end)


def _read_alone(db: sqlite3.Connection, begin: int, end: int) -> Generator[list[Placed]]:
    with closing(
        db.execute(f"{_MESSAGE} WHERE place>? AND place<? ORDER BY place", (begin, end))
    ) as rows:
        for row in rows:
            # Each may be as large as a message can be.
            yield [(row[0], restored(*row))]


def one(db: sqlite3.Connection, place: int) -> Message | None:
    """Read one message; None if it is damaged or not there."""
    break_up(db, place)
    row = db.execute(f"{_MESSAGE} WHERE place=?", (place,)).fetchone()
    return None if row is None else restored(*row)


def insert(db: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Write new messages; those of each queue are in order, behind all that are there."""
    alone: list[Row] = []
    blocks: list[Block] = []
    for group in _groups(rows):
        if len(group) < _LEAST or group[0][0] & TIMED:
            alone += group
        else:
            blocks.append(Block.of(group))
    _insert_alone(db, alone)
    db.executemany("INSERT INTO block VALUES (?,?,?,?,?,?)", blocks)


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield *rows* in groups that a block can hold."""
    queues: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        queues[row[0] & ~LAST_SEQ].append(row)
    for queue in queues.values():
        begin = size = 0
        for place, row in enumerate(queue):
            size += len(row[-1])
            if place - begin == _MOST or (size > _MOST_BYTES and place > begin):
                yield queue[begin:place]
                begin, size = place, len(row[-1])
        yield queue[begin:]


def _insert_alone(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    rest = len(rows) % _TOGETHER
    db.executemany(_INSERT + _ROW, rows[:rest])
    for at in range(rest, len(rows), _TOGETHER):
        db.execute(_INSERT_TOGETHER, list(chain.from_iterable(rows[at : at + _TOGETHER])))


def break_up(db: sqlite3.Connection, place: int) -> None:
    """Let the message at *place* have a row of its own, if it is in a block."""
    found = db.execute(_BLOCK_AT, (place,)).fetchone()
    if found is None:
        return
    block = Block(*found)
    if not block.is_whole:
        logger.error("%r messages from %d on are damaged", block.entries, block.first & LAST_SEQ)
    db.execute("DELETE FROM block WHERE first=?", (block.first,))
    _insert_alone(db, block.rows())


def delete(db: sqlite3.Connection, places: Iterable[int]) -> None:
    """Remove messages; what is not there stays away."""
    ordered = sorted(places)
    alone: list[int] = []
    whole: list[tuple[int]] = []
    at = 0
    while at < len(ordered):
        extent = db.execute(_NEXT_EXTENT, (ordered[at],)).fetchone()
        if extent is None:
            break
        first, last, entries = extent
        begin = bisect_left(ordered, first, at)
        end = bisect_right(ordered, last, begin)
        alone += ordered[at:begin]
        if begin < end:
            if end - begin == entries and (ordered[begin], ordered[end - 1]) == (first, last):
                whole.append((first,))
            else:
                break_up(db, first)
                alone += ordered[begin:end]
        at = end
    alone += ordered[at:]
    db.executemany("DELETE FROM block WHERE first=?", whole)
    db.executemany("DELETE FROM message WHERE place BETWEEN ? AND ?", _runs(alone))


def _runs(places: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of *places* without a gap; they are in order."""
    if not places:
        return
    first = last = places[0]
    for place in places:
        if place > last + 1:
            yield first, last
            first = place
        last = place
    yield first, last


def sweep(db: sqlite3.Connection, begin: int, end: int, count: int) -> int:
    """Remove some of what stands from one place up to another; return what that has cost.

    In rows, of which *count* are enough.
    """
    blocks = db.execute(
        "DELETE FROM block WHERE first IN "
        "(SELECT first FROM block WHERE first>=? AND first<? LIMIT ?)",
        (begin, end, -(-count // _BLOCK_COST)),
    ).rowcount
    count -= blocks * _BLOCK_COST
    rows = db.execute(
        "DELETE FROM message WHERE place IN "
        "(SELECT place FROM message WHERE place>=? AND place<? LIMIT ?)",
        (begin, end, max(0, count)),
    ).rowcount
    return blocks * _BLOCK_COST + rows
