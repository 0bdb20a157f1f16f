"""What stands in the journal."""

from __future__ import annotations

import zlib
from typing import NamedTuple


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


class Head(NamedTuple):
    """What is known of a message without its body."""

    channel: int
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


def checksum(seq: int, id: str, body: bytes) -> int:  # noqa: A002 - the message's id
    """Return the crc32 of what never changes in a message."""
    return zlib.crc32(body, zlib.crc32(b"%d %s" % (seq, id.encode())))
