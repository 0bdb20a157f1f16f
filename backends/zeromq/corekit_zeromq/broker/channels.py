"""The queues in the journal: their numbers, and how each was left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from corekit.errors import BackendRefused

from . import rows
from .records import LAST_CHANNEL, ChannelRow, checked, place_of

if TYPE_CHECKING:
    from .journal import Journal


class Channels:
    """The rows of the queues.

    Each has a number, under which its messages stand. A queue that is purged gets another one, so
    that it is empty at once.

    Raises ValueError if the numbers in the journal are none.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._last = self._last_number()

    def __repr__(self) -> str:
        return f"<Channels last={self._last}>"

    def _last_number(self) -> int:
        (first, last) = self._journal.peek("SELECT min(id), max(id) FROM channel").fetchone()
        if first is None:
            return 0
        if not 0 < first <= last <= LAST_CHANNEL:
            raise ValueError(f"{first} to {last} are no numbers of queues")
        return int(last)

    def rows(self) -> list[ChannelRow]:
        """Read all queues that have something in them; raises ValueError for what is no count."""
        rows = self._journal.peek(
            "SELECT id, name, messages, bytes, timed, dead FROM channel WHERE name IS NOT NULL"
        )
        return [checked(ChannelRow(*row)) for row in rows]

    def add(self, name: str) -> int:
        """Add a queue and return its number; raises BackendRefused if there is none left."""
        number = self._free_number()
        self._journal.execute("INSERT INTO channel VALUES (?,?,0,0,0,0)", (number, name))
        return number

    def _free_number(self) -> int:
        db = self._journal.reader()
        for _ in range(LAST_CHANNEL):
            self._last = self._last % LAST_CHANNEL + 1
            if db.execute("SELECT 1 FROM channel WHERE id=?", (self._last,)).fetchone() is None:
                return self._last
        raise BackendRefused("there is no number left for another queue; purged ones keep theirs")

    def remove(self, channel: int) -> None:
        """Forget an empty queue."""
        self._journal.execute("DELETE FROM channel WHERE id=?", (channel,))

    def purge(self, channel: int, name: str, kept: Iterable[tuple[int, bool]]) -> int:
        """Drop everything in *channel* but what is *kept*; return the queue's new number.

        *kept*: seq of each, and whether it is timed. Takes no longer for a long queue: what is
        dropped is removed by `sweep`. Raises BackendRefused if no number is left.
        """
        new = self._free_number()
        db = self._journal.writer()
        db.execute("UPDATE channel SET name=NULL WHERE id=?", (channel,))
        db.execute("INSERT INTO channel VALUES (?,?,0,0,0,0)", (new, name))
        moves = [
            (place_of(new, seq, timed=timed), place_of(channel, seq, timed=timed))
            for seq, timed in kept
        ]
        rows.break_up(db, [place for _, place in moves])
        db.executemany("UPDATE message SET place=? WHERE place=?", moves)
        return new

    def sweep(self, count: int) -> bool:
        """Remove about *count* rows of what was purged; return whether there may be more."""
        while count > 0:
            # Usually there is nothing: then there must be nothing to commit, either.
            row = self._journal.peek("SELECT id FROM channel WHERE name IS NULL LIMIT 1").fetchone()
            if row is None:
                return False
            (channel,) = row
            db = self._journal.writer()
            begin, end = (place_of(each, 0, timed=False) for each in (channel, channel + 1))
            count -= rows.sweep(db, begin, end, count)
            count -= self._journal.dead_letters.trim(channel, max(0, count))
            if count > 0:
                count -= 1
                db.execute("DELETE FROM channel WHERE id=?", row)
        return True
