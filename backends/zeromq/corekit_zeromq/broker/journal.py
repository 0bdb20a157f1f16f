"""What the broker must not lose: one SQLite file, one transaction per turn of the loop."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgpack

from corekit.arguments import shown
from corekit.errors import BackendRefused

from .records import (
    LAST_CHANNEL,
    LAST_SEQ,
    TIMED,
    ChannelRow,
    Head,
    Message,
    checked,
    checksum,
    is_sound,
    place_of,
    read_place,
)
from .schema import PAGE, connect

FILE = "journal.sqlite3"

#: So many removals are committed without waiting for anything else.
_MOST_REMOVALS = 1000


class Counted(Protocol):
    """A queue whose counts are kept."""

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return messages, bytes, timed, dead, and the id of the channel."""
        ...


def _range(channel: int, after: int = 0) -> tuple[int, int]:
    """Return the places around the messages of *channel* without delay, from behind *after* on."""
    return place_of(channel, after, timed=False), place_of(channel, 0, timed=True)


class Journal:
    """Collects the changes of a turn, and commits them together.

    A change is written at the latest by `commit`; reading writes first what was collected, so a
    turn reads its own changes. Nothing that depends on a change may leave the process before
    `commit` has returned; only removals may wait, as long as whoever asked for them is not told.
    Any sqlite3.Error means that memory and disk no longer agree: the
    process must end and start again from the disk.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self.durable = durable
        self._db = connect(directory / FILE, durable=durable)
        self._begun = False
        self._wrote = False
        self.commits = 0
        self._inserts: list[tuple[int | str | float | bytes | None, ...]] = []
        self._deletes: list[tuple[int]] = []
        self._postponed: list[tuple[object, ...]] = []
        self._deaths: list[tuple[int, int]] = []
        self._ids: dict[str, list[str]] = {}
        self._published_at = 0.0
        self._last = 0
        try:
            self.last = self._last_seq()
            """The seq of the newest message that is committed."""
            self._channel = self._last_channel()
        except BaseException:
            self._db.close()
            raise
        self.reusable = 0
        """Bytes of the file that held nothing any more at the last commit: it does not shrink."""
        self._changed: dict[Counted, None] = {}

    def __repr__(self) -> str:
        return f"<Journal commits={self.commits} {'open' if self.pending else 'clean'}>"

    @property
    def pending(self) -> bool:
        """Whether there is anything to commit."""
        return self._begun or bool(
            self._inserts or self._deletes or self._postponed or self._deaths or self._changed
        )

    def _last_seq(self) -> int:
        seq = self.meta("seq")
        if seq > LAST_SEQ:
            raise ValueError(f"message {seq} is more than a journal can hold")
        return seq

    def _last_channel(self) -> int:
        (first, last) = self._db.execute("SELECT min(id), max(id) FROM channel").fetchone()
        if first is None:
            return 0
        if not 0 < first <= last <= LAST_CHANNEL:
            raise ValueError(f"{first} to {last} are no numbers of queues")
        return int(last)

    # -- the transaction

    @property
    def urgent(self) -> bool:
        """Whether something must be committed now: anything but a few removals."""
        return (
            self._wrote
            or bool(self._inserts or self._postponed or self._deaths)
            or len(self._deletes) >= _MOST_REMOVALS
        )

    def commit(self) -> None:
        """Make everything collected durable."""
        if not self.pending:
            return
        self._write()
        if self._changed:
            self._db.executemany(
                "UPDATE channel SET messages=?, bytes=?, timed=?, dead=? WHERE id=?",
                [queue.counts() for queue in self._changed],
            )
            self._changed.clear()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        self._db.execute("COMMIT")
        self.reusable = free * PAGE
        self._begun = self._wrote = False
        self.commits += 1
        self.last = max(self.last, self._last)

    def close(self) -> None:
        """Close the file; what was not committed is forgotten."""
        self._db.close()

    def _begin(self) -> sqlite3.Connection:
        if not self._begun:
            self._db.execute("BEGIN IMMEDIATE")
            self._begun = True
        return self._db

    def _write(self) -> sqlite3.Connection:
        """Write the batches, and let the commit come soon: the caller writes, too."""
        self._wrote = True
        return self._read()

    def _read(self) -> sqlite3.Connection:
        """Write the batches. Messages first: nothing else in a turn refers to later ones."""
        db = self._begin()
        if self._inserts:
            self._wrote = True
            if self._last > LAST_SEQ:
                raise sqlite3.DataError(f"message {self._last} is more than a journal can hold")
            db.executemany("INSERT INTO message VALUES (?,?,?,?,?,?,?,?,?)", self._inserts)
            self.set_meta("seq", self._last)
            self._inserts.clear()
            db.execute(
                "INSERT INTO recent (at, ids) VALUES (?,?)",
                (self._published_at, msgpack.packb(self._ids)),
            )
            self._ids = {}
        if self._postponed:
            self._wrote = True
            db.executemany(
                "UPDATE message SET place=?, due=?, delay=?, attempts=?, deaths=? WHERE place=?",
                self._postponed,
            )
            self._postponed.clear()
        if self._deaths:
            self._wrote = True
            db.executemany("UPDATE message SET deaths=? WHERE place=?", self._deaths)
            self._deaths.clear()
        if self._deletes:
            db.executemany("DELETE FROM message WHERE place=?", self._deletes)
            self._deletes.clear()
        return db

    def _one(self, statement: str, parameters: tuple[object, ...]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._read().execute(statement, parameters).fetchone()
        return row

    # -- messages

    def insert(
        self,
        channel: int,
        name: str,
        message: Message,
        due: float | None,
        delay: float | None,
        wall: float,
    ) -> None:
        """Add *message* to *channel*, whose name is *name*, published at *wall*."""
        seq, id_, body, attempts, deaths, published_at, timed = message
        self._inserts.append(
            (
                place_of(channel, seq, timed=timed), id_, due, delay, attempts, deaths,
                published_at, checksum(seq, id_, body), body,
            )
        )  # fmt: skip
        self._ids.setdefault(name, []).append(id_)
        self._published_at = wall
        self._last = seq

    def delete(self, place: int) -> None:
        """Remove a message that is done."""
        self._deletes.append((place,))

    def postpone(self, place: int, to: int, due: float, delay: float, attempts: int) -> None:
        """Change when a message is due, and with that its place; and how often it failed."""
        self._postponed.append((to, due, delay, attempts, 0, place))

    def set_deaths(self, place: int, deaths: int) -> None:
        """Change how many deliveries in a row ended by their consumer's death."""
        self._deaths.append((deaths, place))

    def count(self, queue: Counted) -> None:
        """Keep the counts of *queue* with the next commit."""
        self._changed[queue] = None

    def ready(
        self, channel: int, after: int, count: int, size: int
    ) -> tuple[list[Message], list[int], int]:
        """Read messages without delay, in order, from behind the seq *after*.

        At most *count*, and about *size* bytes. Returns them, the seqs of those that are damaged,
        and the seq up to which was read.
        """
        rows = self._read().execute(
            "SELECT place, id, body, attempts, deaths, published_at, crc FROM message "
            "WHERE place>? AND place<? ORDER BY place LIMIT ?",
            (*_range(channel, after), count),
        )
        messages: list[Message] = []
        damaged: list[int] = []
        last = after
        for place, id_, body, attempts, deaths, published_at, crc in rows:
            last = seq = place & LAST_SEQ
            message = Message(seq, id_, body, attempts, deaths, published_at, False)
            if not is_sound(message, crc):
                damaged.append(seq)
                continue
            messages.append(message)
            size -= len(body)
            if size <= 0:
                break
        rows.close()
        return messages, damaged, last

    def timed(
        self, channel: int, after: tuple[float, int], count: int
    ) -> list[tuple[float, int, float]]:
        """Read (due, seq, delay) of delayed messages, the first due first, from behind *after*."""
        rows = self._read().execute(
            "SELECT due, place, delay FROM message WHERE place>>45=?1 AND due>=?2 "
            "AND (due>?2 OR place>?3) ORDER BY due, place LIMIT ?4",
            (channel, after[0], place_of(channel, after[1], timed=True), count),
        )
        return [(due, place & LAST_SEQ, delay) for due, place, delay in rows]

    def count_due(self, channel: int, after: tuple[float, int], until: float) -> int:
        """Count the delayed messages behind *after* that are due at *until*."""
        row = self._one(
            "SELECT count(*) FROM message WHERE place>>45=?1 AND due>=?2 AND due<=?4 "
            "AND (due>?2 OR place>?3)",
            (channel, after[0], place_of(channel, after[1], timed=True), until),
        )
        return 0 if row is None else int(row[0])

    def clamp_due(self, channel: int, wall: float) -> None:
        """Let no message of *channel* be due later than its whole delay from *wall* on."""
        self._write().execute(
            "UPDATE message SET due=?2+delay WHERE place>>45=?1 AND due>?2 AND due>?2+delay",
            (channel, wall),
        )

    def message(self, place: int) -> Message | None:
        """Read one message; None if it is damaged or not there."""
        row = self._one(
            "SELECT id, body, attempts, deaths, published_at, crc FROM message WHERE place=?",
            (place,),
        )
        if row is None:
            return None
        id_, body, attempts, deaths, published_at, crc = row
        seq, timed = read_place(place)
        message = Message(seq, id_, body, attempts, deaths, published_at, timed)
        return message if is_sound(message, crc) else None

    def head(self, channel: int, seq: int) -> Head | None:
        """Read what is known of a message without its body; None if *channel* has none such."""
        if seq > LAST_SEQ:
            return None
        timed = place_of(channel, seq, timed=True)
        row = self._one(
            "SELECT place=?2, attempts, deaths, due, length(body) FROM message "
            "WHERE place IN (?1,?2)",
            (place_of(channel, seq, timed=False), timed),
        )
        return None if row is None else Head(bool(row[0]), *row[1:])

    def oldest(self, channel: int) -> float | None:
        """Return when the first message without delay was published."""
        row = self._one(
            "SELECT published_at FROM message WHERE place>? AND place<? ORDER BY place LIMIT 1",
            _range(channel),
        )
        return None if row is None else float(row[0])

    # -- dead letters

    def bury(self, place: int, attempts: int, error: str, died_at: float | None = None) -> None:
        """Make a message a dead letter; without *died_at* it died when it was published."""
        db = self._write()
        db.execute(
            "INSERT INTO dead SELECT ?, id, ?, ?, coalesce(?, published_at), "
            "published_at, crc, body FROM message WHERE place=?",
            (place & ~TIMED, attempts, error, died_at, place),
        )
        db.execute("DELETE FROM message WHERE place=?", (place,))

    def dead_letters(
        self, channel: int, count: int, size: int
    ) -> list[tuple[str, bytes, str, int, float]]:
        """Read (id, body, error, attempts, died_at) of the oldest dead letters.

        At most *count*, and about *size* bytes.
        """
        rows = self._write().execute(
            "SELECT id, CAST(body AS BLOB), error, attempts, died_at FROM dead "
            "WHERE place>? AND place<? ORDER BY place LIMIT ?",
            (*_range(channel), count),
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
        db = self._write()
        row = db.execute(
            "SELECT place, CAST(body AS BLOB), published_at, crc FROM dead "
            "WHERE place>>45=? AND id=? ORDER BY place",
            (channel, id),
        ).fetchone()
        if row is None or checksum(row[0] & LAST_SEQ, id, row[1]) != row[3]:
            return None
        db.execute("DELETE FROM dead WHERE place=?", (row[0],))
        return row[1], row[2]

    def trim_dead(self, channel: int, count: int) -> int:
        """Remove the *count* oldest dead letters; return how many there were."""
        return (
            self._write()
            .execute(
                "DELETE FROM dead WHERE place IN "
                "(SELECT place FROM dead WHERE place>? AND place<? ORDER BY place LIMIT ?)",
                (*_range(channel), count),
            )
            .rowcount
        )

    # -- channels

    def channels(self) -> list[ChannelRow]:
        """Read all queues that have something in them; raises ValueError for what is no count."""
        rows = self._db.execute(
            "SELECT id, name, messages, bytes, timed, dead FROM channel WHERE name IS NOT NULL"
        )
        return [checked(ChannelRow(*row)) for row in rows]

    def add_channel(self, name: str) -> int:
        """Add a queue and return its number; raises BackendRefused if there is none left."""
        number = self._free_channel()
        self._write().execute("INSERT INTO channel VALUES (?,?,0,0,0,0)", (number, name))
        return number

    def _free_channel(self) -> int:
        for _ in range(LAST_CHANNEL):
            self._channel = self._channel % LAST_CHANNEL + 1
            if self._one("SELECT 1 FROM channel WHERE id=?", (self._channel,)) is None:
                return self._channel
        raise BackendRefused("there is no number left for another queue; purged ones keep theirs")

    def remove_channel(self, channel: int) -> None:
        """Forget an empty queue."""
        self._write().execute("DELETE FROM channel WHERE id=?", (channel,))

    def purge(self, channel: int, name: str, kept: Iterable[tuple[int, bool]]) -> int:
        """Drop everything in *channel* but what is *kept*; return the queue's new number.

        *kept*: seq of each, and whether it is timed. Takes no longer for a long queue: what is
        dropped is removed by `sweep`. Raises BackendRefused if no number is left.
        """
        new = self._free_channel()
        db = self._write()
        db.execute("UPDATE channel SET name=NULL WHERE id=?", (channel,))
        db.execute("INSERT INTO channel VALUES (?,?,0,0,0,0)", (new, name))
        db.executemany(
            "UPDATE message SET place=? WHERE place=?",
            [
                (place_of(new, seq, timed=timed), place_of(channel, seq, timed=timed))
                for seq, timed in kept
            ],
        )
        return new

    def sweep(self, count: int) -> bool:
        """Remove at most *count* rows that were purged; return whether there may be more."""
        while count > 0:
            row = self._db.execute("SELECT id FROM channel WHERE name IS NULL LIMIT 1").fetchone()
            if row is None:
                return False
            (channel,) = row
            db = self._write()
            count -= db.execute(
                "DELETE FROM message WHERE place IN "
                "(SELECT place FROM message WHERE place>? AND place<? LIMIT ?)",
                (place_of(channel, 0, timed=False), place_of(channel + 1, 0, timed=False), count),
            ).rowcount
            count -= self.trim_dead(channel, max(0, count))
            if count > 0:
                count -= 1
                db.execute("DELETE FROM channel WHERE id=?", row)
        return True

    # -- small facts

    def meta(self, key: str, default: int = 0) -> int:
        """Read the number *key*; raises ValueError for what was never kept."""
        row = self._begin().execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        value = default if row is None else row[0]
        if type(value) is not int or not 0 <= value < 1 << 62:
            raise ValueError(f"{key} is {shown(value)}")
        return value

    def set_meta(self, key: str, value: int) -> None:
        """Keep the number *key*."""
        self._wrote = True
        self._begin().execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (key, value))

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a statement of another part of the broker in this turn's transaction."""
        return self._write().execute(statement, parameters)
