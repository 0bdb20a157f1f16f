"""The journal: what damage, full disks and foreign files do to it."""

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from corekit_zeromq.broker import exits
from corekit_zeromq.broker.data_directory import DataDirectory, HighWater
from corekit_zeromq.broker.engine import Engine
from corekit_zeromq.broker.exits import BrokerRefused
from corekit_zeromq.broker.journal import FILE, LOG, Journal
from corekit_zeromq.broker.redo_log import CAPACITY
from corekit_zeromq.broker.schema import VERSION
from corekit_zeromq.protocol import Op, Reply

from .logs import log_end
from .peer import Bench


def contents(directory: Path) -> list[str]:
    """Return the ids of the messages that a new start finds, by handing them out."""
    bench = Bench(directory)
    bench.wait(bench.limits.reclaim)
    peer = bench.peer()
    delivered = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 10_000])
    bench.journal.close()
    return [one[1] for command in delivered for one in command[2]]


def filled(directory: Path, count: int) -> list[int]:
    """Publish *count* messages, each in a commit of its own; return where each ends in the log."""
    bench = Bench(directory)
    peer = bench.peer()
    ends = []
    for n in range(count):
        peer.publish(f"m{n}", b"body %d" % n * 10)
        ends.append(log_end((directory / LOG).read_bytes()))
    # As after SIGKILL: the files are copied while they are open.
    shutil.copytree(directory, directory.with_name("crashed"))
    bench.journal.close()
    return ends


def test_settings_are_those_that_were_asked_for(tmp_path: Path) -> None:
    """A commit is flushed, one process has the file, and the file says whose it is."""
    journal = Journal(tmp_path)
    read = {
        name: journal.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "journal_mode", "locking_mode", "application_id")
    }
    assert read == {
        "synchronous": 2,
        "journal_mode": "wal",
        "locking_mode": "exclusive",
        "application_id": 0x636B7A71,
    }
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    journal.close()


def test_a_checkpoint_keeps_the_counts(tmp_path: Path) -> None:
    """How the queues are left goes with what was done to them, also without a commit before."""
    bench = Bench(tmp_path)
    bench.peer().publish("m0")
    queue = bench.engine.queues.queue("q")
    assert queue is not None
    queue.dead = 7
    bench.journal.count(queue)
    bench.journal.checkpoint()
    bench.journal.close()
    journal = Journal(tmp_path)
    assert [row.dead for row in journal.channels.rows()] == [7]
    journal.close()


def test_a_log_cut_anywhere_loses_its_end_only(tmp_path: Path) -> None:
    """Whatever length of the log survived: exactly the commits that fit into it are there."""
    directory = tmp_path / "live"
    directory.mkdir()
    ends = filled(directory, 12)
    assert ends == sorted(set(ends))
    log = (tmp_path / "crashed" / LOG).read_bytes()
    for length in range(0, ends[-1] + 20, 17):
        cut = tmp_path / "cut"
        shutil.rmtree(cut, ignore_errors=True)
        shutil.copytree(tmp_path / "crashed", cut)
        (cut / LOG).write_bytes(log[:length])
        # The first one had the queue to be made, and is in the database.
        whole = 1 + sum(end <= length for end in ends[1:])
        assert contents(cut) == [f"m{n}" for n in range(whole)]


