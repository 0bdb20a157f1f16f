"""What is held back until it is due: in memory, on disk, withdrawn, and after a purge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from corekit_zeromq.broker.journal import Journal
from corekit_zeromq.broker.limits import Limits
from corekit_zeromq.broker.records import Message
from corekit_zeromq.broker.schedule import Schedule
from corekit_zeromq.protocol import Op, Reply, encode

from .peer import WALL, Bench, Peer

LIMITS = Limits(window_count=3)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Return a journal that holds the queue 1."""
    journal = Journal(tmp_path)
    assert journal.channels.add("q") == 1
    yield journal
    journal.close()


def keep(journal: Journal, due: float, seq: int) -> None:
    """Put a message into the journal that is due at *due*."""
    message = Message(seq, f"m{seq}", b"", 0, 0, WALL, timed=True)
    journal.insert(1, "q", [message], due, 1.0, WALL)


def filled(journal: Journal, dues: list[float]) -> Schedule:
    """Return a schedule that finds messages with these times, and the seqs 1, 2, ..., on disk."""
    for seq, due in enumerate(dues, 1):
        keep(journal, due, seq)
    return Schedule(1, len(dues), journal, LIMITS)


@pytest.mark.parametrize("seed", range(5))
def test_messages_come_when_they_are_due(journal: Journal, seed: int) -> None:
    """In the order of their time, then of publishing, wherever they wait."""
    random = Random(seed)  # noqa: S311 - no secret
    due_at = {seq: float(random.randrange(20)) for seq in range(1, 101)}
    schedule = filled(journal, [due_at[seq] for seq in range(1, 41)])
    expected = sorted((due, seq) for seq, due in due_at.items() if seq <= 40)
    for seq in range(41, 101):
        # What is taken is as many as one wants, and never what is not due.
        due_at[seq] += seq / 10
        keep(journal, due_at[seq], seq)
        schedule.add(due_at[seq], seq)
        expected = sorted([*expected, (due_at[seq], seq)])
        now = seq / 10
        taken = schedule.take_due(now, 2)
        assert taken == [one for due, one in expected[:2] if due <= now]
        del expected[: len(taken)]
        for one in taken:
            journal.delete([(3 << 44) | one])
        assert schedule.count_later(now) == sum(due > now for due, _ in expected)
    assert schedule.waiting == len(expected)
    assert schedule.next_due() == expected[0][0]
    assert schedule.take_due(1e9, 1000) == [seq for _, seq in expected]
    assert schedule.next_due() is None


def test_few_are_in_memory(journal: Journal) -> None:
    """However many are held back, and whichever way they come in: the rest is read again."""
    schedule = filled(journal, [500.0])
    assert schedule.next_due() == 500.0
    for seq in range(2, 102):
        due = 500.0 - seq if seq % 3 else 500.0 + seq
        keep(journal, due, seq)
        schedule.add(due, seq)
        assert len(schedule._first) <= 4 * LIMITS.window_count
    taken = schedule.take_due(1000.0, 1000)
    earlier = [seq for seq in range(101, 1, -1) if seq % 3]
    assert taken == [*earlier, 1, *range(3, 102, 3)]


