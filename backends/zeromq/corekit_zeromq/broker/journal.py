"""What the broker must not lose: one SQLite file, and a redo log before it."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from corekit.arguments import shown

from . import rows
from .changes import Changes, Counts, LeaseRow
from .channels import Channels
from .dead_letters import DeadLetters
from .messages import Messages
from .records import LAST_SEQ, Message, checksum, place_of
from .redo_log import RedoLog
from .schema import PAGE, connect

FILE = "journal.sqlite3"
LOG = f"{FILE}-redo"

#: So many removals are committed without waiting for anything else.
_MOST_REMOVALS = 1000

#: So many messages, and removals, wait in the log at most. The database takes them within some
#: milliseconds.
_MOST_LOGGED = 2000
_MOST_LOGGED_REMOVALS = 8000


class Counted(Protocol):
    """A queue whose counts are kept."""

    def counts(self) -> Counts:
        """Return how the queue is left."""
        ...


class Journal:
    """Collects the changes of a turn, and commits them together.

    Messages that come and go, all that most turns are about, are committed as one record of the
    redo log: one write, one flush. The database gets what is left of them later, with the next
    commit that is about anything else, or when the log has enough. What came and went meanwhile it
    never sees. At the start it gets what the log has, before anything is read.

    Reading writes first what was collected, so a turn reads its own changes. Nothing that depends
    on a change may leave the process before `commit` has returned; only removals may wait, as long
    as whoever asked for them is not told. After any sqlite3.Error or OSError memory and disk may no
    longer agree: the process must end and start again from the disk.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self.durable = durable
        self._db = connect(directory / FILE, durable=durable)
        self._begun = False
        self._wrote = False
        self.commits = 0
        #: What this turn has changed.
        self._fresh = Changes()
        #: What the log has and the database has not.
        self._logged = Changes()
        self._changed: dict[Counted, None] = {}
        self._postponed: list[tuple[int, float, float, int, int, int]] = []
        self._deaths: list[tuple[int, int]] = []
        self.reusable = 0
        """Bytes of the file that held nothing any more at the last commit: it does not shrink."""
        try:
            self._log = RedoLog(directory / LOG, durable=durable)
            try:
                self._recover()
            except BaseException:
                self._log.close()
                raise
            self.last = self._last_seq()
            """The seq of the newest message that is committed."""
            self.messages = Messages(self, self._logged, self._fresh)
            self.dead_letters = DeadLetters(self)
            self.channels = Channels(self)
        except BaseException:
            self._db.close()
            raise

    def __repr__(self) -> str:
        return f"<Journal commits={self.commits} {'open' if self.pending else 'clean'}>"

    @property
    def pending(self) -> bool:
        """Whether there is anything to commit."""
        fresh = self._fresh
        return self._begun or bool(
            fresh.inserts
            or fresh.deletes
            or fresh.leases
            or self._postponed
            or self._deaths
            or self._changed
        )

    def _recover(self) -> None:
        """Bring into the database what a former life left in the log, and begin it anew."""
        salt = self.meta("log")
        for record in self._log.read(salt) if salt else ():
            self._logged.redo(record)
        # The transaction stays open: the first commit is a checkpoint, which gives the log a salt.
        self._logged.write_states(self.writer())

    def _last_seq(self) -> int:
        seq = self.meta("seq")
        if seq > LAST_SEQ:
            raise ValueError(f"message {seq} is more than a journal can hold")
        return seq

    # -- the transaction

    @property
    def urgent(self) -> bool:
        """Whether something must be committed now: anything but a few removals."""
        fresh = self._fresh
        return (
            self._wrote
            or bool(fresh.inserts or fresh.leases or self._postponed or self._deaths)
            or len(fresh.deletes) >= _MOST_REMOVALS
        )

    def commit(self) -> bool:
        """Make everything collected durable; return whether that took a checkpoint."""
        if not self.pending:
            return False
        self._take_counts()
        last = self._fresh.last
        appended = self.appends and self._log.append(self._fresh.record())
        if appended:
            self._logged.absorb(self._fresh)
        else:
            self.checkpoint()
        self.commits += 1
        self.last = max(self.last, last)
        return not appended

    def _take_counts(self) -> None:
        for row in (queue.counts() for queue in self._changed):
            self._fresh.counts[row[-1]] = row
        self._changed.clear()

    @property
    def appends(self) -> bool:
        """Whether the next commit goes into the log, if there is room; otherwise a checkpoint."""
        return not (
            self._begun
            or self._postponed
            or self._deaths
            or len(self._logged) + len(self._fresh) > _MOST_LOGGED
            or len(self._logged.deletes) + len(self._fresh.deletes) > _MOST_LOGGED_REMOVALS
        )

    def checkpoint(self) -> None:
        """Make everything durable in the database, and begin the log anew."""
        self._take_counts()
        db = self.writer()
        self._logged.write_states(db)
        salt = None
        if not self._log.is_new:
            salt = secrets.randbits(61) + 1
            self.set_meta("log", salt)
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        db.execute("COMMIT")
        if salt is not None:
            self._log.restart(salt)
        self.reusable = free * PAGE
        self._begun = self._wrote = False

    def close(self) -> None:
        """Close the files; what was not committed is forgotten."""
        self._log.close()
        self._db.close()

    def _begin(self) -> sqlite3.Connection:
        if not self._begun:
            self._db.execute("BEGIN IMMEDIATE")
            self._begun = True
        return self._db

    def writer(self) -> sqlite3.Connection:
        """Return the connection as `reader` does, and let the commit come soon."""
        self._wrote = True
        return self.reader()

    def reader(self) -> sqlite3.Connection:
        """Return the connection, in this turn's transaction, with everything collected written.

        But for the counts of queues and the locks: only a commit writes them.
        """
        db = self._begin()
        if self._fresh.leases:
            self._wrote = True
        # First what went before this turn: what comes takes its room in the file.
        self._logged.write_deletes(db)
        self._logged.absorb(self._fresh)
        # Then what came: nothing else in a turn refers to later ones.
        if self._logged.ids:
            self._wrote = True
            self._logged.write_inserts(db)
        if self._postponed:
            self._wrote = True
            rows.break_up(db, [place for *_, place in self._postponed])
            db.executemany(
                "UPDATE message SET place=?, due=?, delay=?, attempts=?, deaths=? WHERE place=?",
                self._postponed,
            )
            self._postponed.clear()
        if self._deaths:
            self._wrote = True
            rows.break_up(db, [place for _, place in self._deaths])
            db.executemany("UPDATE message SET deaths=? WHERE place=?", self._deaths)
            self._deaths.clear()
        self._logged.write_deletes(db)
        return db

    def viewer(self) -> sqlite3.Connection:
        """Return the connection for looking at messages, without writing what came and went.

        What was changed of a message that stays is written.
        """
        return self.reader() if self._postponed or self._deaths else self._db

    # -- messages

    def insert(
        self,
        channel: int,
        name: str,
        messages: Sequence[Message],
        due: float | None,
        delay: float | None,
        wall: float,
    ) -> None:
        """Add *messages*, one at least, to *channel*, whose name is *name*, published at *wall*."""
        fresh, last = self._fresh, messages[-1].seq
        if last > LAST_SEQ:
            raise sqlite3.DataError(f"message {last} is more than a journal can hold")
        inserts, ids = fresh.inserts, fresh.ids.setdefault(name, [])
        before = place_of(channel, 0, timed=due is not None)
        for seq, id_, body, attempts, deaths, published_at, _ in messages:
            place = before | seq
            inserts[place] = (
                place, id_, due, delay, attempts, deaths, published_at,
                checksum(seq, id_.encode(), body), body,
            )  # fmt: skip
            ids.append(id_)
        fresh.published_at = wall
        fresh.last = last

    def delete(self, places: Iterable[int]) -> None:
        """Remove messages that are done."""
        self._fresh.delete(places)

    def postpone(
        self, place: int, to: int, due: float, delay: float, attempts: int, deaths: int
    ) -> None:
        """Change when a message is due, and with that its place; and how often it failed."""
        self._postponed.append((to, due, delay, attempts, deaths, place))

    def set_deaths(self, place: int, deaths: int) -> None:
        """Change how many deliveries in a row ended by their consumer's death."""
        self._deaths.append((deaths, place))

    def count(self, queue: Counted) -> None:
        """Keep the counts of *queue* with the next commit."""
        self._changed[queue] = None

    # -- locks

    def keep_lease(self, lease: LeaseRow) -> None:
        """Let a lock be held; its token, if it is a new one, is the last that was given out."""
        name, token, *_ = lease
        self._fresh.leases[name] = lease
        self._fresh.token = max(self._fresh.token, token)

    def drop_lease(self, name: str) -> None:
        """Let a lock be free."""
        self._fresh.leases[name] = None

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
        return self.writer().execute(statement, parameters)

    def peek(self, statement: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a query on what is written already; leaves nothing to commit."""
        return self._db.execute(statement, parameters)
