"""Changes that go through the redo log leave the database as if each had been made there."""

import sqlite3
from itertools import chain
from typing import Any

from corekit_zeromq.broker import rows, schema
from corekit_zeromq.broker.changes import Changes
from corekit_zeromq.broker.records import LAST_SEQ, checksum
from hypothesis import given
from hypothesis import strategies as st

#: Turns; each publishes some messages, removes some of those that are there, and takes or frees
#: some locks.
Turn = tuple[int, list[int], dict[str, bool]]
TURNS: st.SearchStrategy[list[Turn]] = st.lists(
    st.tuples(
        # Many are written in blocks.
        st.integers(0, 4) | st.integers(48, 102),
        st.lists(st.integers(0, 30), max_size=4),
        st.dictionaries(st.sampled_from("abc"), st.booleans()),
    ),
    max_size=8,
)


def database() -> sqlite3.Connection:
    """Return an empty database with the journal's tables."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(schema._QUEUES + schema._OTHERS)
    db.execute("INSERT INTO channel VALUES (1, 'q', 0, 0, 0, 0)")
    return db


def content(db: sqlite3.Connection) -> tuple[Any, ...]:
    """Return what is in it: messages, counts, locks, the last seq and token."""
    return (
        list(chain.from_iterable(rows.read(db, 0, LAST_SEQ))),
        db.execute("SELECT * FROM channel").fetchall(),
        db.execute("SELECT * FROM lease").fetchall(),
        db.execute("SELECT * FROM meta").fetchall(),
    )


def write(changes: Changes, db: sqlite3.Connection) -> None:
    """Bring *changes* into the database, in the order of the journal."""
    changes.write_deletes(db)
    changes.write_inserts(db)
    changes.write_states(db)


class Turns:
    """Makes turns, each as one `Changes`."""

    def __init__(self) -> None:
        self.seq = 0
        self.token = 0
        self.there: list[int] = []

    def turn(self, publish: int, remove: list[int], locks: dict[str, bool]) -> Changes:
        changes = Changes()
        for _ in range(publish):
            self.seq += 1
            id_, body = f"m{self.seq}", b"x" * self.seq
            crc = checksum(self.seq, id_.encode(), body)
            changes.inserts[self.seq] = (self.seq, id_, None, None, 0, 0, 1.5, crc, body)
            changes.ids.setdefault("q", []).append(f"m{self.seq}")
            changes.published_at, changes.last = float(self.seq), self.seq
            self.there.append(self.seq)
        for place in remove:
            if self.there:
                changes.delete([self.there.pop(place % len(self.there))])
        changes.counts = {1: (len(self.there), 0, 0, 0, 1)}
        for name, held in locks.items():
            self.token += held
            changes.leases[name] = (name, self.token, b"owner", 1.5, 2.5) if held else None
            changes.token = self.token
        return changes


@given(turns=TURNS)
def test_records_say_everything(turns: list[Turn]) -> None:
    """What is redone from records, in one go, is what each turn would have left by itself."""
    direct, redone = database(), database()
    maker, logged = Turns(), Changes()
    for turn in turns:
        changes = maker.turn(*turn)
        logged.redo(changes.record())
        write(changes, direct)
    write(logged, redone)
    assert content(redone) == content(direct)
    assert [place for place, message in content(direct)[0] if message] == maker.there
    direct.close()
    redone.close()


@given(turns=TURNS)
def test_what_came_and_went_is_in_no_list(turns: list[Turn]) -> None:
    """Absorbed turns hold the messages that are left, no removals of their own, and all ids."""
    maker, logged = Turns(), Changes()
    for turn in turns:
        changes = maker.turn(*turn)
        logged.absorb(changes)
        assert not any(
            (changes.inserts, changes.deletes, changes.counts, changes.ids, changes.leases)
        )
    assert sorted(logged.inserts) == maker.there
    assert not logged.deletes
    assert sum(map(len, logged.ids.values())) == maker.seq
