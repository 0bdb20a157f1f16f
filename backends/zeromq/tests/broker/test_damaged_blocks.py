"""Blocks of messages that are damaged on disk: the broker goes on, and nothing comes twice."""

from pathlib import Path

import pytest
from corekit_zeromq.protocol import Op

from .peer import Bench, Peer, drained

#: One message alone, three blocks, and one alone; beside them, messages with a delay.
BLOCKS = (range(1, 2), range(2, 10), range(10, 40), range(40, 48), range(48, 49))
WRITTEN = {f"m{n}": b"body %02d " % n * 5 for block in BLOCKS for n in block}

#: What is done to the second of the blocks; the messages that it costs at most.
DAMAGES = {
    "last=last|64": 0,
    "last=last&~15": 0,
    "last=first": 0,
    "last='x'": 0,
    "last=first+(1<<45)": 0,
    "entries=entries-1": 0,
    "entries=entries+8": 0,
    "entries=x''": 0,
    "size=0": 0,
    "crc=crc+1": 0,
    "published_at=1e300": 0,
    "first=first+1": 0,
    "first=first-1": 0,
    "messages='gone'": 30,
    "messages=substr(messages,1,700)": 30,
    "messages=x'ff'||substr(messages,2)": 0,
    "messages=substr(messages,1,4)||x'c1'||substr(messages,6)": 0,
    "messages=substr(messages,1,100)||x'00'||substr(messages,102)": 1,
    "entries=entries-1, messages=substr(messages,1,100)||x'00'||substr(messages,102)": 1,
    "entries=entries+5, messages='gone'": 30,
}


def filled(directory: Path) -> Bench:
    """Return a bench whose messages are in the database."""
    bench = Bench(directory)
    peer = bench.peer()
    for block in BLOCKS:
        for n in block:
            peer.publish(f"m{n}", WRITTEN[f"m{n}"])
            if n % 9 == 0:
                peer.publish(f"late{n}", b"late", delay=8)
        bench.journal.checkpoint()
    assert bench.journal.peek("SELECT count(*) FROM block").fetchone() == (3,)
    return bench


def received(peer: Peer, *, leave: str | None = None) -> list[str]:
    """Return the ids of all messages that come, which must be whole; acknowledge all but one."""
    got = drained(peer, 1, "q", leave=leave)
    assert all(body == WRITTEN[id_] for id_, body, _ in got)
    return [id_ for id_, _, _ in got]


def damage(bench: Bench, change: str) -> None:
    """Let *change* happen to the second block, and the broker start again."""
    bench.journal.execute(
        f"UPDATE block SET {change} WHERE first=(SELECT first FROM block LIMIT 1 OFFSET 1)"  # noqa: S608
    )
    bench.journal.checkpoint()
    bench.crash()
    bench.wait(bench.limits.reclaim)


@pytest.mark.parametrize(("change", "cost"), DAMAGES.items(), ids=DAMAGES)
def test_what_is_damaged_costs_itself_only(tmp_path: Path, change: str, cost: int) -> None:
    """Each message comes once or is a dead letter; after a restart nothing comes again."""
    bench = filled(tmp_path)
    damage(bench, change)
    ids = received(bench.peer())
    assert sorted(ids) == sorted(set(ids))
    assert len(WRITTEN) - cost <= len(ids) <= len(WRITTEN)
    bench.crash()
    bench.wait(bench.limits.reclaim)
    peer = bench.peer()
    assert received(peer) == []
    queue = bench.engine.queues.queue("q")
    assert queue is not None
    dead = queue.dead
    assert dead <= cost
    assert (queue.messages, queue.bytes, queue.timed) == (5, 20, 5)
    assert bench.on_disk() == 5
    assert len(bench.engine.queues.dead_letters("q", 1000)) == dead
    bench.journal.close()


@pytest.mark.parametrize("change", DAMAGES)
def test_what_is_not_acknowledged_stays(tmp_path: Path, change: str) -> None:
    """One message of a damaged block is not removed with the others."""
    bench = filled(tmp_path)
    damage(bench, change)
    ids = received(bench.peer(), leave="m20")
    bench.crash()
    bench.wait(bench.limits.reclaim)
    assert received(bench.peer()) == (["m20"] if "m20" in ids else [])
    bench.journal.close()


@pytest.mark.parametrize("change", DAMAGES)
def test_delayed_messages_stay_what_they_are(tmp_path: Path, change: str) -> None:
    """A damaged message becomes no dead letter in the place of another one's."""
    bench = filled(tmp_path)
    damage(bench, change)
    peer = bench.peer()
    received(peer)
    dead = bench.engine.queues.stats(bench.now, "q")[3]
    peer.inbox.clear()
    bench.wait(4)
    peer.raw(b"\x93\x00\x00\x90")
    bench.wait(4)
    late = [one for command in peer.inbox for one in command[2]]
    assert {one[1] for one in late} == {f"late{n}" for n in (9, 18, 27, 36, 45)}
    for one in late:
        peer.send([Op.BURY, 1, one[0], "error"])
    assert bench.engine.queues.stats(bench.now, "q") == (0, 0, 0, dead + 5)
    bench.crash()
    assert len(bench.engine.queues.dead_letters("q", 1000)) == dead + 5
    bench.journal.close()
