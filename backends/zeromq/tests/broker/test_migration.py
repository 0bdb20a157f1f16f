"""Journals of older formats: they open, and everything in them is there."""

import sqlite3
from pathlib import Path

import msgpack
import pytest
from corekit_zeromq.broker import channels, exits, rows, schema
from corekit_zeromq.broker.exits import BrokerRefused
from corekit_zeromq.broker.journal import FILE, LOG, Journal
from corekit_zeromq.broker.records import LAST_CHANNEL, checksum, place_of
from corekit_zeromq.broker.redo_log import RedoLog
from corekit_zeromq.protocol import Op, Reply

from corekit.errors import BackendRefused

from .peer import WALL, Bench, drained

#: What the first release created.
FORMAT_1 = """
PRAGMA journal_mode=wal;
BEGIN;
PRAGMA application_id=0x636B7A71;
PRAGMA user_version=1;
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE channel (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE,
    messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
    timed INTEGER NOT NULL, dead INTEGER NOT NULL
);
CREATE TABLE message (
    seq INTEGER PRIMARY KEY, channel INTEGER NOT NULL, id TEXT NOT NULL,
    due REAL, delay REAL, attempts INTEGER NOT NULL, deaths INTEGER NOT NULL,
    published_at REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX message_order ON message (channel, due, seq);
CREATE TABLE dead (
    seq INTEGER PRIMARY KEY, channel INTEGER NOT NULL, id TEXT NOT NULL,
    attempts INTEGER NOT NULL, error TEXT NOT NULL, died_at REAL NOT NULL,
    published_at REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX dead_id ON dead (channel, id);
CREATE TABLE dedup (
    channel TEXT NOT NULL, dedup_id TEXT NOT NULL, id TEXT NOT NULL,
    seq INTEGER NOT NULL, until REAL NOT NULL, PRIMARY KEY (channel, dedup_id)
) WITHOUT ROWID;
CREATE INDEX dedup_until ON dedup (until);
CREATE TABLE recent (number INTEGER PRIMARY KEY, at REAL NOT NULL, ids BLOB NOT NULL);
CREATE TABLE lease (
    name TEXT PRIMARY KEY, token INTEGER NOT NULL, owner BLOB NOT NULL,
    ttl REAL NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE session (id BLOB PRIMARY KEY, secret BLOB NOT NULL) WITHOUT ROWID;
COMMIT;
"""

#: Numbers of queues: the last one is more than the present format has.
Q, OTHER, PURGED = 2, 7, LAST_CHANNEL + 10


def old_journal(path: Path, *, count: int = 50) -> None:
    """Write a journal of the first format: two queues whose messages alternate, and a purged one.

    Of "q", every fifth message has a delay, or had one before an attempt that failed; two are dead.
    """
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(FORMAT_1)
    db.execute("BEGIN")
    queued = {Q: 0, OTHER: 0, PURGED: 0}
    timed = 0
    for seq in range(1, 3 * count + 1):
        channel = (Q, OTHER, PURGED)[seq % 3]
        id_, body = f"m{seq}", b"body %d" % seq
        row = (seq, channel, id_, 0, 0, WALL, checksum(seq, id_.encode(), body), body)
        if channel == Q and seq % 5 == 0:
            timed += 1
            due = WALL + 100 - seq / 10
            db.execute("INSERT INTO message VALUES (?1,?2,?3,?9,30.0,2,?5,?6,?7,?8)", (*row, due))
        else:
            db.execute("INSERT INTO message VALUES (?1,?2,?3,NULL,NULL,?4,?5,?6,?7,?8)", row)
        queued[channel] += 1
    for seq in (1000, 1001):
        id_, body = f"m{seq}", b"dead"
        crc = checksum(seq, id_.encode(), body)
        db.execute(
            "INSERT INTO dead VALUES (?,?,?,3,'error',?,?,?,?)",
            (seq, Q, id_, WALL, WALL, crc, body),
        )
    for channel, name in ((Q, "q"), (OTHER, "other"), (PURGED, None)):
        (size,) = db.execute(
            "SELECT sum(length(body)) FROM message WHERE channel=?", (channel,)
        ).fetchone()
        counts = (
            (queued[channel], size, timed, 2) if channel == Q else (queued[channel], size, 0, 0)
        )
        db.execute("INSERT INTO channel VALUES (?,?,?,?,?,?)", (channel, name, *counts))
    db.execute("INSERT INTO meta VALUES ('seq', 1001)")
    db.execute("INSERT INTO dedup VALUES ('q', 'key', 'm3', 3, ?)", (WALL - 5,))
    db.execute("INSERT INTO dedup VALUES ('q', 'gone', 'm999', 999, ?)", (WALL - 5,))
    db.execute("COMMIT")
    db.close()


