"""Reading the messages of a queue, wherever each of them is: database, log, or this turn."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from corekit_zeromq.broker.journal import Journal
from corekit_zeromq.broker.records import Message, place_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("small_blocks")

#: Two queues, whose messages lie between those of the other.
CHANNELS = (1, 2)

#: What a journal is told: an operation, a queue, and which of its messages it is about.
STEPS: st.SearchStrategy[list[tuple[str, int, int]]] = st.lists(
    st.tuples(
        st.sampled_from(
            ["insert", "insert", "delay", "delete", "postpone", "deaths", "commit", "checkpoint"]
        ),
        st.sampled_from(CHANNELS),
        st.integers(0, 50),
    ),
    max_size=40,
)


class Model:
    """A journal, and what must be in it."""

    def __init__(self, directory: str) -> None:
        self.journal = Journal(Path(directory))
        for channel in CHANNELS:
            assert self.journal.channels.add(f"q{channel}") == channel
        self.journal.commit()
        self.seq = 0
        self.waiting: dict[int, list[Message]] = {channel: [] for channel in CHANNELS}

    def insert(self, channel: int, number: int, *, delay: float | None = None) -> None:
        self.seq += 1
        timed = delay is not None
        message = Message(self.seq, f"m{self.seq}é", b"x" * number, 0, 0, 1.5, timed)
        due = None if delay is None else 100 + delay
        self.journal.insert(channel, f"q{channel}", [message], due, delay, 1.5)
        if not timed:
            self.waiting[channel].append(message)

    def delay(self, channel: int, number: int) -> None:
        self.insert(channel, number, delay=9.0)

    def _taken(self, channel: int, number: int) -> tuple[int, Message] | None:
        waiting = self.waiting[channel]
        if not waiting:
            return None
        message = waiting.pop(number % len(waiting))
        return place_of(channel, message.seq, timed=False), message

    def delete(self, channel: int, number: int) -> None:
        if taken := self._taken(channel, number):
            self.journal.delete([taken[0]])

    def postpone(self, channel: int, number: int) -> None:
        if taken := self._taken(channel, number):
            to = place_of(channel, taken[1].seq, timed=True)
            self.journal.postpone(taken[0], to, 100, 1, 1, 0)

    def deaths(self, channel: int, number: int) -> None:
        if taken := self._taken(channel, number):
            self.journal.set_deaths(taken[0], number)
            self.waiting[channel].append(taken[1]._replace(deaths=number))
            self.waiting[channel].sort()

    def commit(self, *_: Any) -> None:
        self.journal.commit()

    def checkpoint(self, *_: Any) -> None:
        self.journal.writer()
        self.journal.commit()

    def read(self, channel: int, count: int, size: int) -> list[Message]:
        """Read the whole queue, *count* messages or *size* bytes at a time."""
        found: list[Message] = []
        after = 0
        while True:
            messages, damaged, last = self.journal.messages.ready(channel, after, count, size)
            assert damaged == []
            if last == after:
                assert messages == []
                return found
            assert messages[-1].seq == last
            found += messages
            after = last


@example(
    # What is gone is in the database, and only the log says so.
    steps=[("insert", 1, 5), ("checkpoint", 1, 0), ("delete", 1, 0), ("commit", 1, 0)],
    count=2,
    size=10,
)
# Each commit waits for the disk.
@settings(deadline=None)
@given(steps=STEPS, count=st.integers(1, 9), size=st.integers(1, 300))
def test_each_message_is_read_once(
    steps: list[tuple[str, int, int]], count: int, size: int
) -> None:
    """In order, whole, and without those that are gone, between any changes and commits."""
    with tempfile.TemporaryDirectory() as directory:
        model = Model(directory)
        try:
            for name, channel, number in steps:
                getattr(model, name)(channel, number)
                assert model.read(channel, count, size) == model.waiting[channel]
            for channel in CHANNELS:
                assert model.read(channel, count, size) == model.waiting[channel]
        finally:
            model.journal.close()


def test_reading_writes_nothing() -> None:
    """What waits for the database goes on waiting: a deep queue is read without its commits."""
    with tempfile.TemporaryDirectory() as directory:
        model = Model(directory)
        for step in ("insert", "checkpoint", "insert", "commit", "insert"):
            getattr(model, step)(1, 5)
        assert len(model.read(1, 10, 1000)) == 3
        assert model.journal.appends
        model.journal.commit()
        assert not model.journal.pending
        assert "<Changes inserts=2 " in repr(model.journal._logged)
        model.journal.close()
