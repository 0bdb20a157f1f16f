"""SIGKILL under load: nothing that was confirmed is lost, nothing is there twice for long."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from corekit_zeromq.protocol import MAGIC, VERSION, Op, Reply, encode

from .peer import Dealer, queue_publish

#: Publishes that wait for their answer, and deliveries that one consumer holds.
IN_FLIGHT = 50
CREDIT = 20


class Stubborn(Dealer):
    """A client that says HELLO until it is welcomed, and starts anew when it was refused."""

    def __init__(self, address: str) -> None:
        super().__init__(address, reconnect_ivl=20)
        self.restarts = 0

    def turn(self) -> list[list[Any]]:
        """Return the commands of the next frame; none if the broker had to be greeted again."""
        try:
            commands = self.frame(0.3)
        except TimeoutError:
            commands = [[Reply.UNKNOWN]]
        for command in commands:
            if command[0] == Reply.WELCOME:
                self.welcome = command
                if not command[5]:
                    self.sent = self.received = 0
                    self.restarts += 1
                    self.begin()
            elif command[0] == Reply.UNKNOWN:
                old = self.welcome[2:4] if self.welcome else [b"", b""]
                hello = [Op.HELLO, MAGIC, VERSION, *old, self.received, {}]
                self.socket.send(encode(0, 0, [hello]))
        return commands

    def begin(self) -> None:
        """Build the state anew, in a new session."""


class Publisher(Stubborn):
    """Publishes numbered messages; those without an answer again, in each new session."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(address)
        self.name = name
        self.count = 0
        self.waiting: dict[int, str] = {}
        self.confirmed: set[str] = set()

    def begin(self) -> None:
        self.publish(self.waiting)

    def publish(self, rids: Any) -> None:
        self.send(*(queue_publish(self.waiting[rid], b"x" * 256, rid=rid) for rid in rids))

    def run(self, done: threading.Event) -> None:
        while not done.is_set() or self.waiting:
            for command in self.turn():
                if command[0] == Reply.OK:
                    assert command[2] is None
                    self.confirmed.add(self.waiting.pop(command[1]))
            new = range(self.count, self.count + IN_FLIGHT - len(self.waiting))
            if new and self.welcome and not done.is_set():
                self.waiting.update((rid, f"{self.name}-{rid}") for rid in new)
                self.count = new.stop
                self.publish(new)


class Consumer(Stubborn):
    """Acknowledges everything; claims what it holds, in each new session."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.seen: list[str] = []
        self.held: dict[bytes, str] = {}

    def begin(self) -> None:
        tokens = list(self.held)
        self.send([Op.CONSUME, 1, "q"], [Op.CLAIM, 1, 1, tokens])
        self.claimed = [self.held.pop(token) for token in tokens]

    def run(self, done: threading.Event) -> None:
        while not done.is_set():
            for command in self.turn():
                if command[0] == Reply.OK:
                    regained = [token for token in command[2] if token is not None]
                    self.send([Op.ACK, 1, regained], [Op.CREDIT, 1, CREDIT])
                elif command[0] == Reply.DELIVERIES:
                    self.take(command[2])

    def take(self, batch: list[Any]) -> None:
        # What the acknowledgement of the batch before was for is now known to have arrived.
        self.held = {one[0]: one[1] for one in batch}
        self.seen += [one[1] for one in batch]
        self.send([Op.ACK, 1, [one[0] for one in batch]], [Op.CREDIT, 1, len(batch)])


def start(directory: Path) -> subprocess.Popen[bytes]:
    """Start a broker."""
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "corekit_zeromq", "--listen", f"ipc://{directory}/s"),
                *("--data", directory / "data", "--strict"),
            ],
            stderr=log,
        )


@pytest.mark.timeout(180)
def test_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    """20 times SIGKILL with two publishers and two consumers at work.

    Every confirmed message is delivered, no other one appears; at most what was in flight at a
    kill is delivered twice; the sequence never falls back (--strict would refuse to start).
    """
    kills = int(os.environ.get("COREKIT_KILLS", "20"))
    broker = start(tmp_path)
    address = f"ipc://{tmp_path}/s"
    publishers = [Publisher(address, name) for name in "ab"]
    consumers = [Consumer(address) for _ in range(2)]
    published, consumed = threading.Event(), threading.Event()
    threads = [threading.Thread(target=one.run, args=(published,)) for one in publishers]
    threads += [threading.Thread(target=one.run, args=(consumed,)) for one in consumers]
    for thread in threads:
        thread.start()
    try:
        for n in range(kills):
            time.sleep(0.35 + n % 7 * 0.05)
            broker.kill()
            broker.wait()
            broker = start(tmp_path)
        published.set()
        for thread in threads[:2]:
            thread.join(30)
        confirmed = set.union(*(one.confirmed for one in publishers))
        deadline = time.monotonic() + 30
        while not confirmed <= {one for c in consumers for one in c.seen}:
            assert time.monotonic() < deadline, "confirmed messages were lost"
            time.sleep(0.05)
    finally:
        published.set()
        consumed.set()
        for thread in threads:
            thread.join(30)
        broker.kill()
        broker.wait()
    seen = [one for consumer in consumers for one in consumer.seen]
    asked = {f"{one.name}-{rid}" for one in publishers for rid in range(one.count)}
    duplicates = len(seen) - len(set(seen))
    restarts = min(one.restarts for one in publishers + consumers)
    for one in publishers + consumers:
        one.close()
    print(f"{len(confirmed)} confirmed, {duplicates} duplicates, {restarts} restarts seen")  # noqa: T201
    assert set(seen) <= asked
    assert len(confirmed) > 1000
    assert restarts >= kills // 2
    assert duplicates <= kills * 2 * CREDIT
