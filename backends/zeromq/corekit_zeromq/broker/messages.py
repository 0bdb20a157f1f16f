"""The messages in the journal, read wherever they are: in its database, or before it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING

from . import rows
from .changes import Changes
from .records import LAST_SEQ, Head, Message, Placed, place_of, places_of

if TYPE_CHECKING:
    from .journal import Journal

#: What is known of the message in one of two places: in the second it is `timed`.
_HEAD = (
    "SELECT place=?2, attempts, deaths, due, coalesce(length(CAST(body AS BLOB)), 0) "
    "FROM message WHERE place IN (?1,?2)"
)


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
        places = places_of(channel, after)
        try:
            return self._ready(*places, count, size)
        except rows.DamagedBlock:
            # To write what was collected may mend it already.
            db = self._journal.writer()
        while True:
            try:
                return self._ready(*places, count, size)
            except rows.DamagedBlock as error:
                rows.mend(db, error.extent)

    def _ready(
        self, place: int, end: int, count: int, size: int
    ) -> tuple[list[Message], list[int], int]:
        messages: list[Message] = []
        damaged: list[int] = []
        with closing(self._undelayed(place, end)) as waiting:
            for place, message in islice(chain.from_iterable(waiting), count):
                if message is None:
                    damaged.append(place & LAST_SEQ)
                    continue
                messages.append(message)
                size -= len(message.body)
                if size <= 0:
                    break
        return messages, damaged, place & LAST_SEQ

    def _undelayed(self, begin: int, end: int) -> Generator[list[Placed]]:
        """Yield those without delay between two places, in order, some at a time.

        Nothing is written for that: a deep queue is read without a commit of the database.
        """
        logged, fresh = self._logged, self._fresh
        with closing(rows.read(self._journal.viewer(), begin, end)) as written:
            for some in written:
                yield [
                    one
                    for one in some
                    if one[0] not in logged.deletes and one[0] not in fresh.deletes
                ]
        # What came later has a later place.
        yield [one for one in logged.messages(begin, end) if one[0] not in fresh.deletes]
        yield fresh.messages(begin, end)

    def timed(
        self, channel: int, after: tuple[float, int], count: int
    ) -> list[tuple[float, int, float]]:
        """Read (due, seq, delay) of delayed messages, the first due first, from behind *after*."""
        found = self._journal.reader().execute(
            "SELECT due, place, delay FROM message WHERE place>>45=?1 AND due>=?2 "
            "AND (due>?2 OR place>?3) ORDER BY due, place LIMIT ?4",
            (channel, after[0], place_of(channel, after[1], timed=True), count),
        )
        return [(due, place & LAST_SEQ, delay) for due, place, delay in found]

    def count_due(self, channel: int, after: tuple[float, int], until: float) -> int:
        """Count the delayed messages behind *after* that are due at *until*."""
        counted = self._journal.reader().execute(
            "SELECT count(*) FROM message WHERE place>>45=?1 AND due>=?2 AND due<=?4 "
            "AND (due>?2 OR place>?3)",
            (channel, after[0], place_of(channel, after[1], timed=True), until),
        )
        return int(counted.fetchone()[0])

    def clamp_due(self, channel: int, wall: float) -> None:
        """Let no message of *channel* be due later than its whole delay from *wall* on."""
        self._journal.execute(
            "UPDATE message SET due=?2+delay WHERE place>>45=?1 AND due>?2 AND due>?2+delay",
            (channel, wall),
        )

    def one(self, place: int) -> Message | None:
        """Read one message, which has a row of its own then; None if it is damaged or gone."""
        return rows.one(self._journal.reader(), place)

    def head(self, channel: int, seq: int) -> Head | None:
        """Read what is known of a message without its body; None if *channel* has none such.

        It has a row of its own then.
        """
        if seq > LAST_SEQ:
            return None
        places = [place_of(channel, seq, timed=timed) for timed in (False, True)]
        row = rows.find(self._journal.reader(), _HEAD, places)
        return None if row is None else Head(bool(row[0]), *row[1:])

    def counted(self, channel: int) -> tuple[int, int]:
        """Count the messages of *channel*, and the bytes of their bodies, by looking at all."""
        begin, end = (place_of(each, 0, timed=False) for each in (channel, channel + 1))
        return rows.counted(self._journal.reader(), begin, end)

    def oldest(self, channel: int) -> float | None:
        """Return when the first message without delay was published."""
        return rows.oldest(self._journal.reader(), *places_of(channel))