def test_everything_in_an_old_journal_is_delivered(tmp_path: Path) -> None:
    """Each queue's messages in their order, delayed ones when they are due, and once only."""
    old_journal(tmp_path / FILE)
    bench = Bench(tmp_path)
    bench.wait(bench.limits.reclaim)
    peer = bench.peer()
    delayed = [seq for seq in range(3, 151, 3) if seq % 5 == 0]
    assert peer.send([Op.QUEUE_STATS, 1, "q"]) == [[Reply.OK, 1, [40, len(delayed), 0, 2]]]
    at_once = [seq for seq in range(3, 151, 3) if seq % 5]
    assert drained(peer, 1, "q") == [(f"m{seq}", b"body %d" % seq, 1) for seq in at_once]
    others = range(1, 151, 3)
    assert drained(peer, 2, "other") == [(f"m{seq}", b"body %d" % seq, 1) for seq in others]
    peer.inbox.clear()
    for _ in range(80):
        bench.wait(1.4)
        peer.raw(b"\x93\x00\x00\x90")
    late = [one for command in peer.inbox for one in command[2]]
    assert [(one[1], one[3]) for one in late] == [(f"m{seq}", 3) for seq in reversed(delayed)]
    peer.send([Op.ACK, 1, [one[0] for one in late]])
    assert peer.send([Op.QUEUE_STATS, 1, "q"]) == [[Reply.OK, 1, [0, 0, 0, 2]]]
    ((_, _, letters),) = peer.send([Op.DEAD_LETTERS, 1, "q", 10])
    assert [one[0] for one in letters] == ["m1000", "m1001"]
    assert bench.journal.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    # What was purged before is removed with time.
    assert bench.on_disk() == 0
    bench.journal.close()


def test_an_old_journal_goes_on(tmp_path: Path) -> None:
    """New messages stand behind the old ones; dead letters are requeued; dedup ids are known."""
    old_journal(tmp_path / FILE)
    bench = Bench(tmp_path)
    bench.wait(bench.limits.reclaim)
    peer = bench.peer()
    # Its message waits, so its id is still known; that of the other one has ended.
    assert peer.publish("again", dedup="key") == "m3"
    assert peer.publish("new", dedup="gone") == "new"
    assert peer.send([Op.REQUEUE, 1, "q", "m1001"]) == [[Reply.OK, 1, None]]
    bench.crash()
    bench.wait(bench.limits.reclaim)
    got = [one[0] for one in drained(bench.peer(), 1, "q")]
    assert got[:2] == ["m3", "m6"]
    assert got[-2:] == ["new", "m1001"]
    bench.journal.close()


def test_a_journal_without_a_log_goes_on(tmp_path: Path) -> None:
    """Format 2 had none: what it holds stays, and older releases refuse it from then on."""
    bench = Bench(tmp_path)
    bench.peer().publish("old")
    bench.journal.checkpoint()
    bench.journal.close()
    (tmp_path / LOG).unlink()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("DELETE FROM meta WHERE key='log'")
        db.execute("DROP TABLE block")
        db.execute("PRAGMA user_version=2")
    db.close()
    bench = Bench(tmp_path)
    bench.peer().publish("new")
    bench.crash()
    bench.wait(bench.limits.reclaim)
    assert [one[0] for one in drained(bench.peer(), 1, "q")] == ["old", "new"]
    (version,) = bench.journal.execute("PRAGMA user_version").fetchone()
    assert version == schema.VERSION
    bench.journal.close()


def test_a_log_of_format_3_is_read(tmp_path: Path) -> None:
    """Its records say nothing of locks; what they do say is there."""
    bench = Bench(tmp_path)
    peer = bench.peer()
    peer.publish("in the database")
    bench.journal.checkpoint()
    salt = bench.journal.meta("log")
    bench.journal.commit()
    peer.publish("in the log")
    bench.journal.close()
    log = RedoLog(tmp_path / LOG, durable=True)
    (record,) = log.read(salt)
    log.restart(salt)
    assert log.append(msgpack.packb(msgpack.unpackb(record)[:6]))
    log.close()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("DROP TABLE block")
        db.execute("PRAGMA user_version=3")
    db.close()
    bench = Bench(tmp_path)
    bench.wait(bench.limits.reclaim)
    assert [one[0] for one in drained(bench.peer(), 1, "q")] == ["in the database", "in the log"]
    (version,) = bench.journal.execute("PRAGMA user_version").fetchone()
    assert version == schema.VERSION
    bench.journal.close()


