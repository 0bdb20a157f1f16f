"""What stands in the journal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from corekit.arguments import shown

#: Bits of a place that hold the seq. Above them: one for `timed`, then those of the channel.
_SEQ_BITS = 44

#: The bit that tells the two places of a message apart.
TIMED = 1 << _SEQ_BITS

#: The highest seq, and the highest number of a channel, that a place can hold.
LAST_SEQ = (1 << _SEQ_BITS) - 1
LAST_CHANNEL = (1 << (62 - _SEQ_BITS)) - 2

#: More attempts than there can have been: they travel in 32 bits.
_MOST = 1 << 32

#: A message as the database has it: place, id, due, delay, attempts, deaths, published_at, crc,
#: body.
Row = tuple[int, str, float | None, float | None, int, int, float, int, bytes]


class Message(NamedTuple):
    """A message as it is in the journal."""

    seq: int
    id: str
    body: bytes
    attempts: int
    """How many attempts have failed."""

    deaths: int
    published_at: float
    timed: bool
    """Whether it has, or had, a time before which it was not to be delivered."""


#: A message and its place; None for a message that is damaged.
Placed = tuple[int, Message | None]


class Head(NamedTuple):
    """What is known of a message without its body."""

    timed: bool
    attempts: int
    deaths: int
    due: float | None
    size: int


class ChannelRow(NamedTuple):
    """How a queue was left."""

    id: int
    name: str
    messages: int
    bytes: int
    timed: int
    dead: int


def checked(row: ChannelRow) -> ChannelRow:
    """Return *row*; raises ValueError if its counts are none."""
    if not all(type(count) is int and count >= 0 for count in row[2:]):
        raise ValueError(f"the counts of the queue {shown(row.name)} are none")
    return row


def place_of(channel: int, seq: int, *, timed: bool) -> int:
    """Return the key of a message in the journal.

    The messages of a channel stand together in the order of their seq, those without delay before
    the others: reading on and removing what was read then touch few pages, and need no index.
    Statements say `place>>45` for the channel, as the indexes do.
    """
    return (channel << 1 | timed) << _SEQ_BITS | seq


def places_of(channel: int, after: int = 0) -> tuple[int, int]:
    """Return the places around the messages of *channel* without delay, from behind *after* on."""
    return place_of(channel, after, timed=False), place_of(channel, 0, timed=True)


def messages_of(rows: Iterable[Row]) -> list[Placed]:
    """Return place and message of rows that are known to be whole."""
    new = tuple.__new__  # in half the time of the constructor
    return [
        (
            place,
            new(Message, (place & LAST_SEQ, id_, body, attempts, deaths, at, place & TIMED > 0)),
        )
        for place, id_, _, _, attempts, deaths, at, _, body in rows
    ]


def restored(
    place: int,
    id_: object,
    body: object,
    attempts: object,
    deaths: object,
    published_at: object,
    crc: object,
) -> Message | None:
    """Return the message of a row, None unless it is what was written, as far as can be known.

    The id is as bytes. A database's cell can hold anything: a bit that has turned over changes its
    type, too.
    """
    seq = place & LAST_SEQ
    if (
        type(id_) is bytes
        and type(body) is bytes
        and type(attempts) is int
        and type(deaths) is int
        and 0 <= attempts < _MOST
        and 0 <= deaths < _MOST
        and type(published_at) is float
        and checksum(seq, id_, body) == crc
    ):
        text = id_.decode(errors="replace")
        timed = place & TIMED != 0
        # In half the time of its own constructor.
        return tuple.__new__(Message, (seq, text, body, attempts, deaths, published_at, timed))
    return None


def checksum(seq: int, id: bytes, body: bytes) -> int:  # noqa: A002 - the message's id
    """Return the crc32 of what never changes in a message."""
    return crc32(body, crc32(b"%d %s" % (seq, id)))
