"""The dead letters in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import rows
from .records import LAST_SEQ, TIMED, checksum, places_of

if TYPE_CHECKING:
    from .journal import Journal

#: What is damaged may be of another type now, or null.
_BURY = (
    "INSERT INTO dead SELECT ?, coalesce(CAST(id AS TEXT), ''), ?, ?, coalesce(?, at), at, "
    "coalesce(crc, 0), coalesce(CAST(body AS BLOB), x'') "
    "FROM (SELECT *, coalesce(CAST(published_at AS REAL), 0.0) AS at FROM message) "
    "WHERE place=?"
)


class DeadLetters:
    """The messages that died, oldest first: each at the place that it had without a delay."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __repr__(self) -> str:
        return f"<DeadLetters {self._journal}>"

    def bury(self, place: int, attempts: int, error: str, died_at: float | None = None) -> None:
        """Make a message a dead letter; without *died_at* it died when it was published."""
        db = self._journal.writer()
        letter = (place & ~TIMED, attempts, error, died_at, place)
        if not db.execute(_BURY, letter).rowcount and rows.break_up(db, [place]):
            db.execute(_BURY, letter)
        db.execute("DELETE FROM message WHERE place=?", (place,))

    def read(self, channel: int, count: int, size: int) -> list[tuple[str, bytes, str, int, float]]:
        """Read (id, body, error, attempts, died_at) of the oldest dead letters.

        At most *count*, and about *size* bytes.
        """
        rows = self._journal.execute(
            "SELECT id, CAST(body AS BLOB), error, attempts, died_at FROM dead "
            "WHERE place>? AND place<? ORDER BY place LIMIT ?",
            (*places_of(channel), count),
        )
        letters = []
        for row in rows:
            letters.append(row)
            size -= len(row[1])
            if size <= 0:
                break
        rows.close()
        return letters

    def exhume(self, channel: int, id: str) -> tuple[bytes, float] | None:  # noqa: A002
        """Remove the dead letter *id* and return body and time of publishing.

        None if there is none. A damaged one stays.
        """
        db = self._journal.writer()
        row = db.execute(
            "SELECT place, CAST(body AS BLOB), published_at, crc FROM dead "
            "WHERE place>>45=? AND id=? ORDER BY place",
            (channel, id),
        ).fetchone()
        if row is None or checksum(row[0] & LAST_SEQ, id.encode(), row[1]) != row[3]:
            return None
        db.execute("DELETE FROM dead WHERE place=?", (row[0],))
        return row[1], row[2]

    def trim(self, channel: int, count: int) -> int:
        """Remove the *count* oldest dead letters; return how many there were."""
        return self._journal.execute(
            "DELETE FROM dead WHERE place IN "
            "(SELECT place FROM dead WHERE place>? AND place<? ORDER BY place LIMIT ?)",
            (*places_of(channel), count),
        ).rowcount
