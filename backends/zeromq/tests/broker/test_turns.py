"""Turns: what leaves when, and what the journal's thread has for itself."""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corekit_zeromq.broker.records import place_of
from corekit_zeromq.broker.transport import Arrival
from corekit_zeromq.broker.turns import Turns
from corekit_zeromq.protocol import MAGIC, VERSION, Op, Reply, decode, encode

from corekit.clock import SYSTEM_CLOCK
from corekit.testing import eventually

from ..batches import publish
from .peer import Bench

ROUTES = (b"a", b"b")


class Wire:
    """A transport without connections: frames are put in, and taken out with their time."""

    def __init__(self, bench: Bench) -> None:
        self.addresses: list[str] = []
        self.arrived: deque[tuple[bytes, bytes]] = deque()
        self.urgent: list[list[object]] = []
        """Commands that left while something had to be committed."""
        self.commands: dict[bytes, list[list[object]]] = {route: [] for route in ROUTES}
        self.gone = b""
        """The connection that is found to have gone."""
        self.last_words: tuple[bytes, bytes] | None = None
        """What is seen only then to have come over it."""
        self._bench = bench
        self._due: Callable[[], None] | None = None

    async def open(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def attend(self, due: Callable[[], None]) -> None:
        self._due = due

    def ignore(self) -> None:
        self._due = None

    def readable(self) -> bool:
        return bool(self.arrived)

    def receive(self, count: int, size: int) -> list[Arrival]:
        arrivals: list[Arrival] = [(*each, "") for each in self.arrived]
        self.arrived.clear()
        return arrivals

    def send(self, route: bytes, data: bytes) -> bool | None:
        if route == self.gone:
            if self.last_words is not None:
                self.arrived.append(self.last_words)
                self.last_words = None
            return None
        commands = decode(data)[2]
        self.commands[route] += commands
        if self._bench.journal.urgent:
            self.urgent += commands
        return True

    def tick(self, now: float) -> None:
        raise NotImplementedError

    def bring(self, route: bytes, number: int, *commands: list[object]) -> None:
        """Let a frame arrive; a turn is taken."""
        self.arrived.append((route, encode(number, 0, commands)))
        assert self._due is not None
        self._due()


def failed(error: Exception) -> None:
    """Let the test fail with what a turn failed with."""
    raise AssertionError("a turn failed") from error


async def connected(bench: Bench) -> tuple[Wire, Turns]:
    """Return turns of the bench's engine, and its transport, over which two have said HELLO."""
    wire = Wire(bench)
    turns = Turns(bench.engine, bench.journal, wire, SYSTEM_CLOCK, failed)
    for route in ROUTES:
        wire.bring(route, 0, [Op.HELLO, MAGIC, VERSION, b"", b"", 0, {}])
    return wire, turns


def deep(directory: Path, window_count: int) -> Bench:
    """Return a bench in whose queue 20 messages wait, of which few are to be in memory."""
    bench = Bench(directory, window_count=window_count)
    peer = bench.peer()
    for n in range(20):
        peer.publish(f"m{n}")
    return bench


async def test_nothing_leaves_before_it_is_on_disk(tmp_path: Path) -> None:
    """Nor what only follows from what is sent: the end of a client that does not read."""
    bench = Bench(tmp_path, replies=3000)
    wire, turns = await connected(bench)
    wire.bring(b"a", 1, [Op.LOCK_ACQUIRE, 1, "l", 100, None])
    wire.bring(b"b", 1, [Op.LOCK_ACQUIRE, 7, "l", 100, None])
    number = 1
    while len(bench.engine.sessions) == 2:
        number += 1
        # Both are told something in this turn, the one who waits last.
        wire.arrived.append((b"a", encode(number, 0, [[Op.STATUS, number]])))
        wire.bring(b"b", number, [Op.QUEUE_STATS, 100 + number, "q"])
    await eventually(lambda: [Reply.OK, 7] in [command[:2] for command in wire.commands[b"b"]])
    assert wire.urgent == []
    await turns.close()


async def test_last_words_are_heard(tmp_path: Path) -> None:
    """What came before a connection's end counts, also if a tick finds the connection gone."""
    bench = Bench(tmp_path)
    wire, turns = await connected(bench)
    wire.bring(b"a", 1, [Op.SUBSCRIBE, 1, "c", None, 0])
    words = [Op.QUEUE_PUBLISH, 5, "q", [["id", b"x"]]]
    wire.gone, wire.last_words = b"a", (b"a", encode(2, 0, [words]))
    wire.arrived.append((b"b", encode(1, 0, [publish("c", b"x")])))
    turns.tick(SYSTEM_CLOCK.monotonic())
    await eventually(lambda: not wire.arrived)
    turns.tick(SYSTEM_CLOCK.monotonic())
    assert bench.engine.queues.stats(bench.engine.now, "q") == (1, 0, 0, 0)
    await turns.close()


async def test_what_is_to_be_done_waits_for_the_journals_thread(tmp_path: Path) -> None:
    """While it commits, nothing else touches what it commits."""
    bench = Bench(tmp_path)
    wire, turns = await connected(bench)
    commit, begun, may_end = bench.journal.commit, threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert may_end.wait(10)
        commit()

    bench.journal.commit = slow  # type: ignore[method-assign]
    turns._appending.seconds = turns._checkpointing.seconds = 1.0
    done: list[bool] = []
    wire.bring(b"a", 1, [Op.LOCK_ACQUIRE, 1, "l", 100, None])
    turns.within(lambda: done.append(True))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == []
    may_end.set()
    await eventually(lambda: done)
    assert bench.engine.locks._leases.keys() == {"l"}
    await turns.close()


async def test_a_slow_checkpoint_leaves_the_log_to_the_loop(tmp_path: Path) -> None:
    """What only goes into the log waits for no thread because the database was slow before."""
    bench = Bench(tmp_path)
    wire, turns = await connected(bench)
    turns._checkpointing.seconds = 1.0
    threads: list[threading.Thread] = []
    commit = bench.journal.commit

    def noted() -> None:
        threads.append(threading.current_thread())
        commit()

    bench.journal.commit = noted  # type: ignore[method-assign]
    # A new queue is a row of the database.
    wire.bring(b"a", 1, [Op.QUEUE_PUBLISH, 5, "q", [["id", b"x"]]])
    await eventually(lambda: [Reply.OK, 5] in [command[:2] for command in wire.commands[b"a"]])
    wire.bring(b"a", 2, [Op.QUEUE_PUBLISH, 6, "q", [["id2", b"x"]]])
    assert [Reply.OK, 6] in [command[:2] for command in wire.commands[b"a"]]
    first, second = threads
    assert first is not threading.main_thread()
    assert second is threading.main_thread()
    await turns.close()


async def test_reading_ahead_follows_what_is_sent(tmp_path: Path) -> None:
    """The next messages are read when those before have left, so consumers need not wait for it."""
    bench = deep(tmp_path, window_count=8)
    wire, turns = await connected(bench)
    ready, sent = bench.journal.messages.ready, list[bool]()

    def noted(*arguments: Any) -> Any:
        sent.append(bool(wire.commands[b"a"]))
        return ready(*arguments)

    wire.bring(b"a", 1, [Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 3])
    await eventually(lambda: wire.commands[b"a"])
    wire.commands[b"a"].clear()
    bench.journal.messages.ready = noted  # type: ignore[method-assign]
    wire.bring(b"a", 2, [Op.CREDIT, 1, 4])
    assert sent == [True]
    (delivered,) = wire.commands[b"a"]
    assert [one[1] for one in delivered[2]] == ["m3", "m4", "m5", "m6"]
    await turns.close()


async def test_a_full_log_does_not_make_the_log_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that comes because the log is full counts as one, however it was begun."""
    # However slow the disk is, the loop commits: nothing here waits for a thread.
    monkeypatch.setattr("corekit_zeromq.broker.turns._INLINE", math.inf)
    bench = Bench(tmp_path)
    wire, turns = await connected(bench)
    checkpoints: list[float] = []
    checkpoint = bench.journal.checkpoint

    def noted() -> None:
        checkpoints.append(turns._appending.seconds)
        checkpoint()

    bench.journal.checkpoint = noted  # type: ignore[method-assign]
    number = 0
    while len(checkpoints) < 2:
        number += 1
        before = turns._checkpointing.seconds
        wire.bring(b"a", number, [Op.QUEUE_PUBLISH, number, "q", [[f"i{number}", b"x" * 200_000]]])
    assert turns._appending.seconds == checkpoints[-1]
    assert turns._checkpointing.seconds != before
    await turns.close()


async def test_the_last_turn_leaves_counts_that_are_right(tmp_path: Path) -> None:
    """A damaged message that comes next at the very end is counted as what it is."""
    bench = deep(tmp_path, window_count=4)
    bench.journal.messages.one(place_of(1, 6, timed=False))
    bench.journal.execute("UPDATE message SET crc=crc+1 WHERE id='m5'")
    wire, turns = await connected(bench)
    wire.bring(b"a", 1, [Op.CONSUME, 1, "q"])
    # Read by the last turn.
    wire.arrived.append((b"a", encode(2, 0, [[Op.CREDIT, 1, 4]])))
    await turns.close()
    bench.crash()
    queue = bench.engine.queues.queue("q")
    assert queue is not None
    (dead,) = bench.journal.peek("SELECT count(*) FROM dead").fetchone()
    assert (queue.messages, queue.dead) == (bench.on_disk(), dead)
