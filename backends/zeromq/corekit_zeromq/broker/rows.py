"""The messages in the database: each in a row of its own, or many together in a block.

Messages that are not consumed soon reach the database by the hundred. A block takes half the time
of as many rows to write, and less to read and to remove. It is written once and never changed:
before anything is done to one of its messages alone, the block is broken up into rows. Between the
places of a block stands no other message of its queue.

A block that is found to be damaged is broken up at once: nothing is taken from it, and nothing that
it says of itself is believed.
"""

from __future__ import annotations

import logging
import sqlite3
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

from corekit.arguments import shown

from .block import Extent, packed, rescued, unpacked
from .records import LAST_SEQ, TIMED, Message, Placed, Row, messages_of, restored

logger = logging.getLogger("corekit.broker.queue")

_INSERT = "INSERT INTO message VALUES "
_INSERT_NEW = "INSERT OR IGNORE INTO message VALUES "
_ROW = "(?,?,?,?,?,?,?,?,?)"

#: So many rows are written by one statement, which takes two thirds of the time.
_TOGETHER = 50
_INSERT_TOGETHER = _INSERT + ",".join([_ROW] * _TOGETHER)

#: Messages in one block; to break up a small one costs as much as it saves.
_LEAST = 8
_MOST = 64

#: Bytes of bodies and ids in one block; few large messages are as quick in rows.
_MOST_BYTES = 32 * 1024

#: So many rows take as long to remove as a block.
_BLOCK_COST = 40

#: A message in its row, as `restored` takes it.
_MESSAGE = "SELECT place, CAST(id AS BLOB), body, attempts, deaths, published_at, crc FROM message"

_EXTENT = "SELECT first, last, entries, size, published_at, crc FROM block"
_LAST_EXTENT = f"{_EXTENT} WHERE first<=? ORDER BY first DESC LIMIT 1"
_NEXT_EXTENT = f"{_EXTENT} WHERE first>? ORDER BY first LIMIT 1"

#: What is damaged may be of another type now, or null.
_DATA = "SELECT coalesce(CAST(messages AS BLOB), x'') FROM block WHERE first=?"
_BLOCK = (
    "SELECT first, last, entries, size, published_at, crc, coalesce(CAST(messages AS BLOB), x'') "
    "FROM block"
)

#: Everything in it: a damaged head makes what follows begin in any of these.
_COLUMNS = (
    "SELECT CAST(last AS BLOB), CAST(entries AS BLOB), CAST(size AS BLOB), "
    "CAST(published_at AS BLOB), CAST(crc AS BLOB), CAST(messages AS BLOB) "
    "FROM block WHERE first=?"
)

#: Begins with the last block before a place, in which it may be.
_FROM = "WHERE first>=coalesce((SELECT max(first) FROM block WHERE first<=?1), ?1)"
_BLOCKS_BETWEEN = f"{_BLOCK} {_FROM} AND first<?2 ORDER BY first"


class DamagedBlock(Exception):
    """A block that cannot be read as it is; `extent` says which."""

    def __init__(self, extent: Extent) -> None:
        super().__init__(f"the block at {extent.first} is damaged")
        self.extent = extent


# -- reading


def read(db: sqlite3.Connection, begin: int, end: int) -> Generator[list[Placed]]:
    """Yield those between two places of a queue, in order, some at a time.

    The database must not be written to meanwhile. Raises DamagedBlock, for which there is `mend`.
    """
    at = begin
    with closing(db.execute(_BLOCKS_BETWEEN, (begin, end))) as blocks:
        for *known, data in blocks:
            extent = Extent._make(known)
            rows = unpacked(data) if extent.is_whole else None
            if rows is None:
                raise DamagedBlock(extent)
            if extent.last <= begin:
                continue
            yield from _read_alone(db, at, extent.first)
            yield messages_of(row for row in rows if row[0] > begin)
            at = extent.last
    yield from _read_alone(db, at, end)


def _read_alone(db: sqlite3.Connection, begin: int, end: int) -> Generator[list[Placed]]:
    with closing(
        db.execute(f"{_MESSAGE} WHERE place>? AND place<? ORDER BY place", (begin, end))
    ) as rows:
        for row in rows:
            # Each may be as large as a message can be.
            yield [(row[0], restored(*row))]


def find(db: sqlite3.Connection, statement: str, places: Sequence[int]) -> tuple[Any, ...] | None:
    """Return what *statement* says of the message at one of *places*; None if none is there.

    It has a row of its own then.
    """
    row: tuple[Any, ...] | None = db.execute(statement, places).fetchone()
    if row is None and break_up(db, places):
        row = db.execute(statement, places).fetchone()
    return row


def one(db: sqlite3.Connection, place: int) -> Message | None:
    """Read one message, which has a row of its own then; None if it is damaged or not there."""
    row = find(db, f"{_MESSAGE} WHERE place=?", (place,))
    return None if row is None else restored(*row)


def counted(db: sqlite3.Connection, begin: int, end: int) -> tuple[int, int]:
    """Count the messages between two places, and the bytes of their bodies."""
    alone = db.execute(
        "SELECT count(*), total(length(CAST(body AS BLOB))) FROM message WHERE place>? AND place<?",
        (begin, end),
    ).fetchone()
    together = db.execute(
        "SELECT total(entries), total(size) FROM block WHERE first>? AND first<?", (begin, end)
    ).fetchone()
    return int(alone[0] + together[0]), int(alone[1] + together[1])