def test_what_was_withdrawn_does_not_come(journal: Journal) -> None:
    """From memory or from the disk; it does not count any more, and is remembered as such."""
    schedule = filled(journal, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert schedule.next_due() == 1.0
    assert schedule.withdraw(2.0, 2)
    assert schedule.withdraw(5.0, 5)
    assert not schedule.withdraw(2.0, 2)
    assert schedule.count_later(0.0) == schedule.waiting == 5
    assert schedule.count_later(4.5) == 2
    assert schedule.count_later(5.5) == 2
    assert not schedule.withdraw(5.0, 5)
    assert schedule.take_due(10.0, 10) == [1, 3, 4, 6, 7]
    assert schedule.aside == {2: 2.0, 5: 5.0}
    assert schedule.waiting == 0


def test_what_was_withdrawn_does_not_come_back(journal: Journal) -> None:
    """Also not when so much comes before it that what is behind that is left to the disk again."""
    schedule = filled(journal, [50.0, 60.0, 70.0])
    assert schedule.next_due() == 50.0
    assert schedule.withdraw(60.0, 2)
    count = 4 * LIMITS.window_count
    for seq in range(4, 4 + count):
        keep(journal, 1.0, seq)
        schedule.add(1.0, seq)
    assert schedule._horizon < (60.0, 2)
    assert schedule.count_later(0.0) == schedule.waiting == count + 2
    assert schedule.count_later(65.0) == 1
    assert schedule.take_due(100.0, 100) == [*range(4, 4 + count), 1, 3]
    assert schedule.waiting == 0
    assert schedule.next_due() is None


def test_a_delivery_of_a_former_life_is_done_once(bench: Bench) -> None:
    """Its message waits on disk when it is claimed: it is neither delivered nor counted again.

    When it is done, nothing remembers it.
    """
    peer = bench.peer()
    peer.publish("later", delay=1)
    bench.wait(1)
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    token = delivered[2][0][0]
    bench.crash()
    peer = bench.peer()
    peer.send([Op.CONSUME, 1, "q"])
    queues = bench.engine.queues
    (session,) = bench.engine.sessions
    consumer = session.consumers[1]
    new = queues.claim(consumer, token)
    assert new is not None
    assert queues.stats(bench.now, "q") == (0, 0, 1, 0)
    assert queues.ack(consumer, [new]) == []
    assert queues.stats(bench.now, "q") == (0, 0, 0, 0)
    queue = queues.queue("q")
    assert queue is not None
    assert not queue._schedule.aside


@pytest.mark.parametrize("purged", [False, True])
def test_a_claimed_message_that_is_not_due_again_stays_away(tmp_path: Path, purged: bool) -> None:
    """The clock was set back: what is in flight is due later, and much comes before it."""
    bench = Bench(tmp_path, window_count=2, reclaim=0.0)
    bench.peer().publish("held", delay=60)
    bench.wait(60)
    holder = bench.peer()
    (delivered,) = holder.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    bench.wall -= 30
    bench.crash()
    other = Peer(bench, b"other")
    other.hello()
    # The schedule is read.
    other.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1000])
    bench.turn()
    bench.peers[b"again"], holder.route = holder, b"again"
    holder.hello()
    holder.send([Op.CONSUME, 1, "q"], [Op.CLAIM, 1, 1, [delivered[2][0][0]]])
    assert holder.inbox[-1][2][0] is not None
    if purged:
        other.send([Op.PURGE, 1, "q"])
    other.inbox.clear()
    other.send([Op.QUEUE_PUBLISH, 2, "q", [[f"m{n}", b"", 1.0, None] for n in range(9)]])
    for _ in range(70):
        holder.raw(encode(0, holder.received, ()))
        other.raw(encode(0, other.received, ()))
        bench.wait(1)
        while bench.engine.queues.busy:
            bench.turn()
    batches = [command[2] for command in other.inbox if command[0] == Reply.DELIVERIES]
    assert [one[1] for batch in batches for one in batch] == [f"m{n}" for n in range(9)]
    assert other.send([Op.QUEUE_STATS, 3, "q"]) == [[Reply.OK, 3, [0, 0, 10, 0]]]
    bench.journal.close()


def test_what_is_in_flight_comes_once_after_a_purge(bench: Bench) -> None:
    """Its row is on disk, as those of new messages are: only these are delivered."""
    peer = bench.peer()
    peer.publish("in flight", delay=1)
    bench.wait(1)
    bench.wait(bench.limits.reclaim)
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 9])
    assert [one[1] for one in delivered[2]] == ["in flight"]
    peer.send([Op.PURGE, 1, "q"])
    peer.publish("new", delay=1)
    peer.inbox.clear()
    bench.wait(1)
    assert [one[1] for command in peer.inbox for one in command[2]] == ["new"]


def test_what_is_due_at_once_comes_in_turns(tmp_path: Path) -> None:
    """More than memory has room for is handed out to the end, without anything else happening."""
    bench = Bench(tmp_path, window_count=1)
    peer = bench.peer()
    for n in range(40):
        peer.publish(f"m{n}", delay=1)
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1000])
    bench.wait(2)
    while bench.engine.queues.busy:
        bench.turn()
    batches = [command[2] for command in peer.inbox if command[0] == Reply.DELIVERIES]
    assert [one[1] for batch in batches for one in batch] == [f"m{n}" for n in range(40)]
    bench.journal.close()