def test_messages_of_format_4_stay_where_they_are(tmp_path: Path) -> None:
    """They have a row each; what comes later has blocks, and all are delivered in order."""
    bench = Bench(tmp_path)
    peer = bench.peer()
    for n in range(20):
        peer.publish(f"m{n}")
    bench.journal.checkpoint()
    for seq in range(1, 21):
        bench.journal.messages.one(place_of(1, seq, timed=False))
    bench.journal.checkpoint()
    bench.journal.close()
    with sqlite3.connect(tmp_path / FILE) as db:
        assert db.execute("SELECT count(*) FROM message").fetchone() == (20,)
        db.execute("DROP TABLE block")
        db.execute("PRAGMA user_version=4")
    db.close()
    bench = Bench(tmp_path)
    peer = bench.peer()
    for n in range(20, 40):
        peer.publish(f"m{n}")
    bench.journal.checkpoint()
    assert bench.journal.peek("SELECT sum(entries) FROM block").fetchone() == (20,)
    bench.crash()
    bench.wait(bench.limits.reclaim)
    assert [one[0] for one in drained(bench.peer(), 1, "q")] == [f"m{n}" for n in range(40)]
    assert bench.on_disk() == 0
    bench.journal.close()


def dump(path: Path) -> list[str]:
    """Return everything that is in a database."""
    db = sqlite3.connect(path)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return [f"version {version}", *db.iterdump()]
    finally:
        db.close()


def test_an_old_journal_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    """What fails half-way changes nothing."""
    file = tmp_path / FILE
    old_journal(file)
    with sqlite3.connect(file) as db:
        db.execute("DROP INDEX message_order")
    db.close()
    before = dump(file)
    with pytest.raises(BrokerRefused) as raised:
        Journal(tmp_path)
    assert raised.value.status == exits.CORRUPT
    assert dump(file) == before


def test_an_old_journal_with_too_many_queues_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new format has fewer numbers for them: who has more is told what helps."""
    monkeypatch.setattr(schema, "LAST_CHANNEL", 2)
    file = tmp_path / FILE
    old_journal(file)
    before = dump(file)
    with pytest.raises(BrokerRefused, match="queues") as raised:
        Journal(tmp_path)
    assert raised.value.status == exits.CONFIGURATION
    assert dump(file) == before


def test_numbers_of_queues_are_used_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last one come those of queues that are gone; while there are none, no queue."""
    monkeypatch.setattr(channels, "LAST_CHANNEL", 3)
    add = bench.journal.channels.add
    assert [add(name) for name in "abc"] == [1, 2, 3]
    with pytest.raises(BackendRefused):
        add("d")
    with pytest.raises(BackendRefused):
        bench.journal.channels.purge(1, "a", [])
    bench.journal.channels.remove(2)
    assert add("d") == 2
    assert [row.name for row in bench.journal.channels.rows()] == ["a", "d", "c"]


def test_statements_on_the_hot_path_need_no_scan(bench: Bench) -> None:
    """A deep queue is read by its keys, a delayed one by its index, whatever else there is."""
    plans = {}
    for name, statement in {
        "ready": "SELECT body FROM message WHERE place>1 AND place<2 ORDER BY place LIMIT 3",
        "timed": "SELECT due, place, delay FROM message WHERE place>>45=?1 AND due>=?2 "
        "AND (due>?2 OR place>?3) ORDER BY due, place LIMIT ?4",
        "dead": "SELECT body FROM dead WHERE place>>45=? AND id=? ORDER BY place",
        "blocks": rows._BLOCKS_BETWEEN,
        "last extent": rows._LAST_EXTENT,
        "next extent": rows._NEXT_EXTENT,
    }.items():
        parameters = (1,) * {"ready": 0, "timed": 4, "dead": 2, "blocks": 2}.get(name, 1)
        steps = bench.journal.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
        plans[name] = "; ".join(step[3] for step in steps)
    for name in ("ready", "blocks", "last extent", "next extent"):
        assert "USING INTEGER PRIMARY KEY" in plans[name]
    assert "message_due" in plans["timed"]
    assert "dead_id" in plans["dead"]
    assert not any("TEMP B-TREE" in plan or "SCAN" in plan for plan in plans.values()), plans
