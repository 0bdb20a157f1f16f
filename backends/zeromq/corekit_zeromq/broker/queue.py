"""One durable queue: how many messages it has, and who gets the next one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence

from corekit.errors import QueueFull

from .consumer import TOKEN, Consumer, Held, read_token
from .journal import Journal
from .limits import Limits, Memory
from .records import ChannelRow, Head, Message, place_of
from .schedule import Schedule
from .window import Window

logger = logging.getLogger("corekit.broker.queue")


class Queue:
    """The counts of one queue, its consumers, who take turns, and what they hold.

    Messages without delay are in the `Window`, those held back in the `Schedule`; one in flight is
    in neither. The row in the journal stays until it is settled. While nobody consumes, the counts
    are all there is in memory.
    """

    def __init__(self, row: ChannelRow, journal: Journal, limits: Limits, memory: Memory) -> None:
        self.id, self.name, self.messages, self.bytes, self.timed, self.dead = row
        self.in_flight = 0
        self.consumers: dict[tuple[bytes, int], Consumer] = {}
        self.used_at = 0.0
        #: When the queue is to be looked at for what is due.
        self.alarm: float | None = None
        #: Whether the last dead letter was one too many: that is said once.
        self._drops = False
        self._journal = journal
        self._limits = limits
        self._memory = memory
        self._ring: deque[Consumer] = deque()
        self._reset()

    def __repr__(self) -> str:
        return (
            f"<Queue {self.name!r} messages={self.messages} in_flight={self.in_flight} "
            f"dead={self.dead} consumers={len(self.consumers)}>"
        )

    def counts(self) -> tuple[int, int, int, int, int]:
        # Below 0 they are after damage only: the next start must not take that for more of it.
        messages, size = max(0, self.messages), max(0, self.bytes)
        return messages, size, max(0, self.timed), max(0, self.dead), self.id

    def _reset(self) -> None:
        """Have nothing in memory; right only while nothing is in flight."""
        self._window = self._new_window(self.messages - self.timed)
        self._schedule = Schedule(self.id, self.timed, self._journal, self._limits)

    def _new_window(self, backlog: int, after: int = 0) -> Window:
        return Window(self, self._journal, self._limits, self._memory, backlog=backlog, after=after)

    # -- consumers

    def add_consumer(self, consumer: Consumer) -> None:
        """Let *consumer* take part; it has no credit yet."""
        self.consumers[consumer.session.id, consumer.number] = consumer

    def remove_consumer(self, consumer: Consumer) -> None:
        """Let *consumer* take part no longer; it must hold nothing."""
        self.consumers.pop((consumer.session.id, consumer.number), None)
        consumer.credit = 0
        self.suspend(consumer)
        if not self.consumers:
            self._window.close()
            self._reset()

    def enlist(self, consumer: Consumer) -> None:
        """Put *consumer* into the ring if it may get messages."""
        if (
            consumer.credit
            and not consumer.ready
            and consumer.session.outstanding <= self._limits.outstanding
        ):
            consumer.ready = True
            self._ring.append(consumer)

    def suspend(self, consumer: Consumer) -> None:
        """Take *consumer* out of the ring."""
        if consumer.ready:
            consumer.ready = False
            self._ring.remove(consumer)

    # -- messages come in

    def has_room(self, count: int, size: int) -> bool:
        """Whether *count* messages more, of *size* bytes together, are within the limits."""
        limits = self._limits
        return (
            self.messages + count <= limits.queue_messages
            and self.bytes + size <= limits.queue_bytes
        )

    def refusal(self) -> QueueFull:
        """Return the error that tells how much of its limits it holds."""
        limits = self._limits
        return QueueFull(
            f"queue {self.name!r} is full: {self.messages} of {limits.queue_messages} messages, "
            f"{self.bytes} of {limits.queue_bytes} bytes"
        )

    def publish(self, messages: Sequence[Message], due: float | None) -> None:
        """Take note of messages that the journal was given."""
        self.messages += len(messages)
        for message in messages:
            self.bytes += len(message.body)
        if due is None:
            self._window.add(messages, wanted=bool(self.consumers))
            return
        self.timed += len(messages)
        for message in messages:
            self._schedule.add(due, message.seq)

    def next_due(self) -> float | None:
        """Return when the next message held back is due; None if there is none."""
        if not self._schedule.waiting or not self.consumers:
            return None
        return self._schedule.next_due()

    def promote(self, now: float) -> None:
        """Make ready what is due at *now*, as far as memory goes."""
        if not self._schedule.waiting or not self.consumers:
            return
        for seq in self._schedule.take_due(now, self._window.room):
            self._window.give_back(seq, timed=True)

    # -- messages go out

    @property
    def is_attended(self) -> bool:
        """Whether there are consumers that may get messages."""
        return bool(self._ring)

    @property
    def dispatchable(self) -> bool:
        """Whether there are both messages and consumers that may get them."""
        return bool(self._ring and self._window)

    def read_ahead(self) -> None:
        """Have the next messages in memory if somebody consumes."""
        if self.consumers:
            self._window.read_ahead()

    def bury_damaged(self, seq: int) -> None:
        """Make a message that is damaged on disk a dead letter."""
        head = self._journal.messages.head(self.id, seq)
        logger.error("queue %r: message %d is damaged, and becomes a dead letter", self.name, seq)
        if head is not None:
            place = place_of(self.id, seq, timed=head.timed)
            attempts = head.attempts if type(head.attempts) is int else 0
            self._journal.dead_letters.bury(place, attempts, "the message was damaged on disk")
            self.dead += 1
            self.forget(seq, head.size, timed=head.timed)

    def miss(self, count: int) -> None:
        """Take note that so many messages are not on disk, and count what is."""
        logger.error("queue %r: %d messages are not in the journal", self.name, count)
        self.messages, self.bytes = self._journal.messages.counted(self.id)
        self._journal.count(self)

    def forget(self, seq: int, size: int, *, timed: bool) -> None:
        """Count one message less: *seq*, which is not on disk any more."""
        self.messages -= 1
        self.bytes -= size
        if timed:
            self.timed -= 1
            self._schedule.aside.pop(seq, None)
        else:
            self._window.aside.discard(seq)
        self._journal.count(self)

    def dispatch(self, quantum: int, epoch: int, number: int, touched: dict[Consumer, None]) -> int:
        """Hand out at most *quantum* messages to the consumers with credit, who take turns.

        *number* is that of the first delivery. Consumers with something in their batch are put
        into *touched*. Returns how many were handed out.
        """
        ring = self._ring
        if not ring:
            return 0
        credit = sum(consumer.credit for consumer in ring)
        messages = self._window.take(min(quantum, credit))
        self.in_flight += len(messages)
        pack = TOKEN.pack
        for place, message in enumerate(messages):
            seq, id_, body, attempts, deaths, published_at, timed = message
            consumer = ring[0]
            token = pack(epoch, number, seq, attempts, deaths)
            number += 1
            size = len(body)
            consumer.held[token] = Held(seq, size, attempts, deaths, timed)
            consumer.batch.append((token, id_, body, attempts + 1, deaths, published_at))
            touched[consumer] = None
            consumer.credit -= 1
            session = consumer.session
            session.outstanding += size
            if not consumer.credit or session.outstanding > self._limits.outstanding:
                ring.popleft()
                consumer.ready = False
                if not ring:
                    self._put_back(messages[place + 1 :])
                    return place + 1
            else:
                ring.rotate(-1)
        return len(messages)

    def _put_back(self, messages: list[Message]) -> None:
        self.in_flight -= len(messages)
        for message in messages:
            self._window.give_back(message.seq, timed=message.timed)

    # -- deliveries end

    def _place(self, held: Held) -> int:
        return place_of(self.id, held.seq, timed=held.timed)

    def settle(self, deliveries: Iterable[Held]) -> None:
        """Forget the messages of *deliveries*, which ended well."""
        places = []
        for held in deliveries:
            places.append(self._place(held))
            self.forget(held.seq, held.size, timed=held.timed)
        self.in_flight -= len(places)
        self._journal.delete(places)

    def give_back(self, held: Held, *, died: bool) -> None:
        """Make a message deliverable again, at its place; *died*: and count a death."""
        self.in_flight -= 1
        self._window.give_back(held.seq, timed=held.timed)
        if died:
            self._journal.set_deaths(self._place(held), held.deaths + 1)

    def bury(self, held: Held, error: str, wall: float) -> None:
        """Make a message a dead letter."""
        self.in_flight -= 1
        self._journal.dead_letters.bury(self._place(held), held.attempts + 1, error, wall)
        self.dead += 1
        surplus = self.dead - self._limits.dead_letters
        if surplus > 0:
            if not self._drops:
                logger.warning("queue %r: the oldest dead letters are dropped now", self.name)
            self.dead -= self._journal.dead_letters.trim(self.id, surplus)
        self._drops = surplus > 0
        self.forget(held.seq, held.size, timed=held.timed)

    def postpone(self, held: Held, due: float, delay: float, *, attempts: int, deaths: int) -> None:
        """Make a message deliverable at *due*, after so many failed *attempts* and *deaths*."""
        self.in_flight -= 1
        to = place_of(self.id, held.seq, timed=True)
        self._journal.postpone(self._place(held), to, due, delay, attempts, deaths)
        if held.timed:
            self._schedule.aside.pop(held.seq, None)
        else:
            self._window.aside.discard(held.seq)
            self.timed += 1
            self._journal.count(self)
        self._schedule.add(due, held.seq)

    def claim(self, token: bytes, epoch: int) -> Held | None:
        """Take out the message that *token*, of a life other than *epoch*, is about.

        None if it is not to be had.
        """
        claim = read_token(token)
        if claim is None or claim.epoch == epoch:
            return None
        head = self._journal.messages.head(self.id, claim.seq)
        if head is None or head[1:3] != (claim.attempts, claim.deaths):
            return None
        if not self._withdraw(claim.seq, head):
            return None
        self.in_flight += 1
        return Held(claim.seq, head.size, head.attempts, head.deaths, head.timed)

    def _withdraw(self, seq: int, head: Head) -> bool:
        """Take the message *seq* out, wherever it waits; False if it does not wait."""
        if head.due is not None and self._schedule.withdraw(head.due, seq):
            return True
        return self._window.withdraw(seq, head)

    # -- the whole

    def delayed(self, now: float) -> int:
        """Count the messages whose time has not come at *now*."""
        return self._schedule.count_later(now)

    def held(self) -> Iterable[Held]:
        """Return everything in flight."""
        for consumer in self.consumers.values():
            yield from consumer.held.values()

    def purge(self, last: int) -> int:
        """Remove everything that is not in flight; return how many messages that were.

        *last* is the seq of the newest message of all.
        """
        removed = self.messages - self.in_flight + self.dead
        held = list(self.held())
        self.id = self._journal.channels.purge(
            self.id, self.name, [(one.seq, one.timed) for one in held]
        )
        self._window.close()
        self.messages = len(held)
        self.bytes = sum(one.size for one in held)
        self.timed = sum(one.timed for one in held)
        self.dead = 0
        self._journal.count(self)
        # What is in flight comes back to the window, never by being read in order.
        self._window = self._new_window(0, last)
        aside = self._schedule.aside
        self._schedule = Schedule(self.id, 0, self._journal, self._limits, all_known=True)
        self._schedule.aside = {one.seq: aside[one.seq] for one in held if one.seq in aside}
        return removed
