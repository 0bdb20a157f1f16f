"""The durable queues against a simple model, crashes included."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from corekit_zeromq.broker.consumer import Consumer
from corekit_zeromq.broker.journal import Journal
from corekit_zeromq.broker.limits import Limits
from corekit_zeromq.broker.queues import Queues
from corekit_zeromq.broker.sessions import Session
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from corekit.errors import QueueFull

pytestmark = pytest.mark.usefixtures("small_blocks")

#: Windows so small that every path between memory and disk is taken.
LIMITS = Limits(
    window_count=3, window_bytes=40, window_total=100, dead_letters=4, queue_messages=60, credit=10
)
QUEUE = "shop/queue/orders"
WALL = 1_700_000_000.0


@dataclass
class Expected:
    """A message as the model sees it."""

    seq: int
    id: str
    body: bytes
    published_at: float
    due: float = 0.0
    attempts: int = 0
    deaths: int = 0
    token: bytes | None = None
    error: str | None = None


def memory_directory() -> Path:
    """Return a new directory, in memory if the system has such a place: thousands of commits."""
    shared = Path("/dev/shm")  # noqa: S108 - a new directory is made in it
    return Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))


holding = precondition(lambda self: any(one.token for one in self.messages.values()))


class QueueMachine(RuleBasedStateMachine):
    """One queue with two consumers. After each rule the counts must be those of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = memory_directory()
        self.now = 1000.0
        self.wall = WALL
        self.epoch = 0
        self.seq = 0
        self.number = 0
        self.spent: list[bytes] = []
        self.messages: dict[int, Expected] = {}
        self.kept: dict[int, Expected] = {}
        self.start()

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        self.epoch += 1
        self.journal = Journal(self.directory)
        self.queues = Queues(self.journal, LIMITS, epoch=self.epoch, now=self.now, wall=self.wall)
        self.sessions = [Session(bytes([n]), b"", "", {}, {}) for n in range(2)]
        for session in self.sessions:
            self.queues.consume(self.now, session, 1, QUEUE)
        self.commit()

    def commit(self) -> None:
        self.journal.commit()
        self.kept = {seq: replace(one) for seq, one in self.messages.items()}

    def ready(self) -> list[Expected]:
        return sorted(
            (
                one
                for one in self.messages.values()
                if one.token is None and one.error is None and one.due <= self.now
            ),
            key=lambda one: one.seq,
        )

    def holder(self, token: bytes) -> Consumer:
        consumers = [session.consumers[1] for session in self.sessions]
        return next(consumer for consumer in consumers if token in consumer.held)

    # -- rules

    @rule(
        size=st.integers(0, 30),
        delay=st.sampled_from([0, 0, 0, 0.5, 30]),
        count=st.integers(1, 5),
    )
    def publish(self, size: int, delay: float, count: int) -> None:
        for _ in range(count):
            self.publish_one(size, delay)

    def publish_one(self, size: int, delay: float) -> None:
        self.number += 1
        id_ = f"m{self.number}"
        waiting = sum(one.error is None for one in self.messages.values())
        try:
            answer = self.queues.publish(
                self.now, self.wall, QUEUE, id_, b"x" * size, delay, None, repeated=False
            )
        except QueueFull:
            assert waiting == LIMITS.queue_messages
            return
        assert answer == id_
        self.seq += 1
        due = self.now + delay if delay else 0.0
        self.messages[self.seq] = Expected(self.seq, id_, b"x" * size, self.now, due)

    @rule(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8))
    def publish_all(self, sizes: list[int]) -> None:
        """Publish several in one call: all of them, or none if they do not all fit."""
        messages = [(f"m{self.number + n}", b"x" * size) for n, size in enumerate(sizes, 1)]
        waiting = sum(one.error is None for one in self.messages.values())
        fits = waiting + len(messages) <= LIMITS.queue_messages
        assert self.queues.publish_all(self.now, self.wall, QUEUE, messages) == fits
        if fits:
            self.number += len(messages)
            for id_, body in messages:
                self.seq += 1
                self.messages[self.seq] = Expected(self.seq, id_, body, self.now, 0.0)

    @rule(repeated=st.integers(0, 5))
    def publish_again(self, repeated: int) -> None:
        """Publish an id again, as after a lost answer: nothing is queued twice."""
        if self.number - repeated > 0:
            id_ = f"m{self.number - repeated}"
            since = self.now - LIMITS.dedup_window
            known = any(
                one.id == id_ and one.published_at > since for one in self.messages.values()
            )
            if known:
                assert id_ == self.queues.publish(
                    self.now, self.wall, QUEUE, id_, b"other", 0, None, repeated=True
                )

    @rule(who=st.integers(0, 1), credit=st.integers(1, 6))
    def grant(self, who: int, credit: int) -> None:
        consumer = self.sessions[who].consumers[1]
        self.queues.grant(consumer, credit)

    @rule(who=st.integers(0, 1))
    def revoke(self, who: int) -> None:
        self.queues.revoke(self.sessions[who].consumers[1])

    def tokens(self) -> list[bytes]:
        return sorted(one.token for one in self.messages.values() if one.token)

    @rule()
    def turn(self) -> None:
        """Take a turn: messages are handed out in order, as far as credit goes."""
        credit = sum(session.consumers[1].credit for session in self.sessions)
        expected = self.ready()[:credit]
        delivered = []
        while self.queues.busy:
            for consumer in self.queues.dispatch(self.now):
                for token, id_, body, attempt, deaths, _ in consumer.batch:
                    delivered.append((token, id_, body, attempt, deaths, consumer))
                consumer.batch = []
                consumer.session.outstanding = 0
        delivered.sort(key=lambda one: one[0])  # by the number of the delivery
        assert [one[1:5] for one in delivered] == [
            (one.id, one.body, one.attempts + 1, one.deaths) for one in expected
        ]
        for one, (token, *_) in zip(expected, delivered, strict=True):
            one.token = token
        self.commit()

    def settled(self, token: bytes) -> Expected:
        for one in self.messages.values():
            if one.token == token:
                one.token = None
                return one
        raise AssertionError("no such delivery")

    @rule(data=st.data())
    @holding
    def ack(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.tokens()))
        assert self.queues.ack(self.holder(token), [token, token]) == [token]
        del self.messages[self.settled(token).seq]
        self.spent.append(token)

    @rule()
    def ack_late(self) -> None:
        """Acknowledge with spent tokens, and those of another consumer: nothing is deleted."""
        for consumer in (session.consumers[1] for session in self.sessions):
            foreign = [token for token in self.tokens() if token not in consumer.held]
            assert self.queues.ack(consumer, self.spent + foreign) == self.spent + foreign

    @rule(data=st.data(), started=st.booleans())
    @holding
    def release(self, data: st.DataObject, started: bool) -> None:
        token = data.draw(st.sampled_from(self.tokens()))
        consumer = self.holder(token)
        self.queues.release(consumer, consumer.held.pop(token), started=started)
        self.settled(token).deaths += started
        self.spent.append(token)

    @rule(data=st.data(), delay=st.sampled_from([0.0, 0.2, 5.0]))
    @holding
    def retry(self, data: st.DataObject, delay: float) -> None:
        token = data.draw(st.sampled_from(self.tokens()))
        consumer = self.holder(token)
        self.queues.retry(self.now, consumer, consumer.held.pop(token), delay)
        one = self.settled(token)
        one.attempts += 1
        one.deaths = 0
        one.due = self.now + delay

    @rule(data=st.data())
    @holding
    def bury(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.tokens()))
        consumer = self.holder(token)
        self.queues.bury(self.wall, consumer, consumer.held.pop(token), "gone")
        self.settled(token).error = "gone"
        dead = sorted(one.seq for one in self.messages.values() if one.error)
        for seq in dead[: -LIMITS.dead_letters]:
            del self.messages[seq]

    @rule(data=st.data())
    @precondition(lambda self: any(one.error for one in self.messages.values()))
    def requeue(self, data) -> None:
        dead = sorted(seq for seq, one in self.messages.items() if one.error)
        old = self.messages.pop(data.draw(st.sampled_from(dead)))
        self.queues.requeue(self.now, QUEUE, old.id)
        self.seq += 1
        self.messages[self.seq] = Expected(self.seq, old.id, old.body, self.now)

    @rule(who=st.integers(0, 1), died=st.booleans(), silent=st.sampled_from([0.0, 1.5, 10.0]))
    @holding
    def lose_consumer(self, who: int, died: bool, silent: float) -> None:
        """End a consumer: what dies for the second time, and more often, comes back later."""
        session = self.sessions[who]
        session.deadline = self.now - silent + LIMITS.session_timeout
        consumer = session.consumers[1]
        for token in consumer.held:
            one = self.settled(token)
            one.deaths += died
            if died and one.deaths >= 2:
                one.due = session.deadline - 10 + min(2 ** (one.deaths - 2), 10)
        self.queues.cancel(self.now, consumer, died=died)
        self.queues.consume(self.now, session, 1, QUEUE)

    @rule()
    def purge(self) -> None:
        gone = [seq for seq, one in self.messages.items() if one.token is None]
        assert self.queues.purge(QUEUE) == len(gone)
        for seq in gone:
            del self.messages[seq]

    @rule()
    def checkpoint(self) -> None:
        """Bring everything into the database."""
        self.journal.checkpoint()
        self.kept = {seq: replace(one) for seq, one in self.messages.items()}

    # No sum of them is a delay: just then it is rounding that decides what is due.
    @rule(seconds=st.sampled_from([0.1037, 1.0173, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        self.queues.wake(self.now)
        self.queues.keep_house(self.now)

    @rule(claimed=st.booleans())
    def crash(self, claimed: bool) -> None:
        """Start again: what was committed is there, and held messages can be claimed."""
        self.journal.close()
        # A start takes a moment. In none, rounding would decide what is due at this very one.
        self.now += 1e-6
        self.wall += 1e-6
        held = [one.token for one in self.kept.values() if one.token]
        self.spent.clear()
        self.messages = {seq: replace(one, token=None) for seq, one in self.kept.items()}
        # The last seq that was committed; those after it are given again.
        self.start()
        self.seq = self.journal.last
        if not claimed:
            return
        for token in held:
            new = self.queues.claim(self.sessions[0].consumers[1], token)
            seq = int.from_bytes(token[16:24], "big")
            assert new is not None
            assert self.queues.claim(self.sessions[1].consumers[1], token) is None
            self.messages[seq].token = new
        self.commit()

    # -- what always holds

    @invariant()
    def counts_are_right(self) -> None:
        waiting = [one for one in self.messages.values() if not one.error and not one.token]
        ready = sum(one.due <= self.now for one in waiting)
        assert self.queues.stats(self.now, QUEUE) == (
            ready,
            len(waiting) - ready,
            sum(bool(one.token) for one in self.messages.values()),
            sum(bool(one.error) for one in self.messages.values()),
        )
        queue = self.queues._queues[QUEUE]
        assert self.queues._memory.left == LIMITS.window_total - queue._window._size
        assert queue._window._size == sum(len(one.body) for one in queue._window._ready)
        assert queue.bytes == sum(len(one.body) for one in self.messages.values() if not one.error)

    @invariant()
    def dead_letters_are_there(self) -> None:
        letters = self.queues.dead_letters(QUEUE, 100)
        expected = sorted((one for one in self.messages.values() if one.error), key=lambda x: x.seq)
        assert [(one[0], one[1]) for one in letters] == [(one.id, one.body) for one in expected]


QueueMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
TestQueueMachine = QueueMachine.TestCase
