"""An event queue inside one process, for all Apps that name the same hub."""

from __future__ import annotations

import asyncio
import itertools
from asyncio import _get_running_loop
from collections.abc import Callable

from ..adapters import (
    AdapterContext,
    DeadMessage,
    Delivery,
    DeliveryReceiver,
    Guarantee,
    QueueStats,
)
from ..config import BackendURL
from ..errors import NotOpenError
from ..timers import EarliestTimer
from .backlog import Backlog, Channel, Message
from .hub import OPTIONS, hub

#: How many messages a channel may hold, unless the URL says otherwise.
_MOST = 100_000

#: After so many messages a publisher lets others run: nothing else here makes it wait, and a
#: publisher in a loop would fill the queue before any consumer had a turn.
_BURST = 64


class Queues(Backlog):
    """What all event queues of one hub share: the messages, and the adapters that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters: dict[MemoryEventQueue, None] = {}


class MemoryConsumer:
    """Takes messages from one channel, in one event loop."""

    def __init__(
        self, adapter: MemoryEventQueue, channel: Channel, receiver: DeliveryReceiver
    ) -> None:
        self._adapter = adapter
        self._queues = adapter.queues
        self._channel = channel
        self._receiver = receiver
        self._tokens = itertools.count(1)
        #: What was delivered, or is about to be, and not settled yet; by its delivery's token.
        self._taken: dict[object, Message] = {}
        self._outgoing: list[int] = []
        self.credit = 0
        self.closed = False

    def __repr__(self) -> str:
        return (
            f"<MemoryConsumer {self._channel.name!r} credit={self.credit} "
            f"taken={len(self._taken)}{' closed' if self.closed else ''}>"
        )

    def take(self, message: Message) -> None:
        token = next(self._tokens)
        self._taken[token] = message
        self._outgoing.append(token)
        if len(self._outgoing) == 1:
            self._adapter.call_soon(self._deliver)

    def _deliver(self) -> None:
        with self._queues.lock:
            outgoing, self._outgoing = self._outgoing, []
            batch = [
                Delivery(
                    message.id,
                    message.payload,
                    message.attempt,
                    message.deaths,
                    message.published_at,
                    token,
                )
                for token in outgoing
                if (message := self._taken.get(token)) is not None
            ]
        if batch:
            self._receiver.deliveries(batch)

    def grant(self, credit: int) -> None:
        with self._queues.lock:
            if self.closed:
                return
            if not self.credit:
                self._channel.waiting.append(self)
            self.credit += credit
            self._channel.serve()

    def revoke(self) -> None:
        with self._queues.lock:
            self._revoke()

    def ack(self, delivery: Delivery) -> None:
        with self._queues.lock:
            message = self._settled(delivery)
            if message is not None:
                self._queues.end(self._channel, message)

    def release(self, delivery: Delivery, *, started: bool) -> None:
        with self._queues.lock:
            message = self._settled(delivery)
            if message is not None:
                message.deaths += started
                self._channel.put_back(message)
                self._channel.serve()

    def retry(self, delivery: Delivery, *, delay: float, error: str) -> None:
        with self._queues.lock:
            message = self._settled(delivery)
            if message is not None:
                message.attempt += 1
                message.deaths = 0
                message.error = error
                self._adapter.delay(self._channel, message, delay)

    def bury(self, delivery: Delivery, *, error: str) -> None:
        with self._queues.lock:
            message = self._settled(delivery)
            if message is not None:
                message.error = error
                message.died_at = self._adapter.clock.time()
                self._queues.bury(self._channel, message)

    async def close(self) -> None:
        with self._queues.lock:
            self.end(died=False)

    def end(self, *, died: bool) -> None:
        """Give everything back; *died*: without a word, so that it counts as a death."""
        if self.closed:
            return
        self.closed = True
        self._revoke()
        channel = self._channel
        waiting = set(self._outgoing)
        for token, message in self._taken.items():
            message.deaths += died and token not in waiting
            channel.put_back(message)
        channel.in_flight -= len(self._taken)
        channel.consumers -= 1
        self._taken.clear()
        self._adapter.consumers.discard(self)
        channel.serve()
        self._queues.drop_if_empty(channel)

    def _settled(self, delivery: Delivery) -> Message | None:
        message = self._taken.pop(delivery.token, None)
        if message is not None:
            self._channel.in_flight -= 1
        return message

    def _revoke(self) -> None:
        if self.credit:
            self.credit = 0
            self._channel.waiting.remove(self)


class MemoryEventQueue:
    """The event queue of a `memory://` URL.

    It lives as long as the process, and is lost with it. Apps in several event loops and threads
    may share it.
    """

    guarantees = frozenset(
        {Guarantee.ORDERED, Guarantee.DELAYED, Guarantee.DEDUPLICATED, Guarantee.COUNTED}
    )

    def __init__(self, queues: Queues, context: AdapterContext, most: int) -> None:
        self.queues = queues
        self.clock = context.clock
        self.consumers: set[MemoryConsumer] = set()
        self._most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: EarliestTimer | None = None
        self._burst = 0

    def __repr__(self) -> str:
        state = "closed" if self._loop is None else "open"
        return f"<MemoryEventQueue {state} consumers={len(self.consumers)} {self.queues!r}>"

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer = EarliestTimer(self._loop, self._serve_due)
        with self.queues.lock:
            for adapter in [a for a in self.queues.adapters if a.lost]:
                adapter.end(died=True)
            self.queues.adapters[self] = None
            self.set_timer()

    async def close(self) -> None:
        with self.queues.lock:
            self.end(died=False)

    async def publish(
        self,
        channel: str,
        id: str,  # noqa: A002
        payload: bytes,
        *,
        delay: float = 0.0,
        dedup_id: str | None = None,
    ) -> str:
        self._burst += 1
        if self._burst >= _BURST:
            self._burst = 0
            await asyncio.sleep(0)
        self._check_open()
        message = Message(id, payload, self.clock.time(), dedup_id)
        queues = self.queues
        with queues.lock:
            now = self.clock.monotonic() if delay or dedup_id is not None else 0.0
            id = queues.add(channel, message, now=now, delay=delay, most=self._most)  # noqa: A001
            if delay:
                self.set_timer()
        return id

    def consume(self, channel: str, receiver: DeliveryReceiver) -> MemoryConsumer:
        self._check_open()
        with self.queues.lock:
            found = self.queues.channel(channel)
            found.consumers += 1
            consumer = MemoryConsumer(self, found, receiver)
            self.consumers.add(consumer)
        return consumer

    async def stats(self, channel: str) -> QueueStats:
        self._check_open()
        with self.queues.lock:
            self.queues.serve_due(self.clock.monotonic())
            found = self.queues.channels.get(channel)
            if found is None:
                return QueueStats(0, 0, 0, 0)
            return QueueStats(len(found), found.delayed, found.in_flight, len(found.dead))

    async def dead_letters(self, channel: str, limit: int) -> list[DeadMessage]:
        self._check_open()
        with self.queues.lock:
            found = self.queues.channels.get(channel)
            dead = [] if found is None else itertools.islice(found.dead.values(), limit)
            return [DeadMessage(m.id, m.payload, m.error, m.attempt, m.died_at) for m in dead]

    async def requeue(self, channel: str, id: str) -> None:  # noqa: A002
        self._check_open()
        with self.queues.lock:
            self.queues.requeue(channel, id, most=self._most)

    async def purge(self, channel: str) -> int:
        self._check_open()
        with self.queues.lock:
            return self.queues.purge(channel)

    # For its consumers, and other adapters of the hub; with the lock held.

    @property
    def lost(self) -> bool:
        """Whether its event loop has ended without a `close`."""
        return self._loop is not None and self._loop.is_closed()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call *callback* in this adapter's loop."""
        loop = self._loop
        if loop is None:
            return
        if _get_running_loop() is loop:
            loop.call_soon(callback)
            return
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # Its loop has ended without a word, and so have all its consumers.
            self.end(died=True)

    def delay(self, channel: Channel, message: Message, delay: float) -> None:
        """Make *message* deliverable after *delay* seconds."""
        if delay > 0:
            self.queues.delay(channel, message, self.clock.monotonic() + delay)
            self.set_timer()
        else:
            channel.put_back(message)
            channel.serve()

    def set_timer(self) -> None:
        """Wake up when the next delayed message is due; called in this adapter's loop."""
        due = self.queues.next_due
        if due is not None and self._timer is not None:
            self._timer.set(due)

    def end(self, *, died: bool) -> None:
        """Close all consumers, and leave the delayed messages to another adapter."""
        if self._loop is None:
            return
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        for consumer in list(self.consumers):
            consumer.end(died=died)
        self._loop = None
        self.queues.adapters.pop(self, None)
        for other in self.queues.adapters:
            other.call_soon(other._serve_due)
            break

    def _serve_due(self) -> None:
        with self.queues.lock:
            self.queues.serve_due(self.clock.monotonic())
            self.set_timer()

    def _check_open(self) -> None:
        if self._loop is None:
            raise NotOpenError("the event queue's adapter is closed")


def memory_event_queue(url: BackendURL, context: AdapterContext) -> MemoryEventQueue:
    """Build the event queue of `memory://NAME`.

    `max_messages=` bounds the messages of a channel that have not ended (100,000), beyond which
    publishing raises QueueFull. The options of the other components are left to them.
    """
    url.refuse_other_options(*OPTIONS)
    most = url.whole("max_messages", default=_MOST, least=1, most=100_000_000)
    return MemoryEventQueue(hub(url, context, Queues), context, most)
