"""All durable queues: publishing, consuming, settling, dead letters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from heapq import heappop, heappush, nlargest
from typing import Any

from corekit.errors import BackendRefused, StorageFull

from .consumer import TOKEN, Consumer, Held
from .data_directory import HighWater
from .deduplication import Deduplication
from .journal import Journal
from .limits import Limits, Memory
from .queue import Queue
from .records import ChannelRow, Message
from .sessions import Session

logger = logging.getLogger("corekit.broker.queue")

#: Messages that one queue, and all queues, hand out in one turn.
_QUANTUM = 512
_TURN = 4096

#: Rows that one step of housekeeping removes.
_SWEEP = 2000

#: How long an empty queue is kept that nobody uses, in seconds.
_IDLE = 60.0


class Queues:
    """The queues by name.

    Times to come are kept on a scale of Unix seconds that cannot jump: the wall clock at the start
    plus what has passed since. `scaled` is a time on it.
    """

    def __init__(
        self,
        journal: Journal,
        limits: Limits,
        *,
        epoch: int,
        now: float,
        wall: float,
        high_water: HighWater | None = None,
    ) -> None:
        self._journal = journal
        self._limits = limits
        self._epoch = epoch
        self._offset = wall - now
        self._memory = Memory(limits.window_total)
        self._queues: dict[str, Queue] = {}
        self._active: dict[Queue, None] = {}
        self._dispatched: list[Queue] = []
        self._alarms: list[tuple[float, int, Queue]] = []
        self._alarm_number = 0
        self._delivery = 1
        self._dropped_at = now
        self._seq = max(journal.meta("seq"), high_water.seq if high_water else 0)
        self._dedup = Deduplication(journal, limits, wall)
        #: Nothing is delivered while this is set.
        self.held_back = False
        #: No message is taken while this is set.
        self.storage_full = False
        self._load(now, wall, set_back=high_water is not None and wall < high_water.wall)

    def __repr__(self) -> str:
        return f"<Queues {len(self._queues)} seq={self._seq}>"

    def __len__(self) -> int:
        return len(self._queues)

    def _load(self, now: float, wall: float, *, set_back: bool) -> None:
        for row in self._journal.channels.rows():
            queue = self._queues[row.name] = Queue(row, self._journal, self._limits, self._memory)
            if row.timed and set_back:
                self._journal.messages.clamp_due(row.id, wall)
            queue.used_at = now

    def queue(self, name: str) -> Queue | None:
        """Return the queue *name*, None if there is nothing in it and nobody consumes it."""
        return self._queues.get(name)

    def largest(self, count: int) -> list[str]:
        """Return the names of the *count* queues that hold the most."""
        queues = nlargest(count, self._queues.values(), key=lambda one: one.messages + one.dead)
        return [queue.name for queue in queues]

    def oldest_age(self, wall: float, name: str) -> float:
        """Return how long the first message of the queue has been there, in seconds."""
        queue = self._queues[name]
        at = self._journal.messages.oldest(queue.id) if queue.messages else None
        return 0.0 if at is None else max(0.0, wall - at)

    def _open(self, name: str, now: float) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            if len(self._queues) >= self._limits.channels:
                raise BackendRefused(f"the broker has {self._limits.channels} queues, its limit")
            row = ChannelRow(self._journal.channels.add(name), name, 0, 0, 0, 0)
            queue = self._queues[name] = Queue(row, self._journal, self._limits, self._memory)
        queue.used_at = now
        return queue

    # -- publishing

    def publish(
        self,
        now: float,
        wall: float,
        name: str,
        id: str,  # noqa: A002 - the message's id
        body: bytes,
        delay: float,
        dedup_id: str | None,
        *,
        repeated: bool,
    ) -> str:
        """Queue a message and return its id, or that of the message which it repeats.

        *repeated*: it may have been published before, under the same id.
        Raises QueueFull, StorageFull or BackendRefused; nothing was queued then.
        """
        if repeated and self._dedup.is_repeated(name, id):
            return id
        if dedup_id is not None:
            first = self._dedup.first(now + self._offset, name, dedup_id)
            if first is not None:
                return first
        queue = self._queues.get(name) or self._open(name, now)
        if not queue.has_room(1, len(body)):
            raise queue.refusal()
        if self.storage_full:
            raise StorageFull("the broker's disk is full: it takes no further messages")
        message = Message(self._seq + 1, id, body, 0, 0, wall, delay > 0)
        due = now + self._offset + delay if delay > 0 else None
        self._add(queue, [message], due, delay or None, now)
        if dedup_id is not None:
            self._dedup.remember(now + self._offset, name, dedup_id, id, message.seq)
        return id

    def publish_all(
        self, now: float, wall: float, name: str, messages: Sequence[Sequence[Any]]
    ) -> bool:
        """Queue *messages*, id and body each, one at least; return whether that could be done.

        If not, nothing was queued, and `publish`, for one after the other, knows what to do: not
        all of them can be queued, or there is no such queue yet.
        """
        queue = self._queues.get(name)
        if queue is None or self.storage_full:
            return False
        seq, size = self._seq, 0
        added: list[Message] = []
        for id_, body in messages:
            seq += 1
            size += len(body)
            # In half the time of its own constructor.
            added.append(tuple.__new__(Message, (seq, id_, body, 0, 0, wall, False)))
        if not queue.has_room(len(added), size):
            return False
        self._add(queue, added, None, None, now)
        return True

    def _add(
        self,
        queue: Queue,
        messages: list[Message],
        due: float | None,
        delay: float | None,
        now: float,
    ) -> None:
        queue.used_at = now
        scaled = now + self._offset
        self._journal.insert(queue.id, queue.name, messages, due, delay, scaled)
        self._seq = messages[-1].seq
        self._journal.count(queue)
        self._dedup.published(scaled, queue.name, messages)
        queue.publish(messages, due)
        self._active[queue] = None

    # -- consuming

    def consume(self, now: float, session: Session, number: int, name: str) -> None:
        """Let *session* consume the queue *name*; raises BackendRefused beyond the limits."""
        if number in session.consumers:
            raise BackendRefused(f"consumer {number} exists already")
        if len(session.consumers) >= self._limits.consumers:
            raise BackendRefused(f"a session has at most {self._limits.consumers} consumers")
        consumer = Consumer(session, number, self._open(name, now))
        session.consumers[number] = consumer
        consumer.queue.add_consumer(consumer)

    def cancel(self, now: float, consumer: Consumer, *, died: bool = False) -> None:
        """End *consumer*; what it holds goes back, with a death counted each if it *died*.

        What dies again and again comes back ever later: it may be what kills.
        """
        consumer.session.consumers.pop(consumer.number, None)
        queue = consumer.queue
        for held in consumer.held.values():
            deaths = held.deaths + 1
            due = self._due_after(consumer.session, deaths) if died else now
            if due > now:
                scaled = due + self._offset
                queue.postpone(held, scaled, due - now, attempts=held.attempts, deaths=deaths)
            else:
                queue.give_back(held, died=died)
        consumer.held.clear()
        queue.remove_consumer(consumer)
        self._active[queue] = None

    def _due_after(self, session: Session, deaths: int) -> float:
        """Return when a message may come back that died with *session*, and *deaths* times now."""
        most = self._limits.session_timeout
        heard_at = session.deadline - most
        if deaths < 2:
            return heard_at
        return heard_at + min(self._limits.death_delay * (1 << min(deaths - 2, 32)), most)

    def grant(self, consumer: Consumer, credit: int) -> None:
        """Let *consumer* have so many more deliveries."""
        most = self._limits.credit - len(consumer.held)
        consumer.credit = max(0, min(consumer.credit + credit, most))
        if consumer.credit:
            consumer.queue.enlist(consumer)
        else:
            # It holds all it may: what it has claimed takes no credit.
            consumer.queue.suspend(consumer)
        self._active[consumer.queue] = None

    def revoke(self, consumer: Consumer) -> None:
        """Let *consumer* have no more deliveries."""
        consumer.credit = 0
        consumer.queue.suspend(consumer)

    def resume(self, session: Session) -> None:
        """Go on with a session that had too much on its way."""
        for consumer in session.consumers.values():
            consumer.queue.enlist(consumer)
            self._active[consumer.queue] = None

    def claim(self, consumer: Consumer, token: bytes) -> bytes | None:
        """Give *consumer* a delivery of a former life; return its token, None if it is gone."""
        held = consumer.queue.claim(token, self._epoch)
        if held is None:
            return None
        new = TOKEN.pack(self._epoch, self._delivery, held.seq, held.attempts, held.deaths)
        self._delivery += 1
        consumer.held[new] = held
        return new

    # -- settling

    def ack(self, consumer: Consumer, tokens: list[bytes]) -> list[bytes]:
        """Forget the messages of *tokens*; return the tokens that *consumer* does not hold."""
        expired = []
        settled: list[Held] = []
        held = consumer.held
        for token in tokens:
            delivery = held.pop(token, None)
            if delivery is None:
                expired.append(token)
            else:
                settled.append(delivery)
        consumer.queue.settle(settled)
        return expired

    def release(self, consumer: Consumer, held: Held, *, started: bool) -> None:
        """Make a message deliverable at its old place."""
        consumer.queue.give_back(held, died=started)
        self._active[consumer.queue] = None

    def bury(self, wall: float, consumer: Consumer, held: Held, error: str) -> None:
        """Make a message a dead letter."""
        consumer.queue.bury(held, error[: self._limits.text_length], wall)

    def retry(self, now: float, consumer: Consumer, held: Held, delay: float) -> None:
        """Make a message deliverable after *delay*, as the next attempt."""
        due = now + self._offset + delay
        consumer.queue.postpone(held, due, delay, attempts=held.attempts + 1, deaths=0)
        self._active[consumer.queue] = None

    # -- dead letters, and the whole queue

    def stats(self, now: float, name: str) -> tuple[int, int, int, int]:
        """Count ready, delayed, in flight and dead."""
        queue = self._queues.get(name)
        if queue is None:
            return 0, 0, 0, 0
        delayed = queue.delayed(now + self._offset)
        ready = queue.messages - queue.in_flight - delayed
        return ready, delayed, queue.in_flight, queue.dead

    def dead_letters(self, name: str, count: int) -> list[tuple[str, bytes, str, int, float]]:
        """Return the oldest dead letters, as many as one answer can hold."""
        queue = self._queues.get(name)
        if queue is None or not queue.dead:
            return []
        return self._journal.dead_letters.read(queue.id, count, self._limits.max_message // 4)

    def requeue(self, now: float, name: str, id: str) -> None:  # noqa: A002
        """Make a dead letter the newest message; raises BackendRefused if there is none."""
        queue = self._queues.get(name)
        found = None if queue is None else self._journal.dead_letters.exhume(queue.id, id)
        if queue is None or found is None:
            raise BackendRefused(f"queue {name!r} has no dead letter {id!r}")
        queue.dead -= 1
        message = Message(self._seq + 1, id, found[0], 0, 0, found[1], False)
        self._add(queue, [message], None, None, now)

    def purge(self, name: str) -> int:
        """Remove what is ready, delayed or dead; return how many messages that were."""
        queue = self._queues.get(name)
        return 0 if queue is None else queue.purge(self._seq)

    # -- time

    def dispatch(self, now: float) -> dict[Consumer, None]:
        """Hand messages out; return the consumers that have something in their batch."""
        touched: dict[Consumer, None] = {}
        if self.held_back:
            return touched
        scaled = now + self._offset
        left = _TURN
        for queue in list(self._active):
            if left <= 0:
                break
            del self._active[queue]
            queue.promote(scaled)
            overdue = self._watch(queue, scaled)
            count = queue.dispatch(min(_QUANTUM, left), self._epoch, self._delivery, touched)
            self._delivery += count
            left -= count
            if count:
                self._dispatched.append(queue)
            if queue.dispatchable or (overdue and queue.is_attended):
                self._active[queue] = None
        return touched

    def read_ahead(self) -> None:
        """Have the messages that come next in memory, of the queues that handed some out.

        Done when these have left: reading takes time in which their consumers handle them.
        """
        for queue in self._dispatched:
            queue.read_ahead()
        self._dispatched.clear()

    @property
    def busy(self) -> bool:
        """Whether `dispatch` has more to do."""
        return bool(self._active) and not self.held_back

    def _watch(self, queue: Queue, scaled: float) -> bool:
        """Return whether more is due than there was room for in memory, or see to it later."""
        due = queue.next_due()
        if due is None:
            return False
        if due > scaled and (queue.alarm is None or due < queue.alarm):
            queue.alarm = due
            self._alarm_number += 1
            heappush(self._alarms, (due, self._alarm_number, queue))
        return due <= scaled

    def next_alarm(self) -> float | None:
        """Return when `wake` has something to do, on the monotonic scale; None for never."""
        return self._alarms[0][0] - self._offset if self._alarms else None

    def wake(self, now: float) -> None:
        """Let the next `dispatch` look at the queues in which a message has become due."""
        while self._alarms and self._alarms[0][0] <= now + self._offset:
            due, _, queue = heappop(self._alarms)
            if queue.alarm == due:
                queue.alarm = None
            self._active[queue] = None

    def keep_house(self, now: float) -> None:
        """Remove a little of what is not needed any more; called about once a second."""
        self._journal.channels.sweep(_SWEEP)
        self._dedup.forget(now + self._offset)

        if now - self._dropped_at >= _IDLE / 2:
            self._dropped_at = now
            self._drop_idle(now)

    def _drop_idle(self, now: float) -> None:
        for name, queue in list(self._queues.items()):
            if not (queue.messages or queue.dead or queue.consumers) and (
                queue.used_at < now - _IDLE
            ):
                del self._queues[name]
                self._active.pop(queue, None)
                self._journal.channels.remove(queue.id)