def test_the_log_goes_with_its_database_only(tmp_path: Path) -> None:
    """A log that was left behind by another journal, or an older state, adds nothing."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        bench = Bench(tmp_path / name)
        peer = bench.peer()
        for n in range(3):
            peer.publish(f"{name}{n}")
        bench.journal.close()
    shutil.copy(tmp_path / "one" / LOG, tmp_path / "other" / LOG)
    assert contents(tmp_path / "other") == ["other0"]
    shutil.copy(tmp_path / "one" / LOG, tmp_path / LOG)
    assert contents(tmp_path) == []


def test_a_checkpoint_leaves_everything_in_the_database(tmp_path: Path) -> None:
    """After it the database alone has what was committed, and the log begins anew."""
    bench = Bench(tmp_path)
    peer = bench.peer()
    for n in range(3):
        peer.publish(f"m{n}")
    bench.journal.checkpoint()
    bench.journal.close()
    (tmp_path / LOG).unlink()
    assert contents(tmp_path) == ["m0", "m1", "m2"]


def test_what_came_and_went_never_reaches_the_database(tmp_path: Path) -> None:
    """Nor does it wear it out: whatever passes through, the database file stays as it is."""
    bench = Bench(tmp_path)
    peer = bench.peer()
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1000])
    bench.journal.checkpoint()
    before = (tmp_path / f"{FILE}-wal").read_bytes()
    for n in range(100):
        peer.inbox.clear()
        peer.publish(f"m{n}", b"x" * 1000)
        tokens = [one[0] for command in peer.inbox if command[0] == Reply.DELIVERIES
                  for one in command[2]]  # fmt: skip
        assert len(tokens) == 1
        peer.send([Op.ACK, 1, tokens])
    assert (tmp_path / f"{FILE}-wal").read_bytes() == before
    assert bench.engine.queues.stats(bench.now, "q") == (0, 0, 0, 0)
    bench.crash()
    assert bench.engine.queues.stats(bench.now, "q") == (0, 0, 0, 0)
    assert bench.on_disk() == 0
    bench.journal.close()


def test_the_log_is_bounded(tmp_path: Path) -> None:
    """By bytes, and by messages: beyond that the database takes over, and nothing is lost."""
    bench = Bench(tmp_path)
    peer = bench.peer()
    peer.publish("first")
    for n in range(40):
        peer.publish(f"large{n}", b"x" * 300_000)
    assert (tmp_path / LOG).stat().st_size <= CAPACITY
    for n in range(5):
        peer.send([Op.QUEUE_PUBLISH, 1, "q", [[f"m{n}-{k}", b""] for k in range(1000)]])
    assert bench.on_disk() == 5041
    bench.crash()
    assert bench.engine.queues.stats(bench.now, "q") == (5041, 0, 0, 0)
    bench.journal.close()


@pytest.mark.parametrize("count", [7, 20], ids=["alone", "in a block"])
def test_a_flipped_bit_is_never_delivered(tmp_path: Path, count: int) -> None:
    """A damaged message becomes a dead letter; the others are delivered as they were."""
    bench = Bench(tmp_path)
    peer = bench.peer()
    for n in range(count):
        peer.publish(f"m{n}", b"body %02d " % n * 40)
    bench.journal.checkpoint()
    bench.journal.close()
    file = tmp_path / FILE
    # Also in pages that are no longer in use, whose contents stay.
    body = b"body 05 " * 40
    flipped = bytearray(body)
    flipped[60] ^= 4
    file.write_bytes(file.read_bytes().replace(body, flipped))
    bench = Bench(tmp_path)
    bench.wait(bench.limits.reclaim)
    peer = bench.peer()
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 100])
    assert [one[1] for one in delivered[2]] == [f"m{n}" for n in range(count) if n != 5]
    ((_, _, letters),) = peer.send([Op.DEAD_LETTERS, 1, "q", 10])
    assert [(one[0], one[2]) for one in letters] == [("m5", "the message was damaged on disk")]
    assert letters[0][1] == flipped
    assert peer.send([Op.QUEUE_STATS, 1, "q"]) == [[Reply.OK, 1, [0, 0, count - 1, 1]]]
    (refused,) = peer.send([Op.REQUEUE, 2, "q", "m5"])
    assert refused[0] == Reply.FAIL
    peer.send([Op.ACK, 1, [one[0] for one in delivered[2]]])
    queue = bench.engine.queues.queue("q")
    assert queue is not None
    assert (queue.messages, queue.bytes, bench.on_disk()) == (0, 0, 0)
    bench.journal.close()


#: What sqlite puts before the first message of a queue: the types of its cells, from the id on.
TYPES = bytes([13 + 2 * len("message-a"), 0, 0, 8, 8, 7])


def flipped(bench: Bench, before: bytes, place: int, bit: int) -> Bench:
    """Let a bit in the file turn over, *place* bytes behind *before*, and start again."""
    bench.journal.checkpoint()
    bench.journal.close()
    path = bench.directory / FILE
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    data = bytearray(path.read_bytes())
    assert data.count(before) >= 1
    data[data.index(before) + place] ^= 1 << bit
    path.write_bytes(data)
    bench = Bench(bench.directory)
    bench.wait(bench.limits.reclaim)
    return bench


def test_a_type_that_leaves_the_bytes_is_no_damage(tmp_path: Path) -> None:
    """An id that the database takes for a blob is the same id, and its message is whole."""
    bench = Bench(tmp_path)
    bench.wall += 0.123
    peer = bench.peer()
    peer.publish("message-a", b"x" * 100)
    bench = flipped(bench, TYPES, 0, 0)
    peer = bench.peer()
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 9])
    ((token, id_, body, *_),) = delivered[2]
    assert (id_, body) == ("message-a", b"x" * 100)
    peer.send([Op.BURY, 1, token, "error"])
    ((_, _, ((buried, *_),)),) = peer.send([Op.DEAD_LETTERS, 1, "q", 10])
    assert buried == "message-a"
    assert peer.send([Op.REQUEUE, 2, "q", "message-a"])[0][:2] == [Reply.OK, 2]
    bench.journal.close()


@pytest.mark.parametrize(
    ("before", "place", "bit"),
    [
        pytest.param(b"message-a", 2, 7, id="no text any more"),
        pytest.param(TYPES, 3, 3, id="attempts: null"),
        pytest.param(TYPES, 3, 2, id="attempts: a blob"),
        pytest.param(TYPES, 4, 3, id="deaths: null"),
    ],
)
def test_a_flipped_bit_stops_nothing(tmp_path: Path, before: bytes, place: int, bit: int) -> None:
    """Whatever a cell has become, its message is a dead letter that can be asked for."""
    bench = Bench(tmp_path)
    bench.wall += 0.123
    peer = bench.peer()
    peer.publish("message-a", b"x" * 100)
    peer.publish("b", b"y")
    bench = flipped(bench, before, place, bit)
    peer = bench.peer()
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 9])
    assert [one[1] for one in delivered[2]] == ["b"]
    ((_, _, letters),) = peer.send([Op.DEAD_LETTERS, 1, "q", 10])
    assert [[*map(type, letter)] for letter in letters] == [[str, bytes, str, int, float]]
    peer.send([Op.ACK, 1, [delivered[2][0][0]]])
    assert bench.engine.queues.stats(bench.now, "q") == (0, 0, 0, 1)
    queue = bench.engine.queues.queue("q")
    assert queue is not None
    assert queue.bytes == 0
    bench.journal.close()


def test_what_is_damaged_while_it_is_held_is_counted_once(tmp_path: Path) -> None:
    """Whoever claims a message has it whole: it is done, not dead, when the row is read at last."""
    bench = Bench(tmp_path)
    peer = bench.peer()
    for n in range(3):
        peer.publish(f"m{n}")
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 3])
    token = delivered[2][1][0]
    bench.journal.execute("UPDATE message SET body=x'00' WHERE id='m1'")
    bench.journal.commit()
    bench.crash()
    peer.hello(b"again")
    ((_, _, (token,)),) = peer.send([Op.CONSUME, 1, "q"], [Op.CLAIM, 5, 1, [token]])
    assert token is not None
    (delivered,) = peer.send([Op.CREDIT, 1, 9])
    assert [one[1] for one in delivered[2]] == ["m0", "m2"]
    stats = bench.engine.queues.stats
    assert stats(bench.now, "q") == (0, 0, 3, 0)
    peer.send([Op.ACK, 1, [token, *(one[0] for one in delivered[2])]])
    assert stats(bench.now, "q") == (0, 0, 0, 0)


def foreign(path: Path, kind: str) -> None:
    """Write a file to *path* that is no journal of ours."""
    if kind == "text":
        path.write_text("not a database\n" * 20)
    elif kind == "short":
        path.write_bytes(b"SQLite format 3\0")
    else:
        with sqlite3.connect(path) as db:
            marks = {"foreign": 77, "unmarked": 0, "newer": 0x636B7A71}
            db.execute(f"PRAGMA application_id={marks[kind]}")
            db.execute(f"PRAGMA user_version={VERSION + 1}")
            db.execute("CREATE TABLE mine (x)")
        db.close()


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text", exits.CORRUPT),
        ("short", exits.CORRUPT),
        ("foreign", exits.CORRUPT),
        ("unmarked", exits.CORRUPT),
        ("newer", exits.CONFIGURATION),
    ],
)
def test_what_is_not_ours_is_left_alone(tmp_path: Path, kind: str, status: int) -> None:
    """A foreign, damaged or newer file is refused with the fitting code, and not changed."""
    file = tmp_path / FILE
    foreign(file, kind)
    before = file.read_bytes()
    with pytest.raises(BrokerRefused) as raised:
        Journal(tmp_path)
    assert raised.value.status == status
    assert str(file) in str(raised.value)
    assert file.read_bytes() == before


def test_a_creation_that_was_cut_short_is_repeated(tmp_path: Path) -> None:
    """An empty file is what a start leaves that died at once."""
    (tmp_path / FILE).touch()
    Journal(tmp_path).close()
    Journal(tmp_path).close()


def test_one_broker_per_directory(tmp_path: Path) -> None:
    """The second one is told who has it, by whatever name it comes."""
    first = DataDirectory(tmp_path / "data")
    first.open()
    other_name = tmp_path / "link"
    other_name.symlink_to(tmp_path / "data")
    with pytest.raises(BrokerRefused, match=f"process {os.getpid()}") as raised:
        DataDirectory(other_name).open()
    assert raised.value.status == exits.IN_USE
    first.close()
    again = DataDirectory(tmp_path / "data")
    again.open()
    again.close()


def test_directories_that_do_not_do(tmp_path: Path) -> None:
    """A missing parent, a file, and a directory that others may write to are refused."""
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name, status in (
        ("missing/data", exits.CANNOT_CREATE),
        ("file", exits.CANNOT_CREATE),
        ("open", exits.CONFIGURATION),
    ):
        with pytest.raises(BrokerRefused) as raised:
            DataDirectory(tmp_path / name).open()
        assert raised.value.status == status


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    """Nobody else can read the journal."""
    directory = DataDirectory(tmp_path / "data")
    directory.open()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    directory.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_full_disk_takes_acks(tmp_path: Path) -> None:
    """Below the reserve publishes are refused; everything that waits can still be delivered."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode()}")
    try:
        directory = DataDirectory(disk / "data")
        directory.open()
        bench = Bench(directory.path, free_space=40 << 20)
        peer = bench.peer()
        count = 0
        while True:
            full = directory.free_space() < bench.limits.free_space
            bench.engine.queues.storage_full = full
            answer = peer.publish(f"m{count}", b"x" * 10_000)
            if full:
                break
            count += 1
        assert answer[0] == "storage_full"
        assert count > 500
        peer.send([Op.CONSUME, 1, "q"])
        done = 0
        while done < count:
            for _, _, batch in peer.send([Op.CREDIT, 1, 100]):
                peer.send([Op.ACK, 1, [one[0] for one in batch]])
                done += len(batch)
        assert bench.engine.queues.stats(bench.now, "q") == (0, 0, 0, 0)
        bench.wait(1)
        # The file has not shrunk, and takes as much again.
        assert bench.journal.reusable > 0.9 * count * 10_000
        bench.journal.close()
        directory.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_dedup_ids_outlive_the_broker(bench: Bench) -> None:
    """Also those that are the id of an earlier message; after the window they are forgotten."""
    peer = bench.peer()
    assert peer.publish("one", dedup="key") == "one"
    bench.crash()
    peer = bench.peer()
    assert peer.publish("two", dedup="key") == "one"
    assert peer.publish("three", dedup="one") == "one"
    elsewhere = [Op.QUEUE_PUBLISH, 1, "other", [["two", b"", 0, "key"]]]
    assert peer.send(elsewhere) == [[Reply.OK, 1, None]]
    # The message ends; the id is known for two minutes from its publishing.
    bench.wait(bench.limits.reclaim)
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 9])
    peer.send([Op.ACK, 1, [one[0] for one in delivered[2]]])
    for _ in range(30):
        bench.wait(3)
        peer.raw(b"\x93\x00\x00\x90")
    assert peer.publish("four", dedup="key") == "one"
    for _ in range(20):
        bench.wait(3)
        peer.raw(b"\x93\x00\x00\x90")
    assert peer.publish("five", dedup="key") == "five"
    assert bench.journal.execute("SELECT count(*) FROM recent").fetchone()[0] <= 2


