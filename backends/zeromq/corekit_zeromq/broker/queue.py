"""One durable queue: what of it is in memory, and who gets the next message."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from .consumer import TOKEN, Consumer, Held, read_token
from .journal import Journal
from .limits import Limits, Memory
from .records import ChannelRow, Head, Message, place_of
from .schedule import Schedule

logger = logging.getLogger("corekit.broker.queue")


class Queue:
    """The messages of one queue, in the order of their seq.

    While nobody consumes, all of them are on disk only, and the counts are all there is in memory.
    With consumers a window of them is in memory:

    - `_ready`: messages without delay, up to the seq `_cursor`, in order;
    - `_returned`: seqs of messages that were given back or whose time has come, a heap;
    - `_schedule`: messages held back;
    - on disk: `_backlog` messages without delay behind `_cursor`. `_aside` are the seqs of those
      there that a claim has taken out of turn.

    A message in flight is in none of them. The row in the journal stays until it is settled.
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
        return self.messages, self.bytes, self.timed, self.dead, self.id

    def _reset(self) -> None:
        """Have nothing in memory; right only while nothing is in flight."""
        self._ready: deque[Message] = deque()
        self._window = 0
        self._returned: list[tuple[int, bool]] = []
        self._aside: set[int] = set()
        self._cursor = 0
        self._backlog = self.messages - self.timed
        self._schedule = Schedule(self.id, self.timed, self._journal, self._limits)

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
            self._memory.left += self._window
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

    def publish(self, message: Message, due: float | None) -> None:
        """Take note of a message that the journal was given."""
        size = len(message.body)
        self.messages += 1
        self.bytes += size
        if due is not None:
            self.timed += 1
            self._schedule.add(due, message.seq)
        elif (
            self.consumers
            and not self._backlog
            and len(self._ready) < self._limits.window_count
            and self._window + size <= self._limits.window_bytes
            and self._memory.left >= size
        ):
            self._ready.append(message)
            self._window += size
            self._memory.left -= size
            self._cursor = message.seq
        else:
            self._backlog += 1

    def next_due(self) -> float | None:
        """Return when the next message held back is due; None if there is none."""
        if not self._schedule.waiting or not self.consumers:
            return None
        return self._schedule.next_due()

    def promote(self, now: float) -> None:
        """Make ready what is due at *now*, as far as memory goes."""
        if not self._schedule.waiting or not self.consumers:
            return
        room = 16 * self._limits.window_count - len(self._returned)
        for seq in self._schedule.take_due(now, room):
            heappush(self._returned, (seq, True))

    # -- messages go out

    @property
    def is_attended(self) -> bool:
        """Whether there are consumers that may get messages."""
        return bool(self._ring)

    @property
    def dispatchable(self) -> bool:
        """Whether there are both messages and consumers that may get them."""
        return bool(self._ring and (self._ready or self._backlog or self._returned))

    def take(self, count: int) -> list[Message]:
        """Take at most *count* messages, and about a window's bytes, out, the first in order."""
        taken: list[Message] = []
        room = self._limits.window_bytes
        while len(taken) < count and room > 0:
            # A read may give nothing: of messages that were claimed, or are damaged.
            while not self._ready and self._backlog:
                self._read_ready(count - len(taken))
            if self._returned and (not self._ready or self._returned[0][0] < self._ready[0].seq):
                seq, timed = heappop(self._returned)
                message = self._journal.messages.one(place_of(self.id, seq, timed=timed))
                if message is None:
                    self._bury_damaged(seq)
                    continue
            elif self._ready:
                message = self._ready.popleft()
                self._window -= len(message.body)
                self._memory.left += len(message.body)
            else:
                break
            taken.append(message)
            room -= len(message.body)
        self.in_flight += len(taken)
        return taken

    def read_ahead(self) -> None:
        """Read more from the disk once half of the window has gone, if there is memory for it."""
        limits = self._limits
        if (
            self._backlog
            and self.consumers
            and 2 * len(self._ready) < limits.window_count
            and 2 * self._window < limits.window_bytes
            and self._memory.left >= limits.window_bytes
        ):
            self._read_ready(limits.window_count)

    def _read_ready(self, wanted: int) -> None:
        """Read the next messages from the disk: a window of them, or those *wanted*.

        The latter once the memory for windows is used up.
        """
        count = self._limits.window_count - len(self._ready)
        size = self._limits.window_bytes - self._window
        if self._memory.left < size:
            count = min(count, wanted)
        messages, damaged, last = self._journal.messages.ready(self.id, self._cursor, count, size)
        if last == self._cursor:
            logger.error("queue %r: %d messages are not in the journal", self.name, self._backlog)
            self._backlog = 0
            return
        self._cursor = last
        for message in messages:
            if message.seq in self._aside:
                self._aside.remove(message.seq)
                continue
            self._backlog -= 1
            self._ready.append(message)
            self._window += len(message.body)
            self._memory.left -= len(message.body)
        for seq in damaged:
            if seq in self._aside:
                # Whoever holds it got it whole.
                self._aside.remove(seq)
                continue
            self._backlog -= 1
            self._bury_damaged(seq)

    def _bury_damaged(self, seq: int) -> None:
        head = self._journal.messages.head(self.id, seq)
        logger.error("queue %r: message %d is damaged, and becomes a dead letter", self.name, seq)
        if head is not None:
            place = place_of(self.id, seq, timed=head.timed)
            attempts = head.attempts if type(head.attempts) is int else 0
            self._journal.dead_letters.bury(place, attempts, "the message was damaged on disk")
            self.dead += 1
            self.forget(seq, head.size, timed=head.timed)

    def forget(self, seq: int, size: int, *, timed: bool) -> None:
        """Count one message less: *seq*, which is not on disk any more."""
        self.messages -= 1
        self.bytes -= size
        if timed:
            self.timed -= 1
            self._schedule.aside.pop(seq, None)
        else:
            self._aside.discard(seq)
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
        messages = self.take(min(quantum, credit))
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
            heappush(self._returned, (message.seq, message.timed))

    # -- deliveries end

    def _place(self, held: Held) -> int:
        return place_of(self.id, held.seq, timed=held.timed)

    def settle(self, held: Held) -> None:
        """Forget a message whose delivery ended well."""
        self.in_flight -= 1
        self._journal.delete(self._place(held))
        self.forget(held.seq, held.size, timed=held.timed)

    def give_back(self, held: Held, *, died: bool) -> None:
        """Make a message deliverable again, at its place; *died*: and count a death."""
        self.in_flight -= 1
        heappush(self._returned, (held.seq, held.timed))
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
            self._aside.discard(held.seq)
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
        if seq in self._aside or seq in self._schedule.aside:
            return False
        if head.due is None:
            if seq > self._cursor:
                self._aside.add(seq)
                self._backlog -= 1
                return True
            for message in self._ready:
                if message.seq == seq:
                    self._ready.remove(message)
                    self._window -= len(message.body)
                    self._memory.left += len(message.body)
                    return True
        elif self._schedule.withdraw(head.due, seq):
            return True
        waiting = (seq, head.timed)
        if waiting in self._returned:
            self._returned.remove(waiting)
            heapify(self._returned)
            return True
        return False

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
        self._memory.left += self._window
        self.messages = len(held)
        self.bytes = sum(one.size for one in held)
        self.timed = sum(one.timed for one in held)
        self.dead = 0
        self._journal.count(self)
        self._reset()
        # What is in flight comes back through `_returned`, never by being read in order.
        self._cursor, self._backlog = last, 0
        self._schedule = Schedule(self.id, 0, self._journal, self._limits, all_known=True)
        return removed
