"""Many messages in one row of the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from math import isfinite
from typing import NamedTuple
from zlib import crc32

import msgpack

from .records import LAST_SEQ, Row, restored

#: Before the messages of a block stands their checksum.
_CRC = 4

#: What each of them begins with: an array of nine, and a place.
_MARK = b"\x99\xcf"

#: A checksum that no message has.
_NO_CRC = -1


class Extent(NamedTuple):
    """What is known of a block without its messages, which are of one queue, in order."""

    first: int
    """The place of the first message."""

    last: int
    entries: int
    """How many there are."""

    size: int
    """Bytes of all bodies."""

    published_at: float
    """When the first was published."""

    crc: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Extent:
        """Return that of the block of *rows*."""
        size = sum(len(row[-1]) for row in rows)
        known = (rows[0][0], rows[-1][0], len(rows), size, float(rows[0][6]))
        return cls(*known, _checksum(known))

    @property
    def is_whole(self) -> bool:
        """Whether it is what was written."""
        return self.crc == _checksum(self[:-1])


def _checksum(known: tuple[float, ...]) -> int:
    return crc32(b"%a" % (known,))


def packed(rows: Sequence[Row]) -> bytes:
    """Return the messages of a block as bytes."""
    data: bytes = msgpack.packb(rows)
    return crc32(data).to_bytes(_CRC, "big") + data


def unpacked(data: bytes) -> tuple[Row, ...] | None:
    """Return the messages of a block; None if they are damaged."""
    messages = memoryview(data)[_CRC:]
    if data[:_CRC] != crc32(messages).to_bytes(_CRC, "big"):
        return None
    rows: tuple[Row, ...] = msgpack.unpackb(messages, use_list=False)
    return rows


def rescued(extent: Extent, data: bytes, taken: Iterable[int]) -> list[Row]:
    """Return a row for each message of a damaged block; for a damaged message, a damaged one.

    *taken* are places that these cannot have. If what is known of the block is damaged, too, nobody
    can tell how many there were: only what is whole is returned.
    """
    rows: dict[int, Row] = {}
    damaged: list[tuple[str, bytes]] = []
    position = 0
    while (begin := data.find(_MARK, position)) >= 0:
        row, length = _row_at(data, begin)
        if row is not None and _is_whole(row) and _belongs(row[0], extent):
            rows.setdefault(row[0], row)
            position = begin + length
            continue
        if row is not None:
            damaged.append((row[1], row[-1]))
        # Its length may be what is damaged.
        position = begin + 1
    whole = sorted(rows.values())
    return whole + _lost(extent, data, whole, damaged, taken) if extent.is_whole else whole


def _row_at(data: bytes, begin: int) -> tuple[Row | None, int]:
    """Return the row that begins somewhere, None if there is none, and its length."""
    unpacker = msgpack.Unpacker(use_list=False, unicode_errors="replace")
    unpacker.feed(data[begin:])
    try:
        place, id_, _, _, _, _, at, crc, body = unpacker.unpack()
    except Exception:  # noqa: BLE001 - whatever reading bytes raises that were never written
        return None, 0
    if not (type(place) is int and type(id_) is str and type(body) is bytes):
        return None, 0
    published_at = at if type(at) is float and isfinite(at) else 0.0
    # Nobody has had it, or it would have a row of its own.
    return (place, id_, None, None, 0, 0, published_at, crc, body), unpacker.tell()


def _is_whole(row: Row) -> bool:
    place, id_, _, _, attempts, deaths, at, crc, body = row
    return restored(place, id_.encode(), body, attempts, deaths, at, crc) is not None


def _belongs(place: int, extent: Extent) -> bool:
    """Tell whether this can be the place of a message, whose checksum knows its seq only."""
    if extent.is_whole:
        return extent.first <= place <= extent.last
    return place & ~LAST_SEQ == extent.first & ~LAST_SEQ


def _lost(
    extent: Extent,
    data: bytes,
    whole: list[Row],
    damaged: list[tuple[str, bytes]],
    taken: Iterable[int],
) -> list[Row]:
    """Return damaged rows that are as many, and have as many bytes, as the queue counts."""
    missing = extent.entries - len(whole)
    left = extent.size - sum(len(row[-1]) for row in whole)
    taken = {*taken, *(row[0] for row in whole)}
    places = (place for place in range(extent.first, extent.last + 1) if place not in taken)
    rows: list[Row] = []
    for number, place in enumerate(islice(places, missing)):
        id_, body = damaged[number] if number < len(damaged) else ("", b"")
        # What is not known to be anybody's body is the last one's.
        body = body[:left] if number < missing - 1 else (body + data)[:left].ljust(left, b"\0")
        left -= len(body)
        rows.append((place, id_, None, None, 0, 0, 0.0, _NO_CRC, body))
    return rows
