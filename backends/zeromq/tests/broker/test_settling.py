"""Settled messages wait for the commit of others; whoever settled them is not told before."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from corekit_zeromq.broker import Broker
from corekit_zeromq.broker.journal import FILE, Journal
from corekit_zeromq.protocol import MAGIC, VERSION, Op, Reply, decode, encode

from corekit.testing import VirtualClock

from ..batches import publish
from .peer import Bench, Dealer, Peer, queue_publish
from .test_server import Running


def delivered(peer: Peer) -> bytes:
    """Let *peer* consume the queue; return the token of the first message."""
    for command in peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 10]):
        if command[0] == Reply.DELIVERIES:
            token: bytes = command[2][0][0]
            return token
    raise AssertionError("nothing was delivered")


def turn_without_commit(bench: Bench, peer: Peer, *commands: Any) -> None:
    """Let the engine take a frame, as in a turn that commits nothing."""
    peer.sent += 1
    bench.engine.now, bench.engine.wall = bench.now, bench.wall
    bench.engine.receive(peer.route, encode(peer.sent, peer.received, commands))
    bench.engine.finish()


def told(bench: Bench, peer: Peer) -> int:
    """Return the last frame of *peer* that the broker tells it to have."""
    session = bench.engine.sessions.by_route.get(peer.route)
    assert session is not None
    return session.told


def test_only_whoever_settled_waits_for_the_commit(bench: Bench) -> None:
    """An ack asks for no commit, and is not confirmed before one; others are told at once."""
    worker, other = bench.peer(), bench.peer()
    worker.publish("a")
    token = delivered(worker)
    turn_without_commit(bench, worker, [Op.ACK, 1, [token]])
    turn_without_commit(bench, other, publish("channel", b"x"))
    assert bench.journal.pending
    assert not bench.journal.urgent
    bench.engine.tell(settled=False)
    assert told(bench, worker) == worker.sent - 1
    assert told(bench, other) == other.sent
    bench.journal.commit()
    bench.engine.tell(settled=True)
    assert told(bench, worker) == worker.sent


def test_a_publish_in_the_same_turn_is_urgent(bench: Bench) -> None:
    """What a publisher waits for is never left for later."""
    worker = bench.peer()
    worker.publish("a")
    token = delivered(worker)
    turn_without_commit(bench, worker, [Op.ACK, 1, [token]], queue_publish("b"))
    assert bench.journal.urgent


def test_many_removals_are_urgent(bench: Bench) -> None:
    """A queue that is only emptied is committed, too, before too much is left to do."""
    for seq in range(1000):
        assert not bench.journal.urgent
        bench.journal.delete([seq])
    assert bench.journal.urgent


def test_an_ack_that_a_crash_loses_can_be_repeated(bench: Bench) -> None:
    """The client, which was not told, claims the delivery in the next life."""
    worker = bench.peer()
    worker.publish("a")
    token = delivered(worker)
    turn_without_commit(bench, worker, [Op.ACK, 1, [token]])
    bench.engine.tell(settled=False)
    bench.crash()
    bench.peers[worker.route] = worker
    worker.hello()
    answers = worker.send([Op.CONSUME, 1, "q"], [Op.CLAIM, 5, 1, [token]])
    new = next(command[2][0] for command in answers if command[:2] == [Reply.OK, 5])
    assert new is not None
    assert not worker.send([Op.ACK, 1, [new]])
    assert worker.send([Op.QUEUE_STATS, 6, "q"])[-1] == [Reply.OK, 6, [0, 0, 0, 0]]


def messages_on_disk(data: Path) -> int:
    """Count the messages that would be found if the broker were killed now."""
    with tempfile.TemporaryDirectory() as copy:
        for file in data.glob(f"{FILE}*"):
            shutil.copy(file, copy)
        with contextlib.closing(Journal(Path(copy))) as journal:
            (count,) = journal.execute("SELECT count(*) FROM message").fetchone()
            return int(count)


async def test_an_ack_alone_waits_a_tick_at_most(clock: VirtualClock, tmp_path: Path) -> None:
    """It is on disk a tenth of a second later, although nobody else has anything to commit."""
    async with Broker(["tcp://127.0.0.1:*"], tmp_path, clock=clock) as broker:
        engine, journal = broker._engine, broker._journal

        def turn(*frames: bytes) -> None:
            engine.now, engine.wall = clock.monotonic(), clock.time()
            for frame in frames:
                engine.receive(b"worker", frame)
            engine.finish()

        await asyncio.sleep(0)
        wanted = [[Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1]]
        turn(
            encode(0, 0, [[Op.HELLO, MAGIC, VERSION, b"", b"", 0, {}]]),
            encode(1, 0, [queue_publish("a"), *wanted]),
        )
        journal.commit()
        (session,) = engine.sessions
        (token,) = session.consumers[1].held
        turn(encode(2, 0, [[Op.ACK, 1, [token]]]))
        assert journal.pending
        assert not journal.urgent
        assert messages_on_disk(tmp_path) == 1
        await asyncio.sleep(0.101)
        assert messages_on_disk(tmp_path) == 0
        assert session.told == 2


def test_settled_messages_are_committed_soon(tmp_path: Path) -> None:
    """Without anything else to commit they are committed all the same, and a heartbeat tells so."""
    broker = Running(tmp_path / "data")
    try:
        with Dealer(broker.address) as dealer:
            dealer.hello()
            dealer.send(queue_publish("a"))
            dealer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
            token = dealer.command(Reply.DELIVERIES)[2][0][0]
            dealer.send([Op.ACK, 1, [token]])
            received = 0
            while received < dealer.sent:
                assert dealer.socket.poll(5_000)
                received = decode(dealer.socket.recv())[1]
                dealer.socket.send(encode(0, dealer.received, []))
    finally:
        broker.close()