def oldest(db: sqlite3.Connection, begin: int, end: int) -> float | None:
    """Return when the first message between two places of a queue was published."""
    block = _next_extent(db, begin)
    if block is not None and block.first < end:
        end = block.first
        at: float | None = block.published_at
    else:
        at = None
    row = db.execute(
        "SELECT published_at FROM message WHERE place>? AND place<? ORDER BY place LIMIT 1",
        (begin, end),
    ).fetchone()
    return at if row is None else float(row[0])


def _next_extent(db: sqlite3.Connection, place: int) -> Extent | None:
    """Return the first block that ends at *place* or behind it; None if there is none."""
    for statement in (_LAST_EXTENT, _NEXT_EXTENT):
        while (found := db.execute(statement, (place,)).fetchone()) is not None:
            extent = Extent._make(found)
            if extent.is_whole:
                if extent.last >= place:
                    return extent
                break
            mend(db, extent)
    return None


# -- writing


def insert(db: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Write new messages; those of each queue are in order, behind all that are there."""
    alone: list[Row] = []
    blocks: list[tuple[object, ...]] = []
    for group in _groups(rows):
        if len(group) < _LEAST or group[0][0] & TIMED:
            alone += group
        else:
            blocks.append((*Extent.of(group), packed(group)))
    _insert_alone(db, alone)
    db.executemany("INSERT INTO block VALUES (?,?,?,?,?,?,?)", blocks)


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield *rows* in groups that a block can hold."""
    queues: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        queues[row[0] & ~LAST_SEQ].append(row)
    for queue in queues.values():
        begin = size = 0
        for place, row in enumerate(queue):
            length = len(row[1]) + len(row[-1])
            size += length
            if place - begin == _MOST or (size > _MOST_BYTES and place > begin):
                yield queue[begin:place]
                begin, size = place, length
        yield queue[begin:]


def _insert_alone(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    rest = len(rows) % _TOGETHER
    db.executemany(_INSERT + _ROW, rows[:rest])
    for at in range(rest, len(rows), _TOGETHER):
        db.execute(_INSERT_TOGETHER, list(chain.from_iterable(rows[at : at + _TOGETHER])))


def break_up(db: sqlite3.Connection, places: Iterable[int]) -> bool:
    """Let the messages at *places* have rows of their own; return whether some had none."""
    done = False
    last = -1
    # The others have one.
    for place in sorted(place for place in places if not place & TIMED):
        if place <= last:
            continue
        extent = _next_extent(db, place)
        if extent is None:
            break
        last = extent.first - 1
        if extent.first <= place:
            last = extent.last
            _break_up(db, extent)
            done = True
    return done


def _break_up(db: sqlite3.Connection, extent: Extent) -> None:
    rows = unpacked(_data(db, extent))
    if rows is None:
        mend(db, extent)
    else:
        _remove(db, extent)
        _insert_alone(db, rows)


def mend(db: sqlite3.Connection, extent: Extent) -> None:
    """Break a damaged block up: what is whole of it can be had, what is not is found damaged."""
    rows: Sequence[Row] | None = unpacked(_data(db, extent))
    logger.error("a block of %s messages in the journal is damaged", shown(extent.entries))
    if rows is None:
        columns = db.execute(_COLUMNS, extent[:1]).fetchone()
        rows = rescued(extent, b"".join(filter(None, columns)), _taken(db, extent))
    _remove(db, extent)
    # One that is there as well was none of this block.
    db.executemany(f"{_INSERT_NEW}{_ROW}", rows)


def _data(db: sqlite3.Connection, extent: Extent) -> bytes:
    found = db.execute(_DATA, extent[:1]).fetchone()
    if found is None:
        raise _misplaced()
    data: bytes = found[0]
    return data


def _remove(db: sqlite3.Connection, extent: Extent) -> None:
    if db.execute("DELETE FROM block WHERE first=?", extent[:1]).rowcount != 1:
        raise _misplaced()


def _misplaced() -> sqlite3.DatabaseError:
    """Return the error for a block that is there, but not found by its key."""
    return sqlite3.DatabaseError("a block is not where it is looked for")


def _taken(db: sqlite3.Connection, extent: Extent) -> Iterator[int]:
    """Yield the places within a block's at which dead letters of others are, or may come to be."""
    if extent.is_whole:
        begin, end = extent[:2]
        for (place,) in db.execute(
            "SELECT place FROM dead WHERE place BETWEEN ? AND ? "
            "UNION ALL SELECT place FROM message WHERE place BETWEEN ? AND ?",
            (begin, end, begin | TIMED, end | TIMED),
        ):
            yield place & ~TIMED


def delete(db: sqlite3.Connection, places: Iterable[int]) -> None:
    """Remove messages; what is not there stays away."""
    ordered = sorted(places)
    alone: list[int] = []
    whole: list[tuple[int]] = []
    at = 0
    while at < len(ordered) and (extent := _next_extent(db, ordered[at])) is not None:
        begin = bisect_left(ordered, extent.first, at)
        end = bisect_right(ordered, extent.last, begin)
        alone += ordered[at:begin]
        if end - begin == extent.entries:
            whole.append(extent[:1])
        elif begin < end:
            _break_up(db, extent)
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
    rows = db.execute(
        "DELETE FROM message WHERE place IN "
        "(SELECT place FROM message WHERE place>=? AND place<? LIMIT ?)",
        (begin, end, max(0, count - blocks * _BLOCK_COST)),
    ).rowcount
    return blocks * _BLOCK_COST + rows
