"""Many messages in one row of the database."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple
from zlib import crc32

import msgpack

from .records import LAST_SEQ, Message, Placed, Row, messages_of, restored

#: More messages than a block has.
_TOO_MANY = 1000

#: A checksum that no message has.
_DAMAGED = -1

#: What reading bytes raises that were never written.
_UNREADABLE = (ValueError, TypeError, RecursionError, msgpack.UnpackException)


class Block(NamedTuple):
    """Messages of one queue, without delay, in their order."""

    first: int
    """The place of the first message."""

    last: int
    entries: int
    """How many there are."""

    size: int
    """Bytes of all bodies."""

    crc: int
    messages: bytes

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Block:
        """Return the block of *rows*."""
        known = (rows[0][0], rows[-1][0], len(rows), sum(len(row[-1]) for row in rows))
        messages = msgpack.packb(rows)
        return cls(*known, _checksum(known, messages), messages)

    @property
    def is_whole(self) -> bool:
        """Whether it is what was written, as far as can be known."""
        return self.crc == _checksum(self[:4], self.messages)

    def read(self) -> list[Placed]:
        """Return place and message of each."""
        if self.is_whole:
            return messages_of(self._unpacked())
        return [(row[0], _restored(row)) for row in self._rescued()]

    def rows(self) -> list[Row]:
        """Return the messages as rows of their own, damaged ones among them if it is damaged."""
        return self._unpacked() if self.is_whole else self._rescued()

    def _unpacked(self) -> list[Row]:
        return list(msgpack.unpackb(self.messages, use_list=False))

    def _rescued(self) -> list[Row]:
        """Return a row for each message; without its body if they cannot be told apart."""
        try:
            rows = [_rescued(self.first & ~LAST_SEQ, row) for row in self._unpacked()]
        except _UNREADABLE:
            rows = []
        places = [row[0] for row in rows]
        found = (*places[:1], *places[-1:], len(rows), sum(len(row[-1]) for row in rows))
        # Either the messages are damaged, or what is known of them.
        if (rows and all(map(_restored, rows))) or (
            found == self[:4] and places == sorted(set(places))
        ):
            return rows
        entries, size = self.entries, self.size
        if not (type(entries) is int and 0 < entries < _TOO_MANY):
            entries = 1
        if not (type(size) is int and size >= 0):
            size = 0
        # As many messages and bytes as the queue counts.
        bodies = (self.messages[:size], *repeat(b"", entries - 1))
        return [_damaged(self.first + number, "", body) for number, body in enumerate(bodies)]


def _checksum(known: tuple[object, ...], messages: bytes) -> int:
    return crc32(messages, crc32(b"%a" % (known,)))


def _rescued(channel: int, row: Row) -> Row:
    """Return *row*, or one that is known to be damaged; raises TypeError for what is none.

    *channel*: what a place has above its seq, of which no message's checksum knows.
    """
    place, id_, _, _, _, _, _, _, body = row
    if not (type(place) is int and type(id_) is str and type(body) is bytes):
        raise TypeError("no message")
    place = channel | place & LAST_SEQ
    row = place, *row[1:]
    return row if _restored(row) else _damaged(place, id_, body)


def _damaged(place: int, id: str, body: bytes) -> Row:  # noqa: A002 - the message's id
    return place, id, None, None, 0, 0, 0.0, _DAMAGED, body


def _restored(row: Row) -> Message | None:
    place, id_, _, _, attempts, deaths, published_at, crc, body = row
    return restored(place, id_.encode(), body, attempts, deaths, published_at, crc)