def test_a_repeated_publish_is_recognised_after_a_restart(bench: Bench) -> None:
    """A client whose answer was lost with the broker publishes again: one message."""
    peer = bench.peer()
    peer.publish("one")
    bench.crash()
    peer.hello(b"again")
    assert peer.welcome[5] is False
    assert peer.publish("one") == "one"
    assert bench.engine.queues.stats(bench.now, "q") == (1, 0, 0, 0)


def test_delays_outlive_the_broker_and_a_clock_set_back(bench: Bench, tmp_path: Path) -> None:
    """What is left of a delay is at most the whole delay, whatever the clock says after a start."""
    bench.peer().publish("later", delay=10)
    mark = HighWater(1, bench.wall)
    bench.wall -= 7200
    bench.journal.close()
    bench.journal = Journal(tmp_path)
    bench.engine = Engine(
        bench.journal, bench.limits, bench.random, now=bench.now, wall=bench.wall, high_water=mark
    )
    peer = bench.peer()
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    bench.wait(9.9)
    assert not peer.inbox
    peer.raw(b"\x93\x00\x00\x90")
    bench.wait(0.1)
    assert peer.inbox[0][0] == Reply.DELIVERIES


def test_the_clock_may_jump_while_the_broker_runs(bench: Bench) -> None:
    """Delays go by the time that passes."""
    peer = bench.peer()
    peer.publish("later", delay=10)
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    peer.inbox.clear()
    bench.wall += 3600
    bench.wait(9.5)
    assert not peer.inbox
    peer.raw(b"\x93\x00\x00\x90")
    bench.wall -= 7200
    bench.wait(0.5)
    assert peer.inbox[0][0] == Reply.DELIVERIES


def test_what_is_in_flight_outlives_a_purge(bench: Bench) -> None:
    """With a delay or without: it comes again after a release, and a crash, until it is done."""
    peer = bench.peer()
    peer.publish("now")
    peer.publish("later", delay=1)
    bench.wait(1)
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 2])
    assert peer.send([Op.PURGE, 1, "q"]) == [[Reply.OK, 1, 0]]
    for one in delivered[2]:
        peer.send([Op.RELEASE, 1, one[0], True])
    (again,) = peer.send([Op.CREDIT, 1, 2])
    assert [(one[1], one[4]) for one in again[2]] == [("now", 1), ("later", 1)]
    bench.crash()
    bench.wait(bench.limits.reclaim)
    peer = bench.peer()
    (again,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 2])
    assert sorted((one[1], one[4]) for one in again[2]) == [("later", 1), ("now", 1)]
    peer.send([Op.ACK, 1, [one[0] for one in again[2]]])
    bench.wait(1)
    assert bench.on_disk() == 0
