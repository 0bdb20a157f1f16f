"""What was changed in the journal and is not in the database yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgpack

from . import rows
from .records import Placed, Row, messages_of

#: How a queue is left: messages, bytes, timed, dead, and the number of its channel.
Counts = tuple[int, int, int, int, int]

#: A lock that is held: name, token, owner, ttl, until (Unix seconds).
LeaseRow = tuple[str, int, bytes, float, float]


class Changes:
    """Messages that came, messages that went, and how that leaves the queues; and the locks.

    A message that came and went is in none of them: the database never hears of it.
    """

    def __init__(self) -> None:
        self.inserts: dict[int, Row] = {}
        """By place."""
        self.deletes: dict[int, None] = {}
        """By place."""
        self.counts: dict[int, Counts] = {}
        """By channel."""
        self.ids: dict[str, list[str]] = {}
        """The ids of all messages that came, by the name of their queue."""
        self.published_at = 0.0
        self.last = 0
        """The seq of the last of them."""
        self.leases: dict[str, LeaseRow | None] = {}
        """How each lock that was changed is left, by its name: None is free."""
        self.token = 0
        """The last fencing token that was given out, 0 for none."""

    def __repr__(self) -> str:
        return (
            f"<Changes inserts={len(self.inserts)} deletes={len(self.deletes)} "
            f"leases={len(self.leases)}>"
        )

    def __len__(self) -> int:
        """Return how many rows the database will have to take in, removals left out."""
        return len(self.inserts) + len(self.leases)

    def clear(self) -> None:
        """Have nothing in it any more."""
        self.inserts.clear()
        self.deletes.clear()
        self.counts.clear()
        self.ids = {}
        self.leases.clear()
        self.token = 0

    def delete(self, places: Iterable[int]) -> None:
        """Let the messages at *places* be gone."""
        inserts, deletes = self.inserts, self.deletes
        for place in places:
            if inserts.pop(place, None) is None:
                deletes[place] = None

    def messages(self, begin: int, end: int) -> list[Placed]:
        """Return place and message of those that came, without delay, between two places."""
        return messages_of(row for place, row in self.inserts.items() if begin < place < end)

    def record(self) -> bytes:
        """Return everything as bytes."""
        record: bytes = msgpack.packb(
            (
                list(self.inserts.values()),
                list(self.deletes),
                list(self.counts.values()),
                self.ids,
                self.published_at,
                self.last,
                self.leases,
                self.token,
            )
        )
        return record

    def redo(self, record: bytes) -> None:
        """Take in what `record` returned; raises ValueError or TypeError if it never did."""
        fields = msgpack.unpackb(record, use_list=False)
        inserts, deletes, counts, ids, published_at, last, *locks = fields
        later = Changes()
        later.inserts = {row[0]: row for row in inserts}
        later.deletes = dict.fromkeys(deletes)
        later.counts = {each[-1]: each for each in counts}
        later.ids = {name: list(of_queue) for name, of_queue in ids.items()}
        later.published_at, later.last = published_at, last
        # Format 3 did not keep them here.
        later.leases, later.token = locks or ({}, 0)
        self.absorb(later)

    def absorb(self, later: Changes) -> None:
        """Take in what *later* has, and leave nothing there."""
        self.delete(later.deletes)
        self.inserts |= later.inserts
        if later.ids:
            self.published_at, self.last = later.published_at, later.last
            for name, ids in later.ids.items():
                self.ids.setdefault(name, []).extend(ids)
        self.counts.update(later.counts)
        self.leases.update(later.leases)
        self.token = max(self.token, later.token)
        later.clear()

    def write_inserts(self, db: sqlite3.Connection) -> None:
        """Write the messages that came, and their ids, to the database."""
        if self.inserts:
            rows.insert(db, self.inserts.values())
            self.inserts.clear()
        if self.ids:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('seq',?)", (self.last,))
            packed = msgpack.packb(self.ids)
            db.execute("INSERT INTO recent (at, ids) VALUES (?,?)", (self.published_at, packed))
            self.ids = {}

    def write_deletes(self, db: sqlite3.Connection) -> None:
        """Remove the messages that went from the database."""
        if self.deletes:
            rows.delete(db, self.deletes)
            self.deletes.clear()

    def write_states(self, db: sqlite3.Connection) -> None:
        """Write how the queues and the locks are left to the database."""
        db.executemany(
            "UPDATE channel SET messages=?, bytes=?, timed=?, dead=? WHERE id=?",
            self.counts.values(),
        )
        self.counts.clear()
        if self.leases:
            held = [row for row in self.leases.values() if row is not None]
            db.executemany("INSERT OR REPLACE INTO lease VALUES (?,?,?,?,?)", held)
            free = [(name,) for name, row in self.leases.items() if row is None]
            db.executemany("DELETE FROM lease WHERE name=?", free)
            self.leases.clear()
        if self.token:
            # A lease that was extended may be an older one.
            db.execute(
                "INSERT INTO meta VALUES ('token',?) "
                "ON CONFLICT (key) DO UPDATE SET value=max(value, excluded.value)",
                (self.token,),
            )
            self.token = 0
