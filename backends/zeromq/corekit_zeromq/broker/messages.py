"""The messages in the journal, read wherever they are: in its database, or before it."""

from __future__ import annotations

from collections.abc import Generator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from .changes import Changes
from .records import LAST_SEQ, Head, Message, place_of, places_of, restored

if TYPE_CHECKING:
    from .journal import Journal

_MESSAGE = "SELECT place, CAST(id AS BLOB), body, attempts, deaths, published_at, crc FROM message"


class Messages:
    """Reads messages; *logged* and *fresh* are what the database does not have yet."""

    def __init__(self, journal: Journal, logged: Changes, fresh: Changes) -> None:
        self._journal = journal
        self._logged = logged
        self._fresh = fresh

    def __repr__(self) -> str:
        return f"<Messages {self._journal}>"

    def ready(
        self, channel: int, after: int, count: int, size: int
    ) -> tuple[list[Message], list[int], int]:
        """Read messages without delay, in order, from behind the seq *after*.

        At most *count*, and about *size* bytes. Returns them, the seqs of those that are damaged,
        and the seq up to which was read.
        """
        messages: list[Message] = []
        damaged: list[int] = []
        last = after
        waiting = self._undelayed(*places_of(channel, after))
        for last, message in islice(waiting, count):
            if message is None:
                damaged.append(last)
                continue
            messages.append(message)
            size -= len(message.body)
            if size <= 0:
                break
        waiting.close()
        return messages, damaged, last

    def _undelayed(self, begin: int, end: int) -> Generator[tuple[int, Message | None]]:
        """Yield seq and message of those without delay between two places, in order.

        Nothing is written for that: a deep queue is read without a commit of the database.
        """
        logged, fresh = self._logged, self._fresh
        rows = self._journal.viewer().execute(
            f"{_MESSAGE} WHERE place>? AND place<? ORDER BY place", (begin, end)
        )
        try:
            for row in rows:
                place = row[0]
                if place not in logged.deletes and place not in fresh.deletes:
                    yield place & LAST_SEQ, restored(*row)
        finally:
            rows.close()
        # What came later has a later place.
        for place, message in chain(logged.messages(begin, end), fresh.messages(begin, end)):
            if place not in fresh.deletes:
                yield message.seq, message

    def timed(
        self, channel: int, after: tuple[float, int], count: int
    ) -> list[tuple[float, int, float]]:
        """Read (due, seq, delay) of delayed messages, the first due first, from behind *after*."""
        rows = self._journal.reader().execute(
            "SELECT due, place, delay FROM message WHERE place>>45=?1 AND due>=?2 "
            "AND (due>?2 OR place>?3) ORDER BY due, place LIMIT ?4",
            (channel, after[0], place_of(channel, after[1], timed=True), count),
        )
        return [(due, place & LAST_SEQ, delay) for due, place, delay in rows]

    def count_due(self, channel: int, after: tuple[float, int], until: float) -> int:
        """Count the delayed messages behind *after* that are due at *until*."""
        row = self._row(
            "SELECT count(*) FROM message WHERE place>>45=?1 AND due>=?2 AND due<=?4 "
            "AND (due>?2 OR place>?3)",
            (channel, after[0], place_of(channel, after[1], timed=True), until),
        )
        return 0 if row is None else int(row[0])

    def clamp_due(self, channel: int, wall: float) -> None:
        """Let no message of *channel* be due later than its whole delay from *wall* on."""
        self._journal.execute(
            "UPDATE message SET due=?2+delay WHERE place>>45=?1 AND due>?2 AND due>?2+delay",
            (channel, wall),
        )

    def one(self, place: int) -> Message | None:
        """Read one message; None if it is damaged or not there."""
        row = self._row(f"{_MESSAGE} WHERE place=?", (place,))
        return None if row is None else restored(*row)

    def head(self, channel: int, seq: int) -> Head | None:
        """Read what is known of a message without its body; None if *channel* has none such."""
        if seq > LAST_SEQ:
            return None
        timed = place_of(channel, seq, timed=True)
        row = self._row(
            "SELECT place=?2, attempts, deaths, due, coalesce(length(CAST(body AS BLOB)), 0) "
            "FROM message WHERE place IN (?1,?2)",
            (place_of(channel, seq, timed=False), timed),
        )
        return None if row is None else Head(bool(row[0]), *row[1:])

    def oldest(self, channel: int) -> float | None:
        """Return when the first message without delay was published."""
        row = self._row(
            "SELECT published_at FROM message WHERE place>? AND place<? ORDER BY place LIMIT 1",
            places_of(channel),
        )
        return None if row is None else float(row[0])

    def _row(self, statement: str, parameters: tuple[object, ...]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = (
            self._journal.reader().execute(statement, parameters).fetchone()
        )
        return row
