"""Consumers of a queue, the deliveries they hold, and the tokens of these."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .queue import Queue
    from .sessions import Session

#: What a token says: epoch, number of the delivery, seq, failed attempts, deaths. A client that
#: outlives the broker can claim its delivery by it.
TOKEN = struct.Struct(">QQQII")


class Held(NamedTuple):
    """A delivery in the hands of a consumer."""

    seq: int
    size: int
    attempts: int
    deaths: int
    timed: bool


class Claim(NamedTuple):
    """What a token of a former life says."""

    epoch: int
    seq: int
    attempts: int
    deaths: int


def read_token(token: bytes) -> Claim | None:
    """Return what *token* says, None if it is none."""
    if len(token) != TOKEN.size:
        return None
    epoch, _, seq, attempts, deaths = TOKEN.unpack(token)
    return Claim(epoch, seq, attempts, deaths) if seq < 1 << 63 else None


class Consumer:
    """A session's wish for messages of one queue, and what it holds of it."""

    __slots__ = ("batch", "credit", "held", "number", "queue", "ready", "session")

    def __init__(self, session: Session, number: int, queue: Queue) -> None:
        self.session = session
        self.number = number
        self.queue = queue
        self.credit = 0
        self.held: dict[bytes, Held] = {}
        self.batch: list[tuple[bytes, str, bytes, int, int, float]] = []
        """Deliveries of this turn, as they are sent."""
        self.ready = False
        """Whether it stands in the queue's ring."""

    def __repr__(self) -> str:
        return f"<Consumer {self.number} credit={self.credit} held={len(self.held)}>"
