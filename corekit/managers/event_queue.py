"""The event queue: each message is handled by one instance, again if it fails."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

from .. import names
from ..adapters import EventQueueAdapter, Guarantee, QueueStats
from ..arguments import async_function, flag, is_async, seconds, shown, whole
from ..errors import ConfigurationError, InvalidType
from ..lifecycle import Gate
from ..tasks import TaskOwner
from .backoff import Backoff
from .context import ManagerContext
from .delivery import DeadLetter, DeliveryContext, Process, dead_letter, terms
from .outbox import Outbox
from .worker import Subscription, Worker

__all__ = ["DeadLetter", "DeliveryContext", "EventQueue", "Process", "QueueStats"]

logger = logging.getLogger("corekit.event_queue")

#: What retries and poison need; no adapter is used without it.
_REQUIRED = frozenset({Guarantee.DELAYED, Guarantee.COUNTED})

#: The most dead letters that one call returns.
_MOST_LETTERS = 10_000

#: Defaults of `publish`, told apart by identity: they need no check.
_TIMEOUT = 15.0
_RETRIES = 0
_NOW = 0.0

#: What travels with a message by default.
_USUAL_TERMS = terms(_TIMEOUT, _RETRIES, None)

#: How many channels' full names are kept at hand.
_MOST_NAMES = 4096

#: How long `close` waits for messages whose transaction has committed, in seconds.
_GRACE = 5.0

#: How long cancelled tasks may take to end, in seconds.
_CLEAN_UP = 1.0


class EventQueue:
    """Hands out work, as `app.event_queue`: each message to one handler of one instance.

    Delivery is at least once: a message whose handler has not returned, for whatever reason, is
    delivered again with the same id. Messages are handled in the order of publishing by one
    consumer of concurrency 1 as long as nothing fails. Calls may overlap.

    Every call raises InvalidName or InvalidType for what it does not take, and, while the App is
    started, WrongLoop or ForkedProcess from elsewhere. All but `subscribe` and `unsubscribe` raise
    NotOpenError while it is not, and BackendError if the backend fails.

    *consumes* tells whether channels of a topic (or of none) are consumed by this instance.
    """

    def __init__(self, context: ManagerContext, consumes: Callable[[str | None], bool]) -> None:
        self._context = context
        self._consumes = consumes
        self._gate = Gate("the event queue")
        self._tasks = TaskOwner("event queue")
        self._outbox = Outbox(context, self._gate, self._tasks, logger)
        self._adapter: EventQueueAdapter | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._consuming = False
        self._workers: dict[str, Worker] = {}
        #: Workers whose channel was unsubscribed while handlers ran.
        self._retiring: set[Worker] = set()
        self._full_names: dict[str, str] = {}
        self._ids = self._new_ids()

    def __repr__(self) -> str:
        state = "consuming" if self._consuming else "open" if self._gate.is_open else "closed"
        return (
            f"<EventQueue {self._context.app!r} {state} subscriptions={len(self._subscriptions)} "
            f"workers={len(self._workers) + len(self._retiring)}>"
        )

    # Opening and closing, by the App.

    async def open(self, adapter: EventQueueAdapter) -> None:
        """Open *adapter*, new and not opened yet; from then on all calls work but none consumes.

        Raises ConfigurationError if the adapter lacks a guarantee that retries need, and what the
        adapter raises; *adapter* is then closed, as after a cancelled call.
        """
        missing = _REQUIRED - adapter.guarantees
        if missing:
            raise ConfigurationError(
                "event_queue: this backend cannot retry messages, it lacks "
                f"{', '.join(sorted(missing))}; use another backend for the event queue"
            )
        try:
            await adapter.open()
        except BaseException:
            await adapter.close()
            raise
        self._adapter = adapter
        self._ids = self._new_ids()
        self._gate.open()

    async def start_consuming(self) -> None:
        """Consume every channel that was subscribed and whose topic this instance serves.

        Raises what the adapter raises; `close` then undoes what was begun.
        """
        self._gate.check()
        self._consuming = True
        for subscription in list(self._subscriptions.values()):
            self._consume(subscription)

    async def drain(self, grace: float | timedelta) -> None:
        """Consume no more; publishing goes on to work.

        Messages that no handler has started are given back at once. Running handlers may go on for
        *grace* seconds; then they are cancelled, and their messages given back. A handler that does
        not end within another second is left alone, its message is given back, and the log says so.
        If this call is cancelled, handlers are cancelled and their messages given back at once.
        """
        allowed = seconds("grace", grace, zero=True)
        self._consuming = False
        workers = [*self._workers.values(), *self._retiring]
        for worker in workers:
            worker.cease()
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.drain(allowed), name="event queue: drain")
        self._workers.clear()
        self._retiring.clear()

    async def close(self) -> None:
        """Drain without grace, if that was not done, and close the adapter.

        Messages whose transaction has committed have five seconds to leave. Subscriptions are kept
        for the next `open`. On a closed queue it does nothing.
        """
        adapter = self._adapter
        if adapter is None:
            return
        try:
            await self.drain(0)
            # Until then the gate is open: the outbox still publishes.
            await self._tasks.wait(_GRACE)
        finally:
            self._gate.close()
            self._consuming = False
            self._adapter = None
            self._tasks.cancel()
            try:
                await self._tasks.wait(_CLEAN_UP)
            finally:
                self._workers.clear()
                self._retiring.clear()
                await adapter.close()

    # Consuming.

    def subscribe(
        self,
        channel: str,
        process: Process,
        *,
        concurrency: int = 1,
        idle: Callable[[], object] | None = None,
        topic: str | None = None,
        shared: bool = False,
    ) -> None:
        """Handle the messages of *channel* by `await process(message, context)`.

        *process* is an async function; its *context* is a `DeliveryContext`. If it returns, the
        message is done. If it raises, or runs past the message's timeout (it is cancelled then),
        the message is delivered again after a back-off, as often as its publisher allowed, and
        then becomes a dead letter. A message may come twice: make the handler idempotent, by the
        context's id. Handlers that never suspend may run one after another in one task.

        *concurrency*: how many handlers run at a time in this instance; 0 or less: any number, so
        that memory is bounded by what the handlers do, not by the queue. *idle*: a plain function;
        while it returns something false this instance takes no message. It is asked before each
        message, after every completion, and at least every 0.25 seconds while it says no; if it
        fails, that is logged and means "not idle". *topic*: consume only where
        `app.serving(topic)`; without a topic, everywhere but in the worker mode "-". *shared*: the
        name of the channel is not prefixed by the App's, for several applications on one queue.

        Before the App has started it is remembered; afterwards it begins at once. It stays through
        stop and start.

        Raises ConfigurationError if the channel has a process function here already, InvalidType,
        InvalidName (channel, topic) or InvalidArgument; nothing was changed then.
        """
        name = self._full_name(channel, shared)
        async_function("process", process)
        if isinstance(concurrency, bool) or not isinstance(concurrency, int):
            raise InvalidType(f"concurrency must be a whole number, not {shown(concurrency)}")
        if idle is not None and (not callable(idle) or is_async(idle)):
            raise InvalidType(f"idle must be a plain function, not {shown(idle)}")
        self._consumes(topic)
        if name in self._subscriptions:
            raise ConfigurationError(
                f"channel {channel!r} has a process function already; unsubscribe it first"
            )
        subscription = Subscription(channel, name, process, concurrency, idle, topic)
        if self._gate.is_open:
            self._gate.check()
        self._subscriptions[name] = subscription
        if self._consuming:
            try:
                self._consume(subscription)
            except BaseException:
                self.unsubscribe(channel, shared=shared)
                raise

    def unsubscribe(self, channel: str, *, shared: bool = False) -> None:
        """Handle no more messages of *channel*; one that is not subscribed is ignored.

        Handlers that run go on to their end; messages that none has started are given back.
        """
        name = self._full_name(channel, shared)
        if self._gate.is_open:
            self._gate.check()
        self._subscriptions.pop(name, None)
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.cease()
            self._retiring.add(worker)
            self._tasks.spawn(self._retire(worker), name=f"unsubscribe {channel}")

    # Publishing.

    async def publish(
        self,
        channel: str,
        message: Any,
        *,
        timeout: float | timedelta = _TIMEOUT,
        max_retries: int = _RETRIES,
        backoff: Backoff | None = None,
        delay: float | timedelta = _NOW,
        dedup_id: str | None = None,
        shared: bool = False,
        transaction: Any = None,
    ) -> str:
        """Queue *message* on *channel* and return its id, once the backend owns it.

        The message is encoded in this call: changing it afterwards changes nothing. Nobody needs
        to be subscribed; it waits. *timeout*: how long one attempt of the handler may take.
        *max_retries*: how often it is tried again after a failure. *backoff*: seconds before the
        first retry (default 0.5), doubled for each further one up to 5 minutes, with 25 % jitter;
        or a function of the attempt that failed (from 1), which is asked at once for up to 50
        attempts (the last answer holds for those after) and taken as it is. *delay*: seconds
        before it can be delivered. *dedup_id*: if a message with it is in the channel, or was
        published within the last two minutes, nothing is queued and that one's id is returned.
        *shared*: as in `subscribe`.

        With *transaction* it returns at once, and the message leaves after the outermost commit,
        never on rollback (a *delay* counts from there; a duplicate is dropped without notice). If
        the backend is away then, it is tried again for half a minute; an error in the log, with
        channel and id, says that it was given up.

        Raises InvalidName, InvalidType or InvalidArgument; SerializationError or MessageTooLarge;
        ConfigurationError if the backend cannot deduplicate; NotOpenError; QueueFull, StorageFull
        or BackendUnavailable: in all these cases nothing was queued. OutcomeUnknown, with
        `message_id`: it was queued or not. Cancelled: likewise.
        """
        adapter = self._open_adapter()
        name = self._full_name(channel, shared)
        later = _NOW if delay is _NOW else seconds("delay", delay, zero=True)
        if dedup_id is not None:
            dedup_id = names.checked("dedup_id", dedup_id)
            if Guarantee.DEDUPLICATED not in adapter.guarantees:
                raise ConfigurationError("dedup_id: this event queue's backend cannot deduplicate")
        if timeout is _TIMEOUT and max_retries is _RETRIES and backoff is None:
            head = _USUAL_TERMS
        else:
            head = terms(timeout, max_retries, backoff)
        payload = self._context.serializer.seal(head, message)
        id = next(self._ids)  # noqa: A001 - it is the message's id in every other place too
        if transaction is None:
            return await adapter.publish(name, id, payload, delay=later, dedup_id=dedup_id)
        send = partial(self._send, name, id, payload, later, dedup_id)
        self._outbox.defer(transaction, send, what=f"channel {name}, message {id}")
        return id

    # Looking at what is there.

    async def stats(self, channel: str, *, shared: bool = False) -> QueueStats:
        """Count the messages of *channel* in the whole cluster; all zero if there are none."""
        name = self._full_name(channel, shared)
        return await self._open_adapter().stats(name)

    async def dead_letters(
        self, channel: str, limit: int = 100, *, shared: bool = False
    ) -> list[DeadLetter]:
        """Return at most *limit* (and 10,000) dead letters of *channel*, the oldest first."""
        name = self._full_name(channel, shared)
        most = min(whole("limit", limit, least=0), _MOST_LETTERS)
        adapter = self._open_adapter()
        if most == 0:
            return []
        serializer = self._context.serializer
        return [dead_letter(serializer, dead) for dead in await adapter.dead_letters(name, most)]

    async def requeue(self, channel: str, id: str, *, shared: bool = False) -> None:  # noqa: A002
        """Make the dead letter *id* an ordinary message again.

        Attempts start again from 1, with the options of its publisher. Raises BackendRefused if
        *channel* has no such dead letter.
        """
        name = self._full_name(channel, shared)
        await self._open_adapter().requeue(name, names.checked("id", id))

    async def purge(self, channel: str, *, shared: bool = False) -> int:
        """Remove all messages of *channel* that are ready, delayed or dead; return how many.

        Those that handlers are at, or that consumers hold, are untouched.
        """
        name = self._full_name(channel, shared)
        return await self._open_adapter().purge(name)

    def _full_name(self, channel: str, shared: bool) -> str:
        if shared is False:
            known = self._full_names.get(channel) if type(channel) is str else None
            if known is not None:
                return known
        app = names.SHARED if flag("shared", shared) else self._context.app
        channel = names.checked("channel", channel)
        name = names.full(app, names.QUEUE, channel)
        if not shared:
            if len(self._full_names) >= _MOST_NAMES:
                self._full_names.clear()
            self._full_names[channel] = name
        return name

    def _open_adapter(self) -> EventQueueAdapter:
        self._gate.check()
        if self._adapter is None:
            raise self._gate.refusal()
        return self._adapter

    async def _send(
        self,
        name: str,
        id: str,  # noqa: A002
        payload: bytes,
        delay: float,
        dedup_id: str | None,
    ) -> None:
        await self._open_adapter().publish(name, id, payload, delay=delay, dedup_id=dedup_id)

    def _consume(self, subscription: Subscription) -> None:
        name = subscription.full_name
        # An `idle` that is asked here may unsubscribe this channel or any other, or subscribe anew.
        wanted = self._subscriptions.get(name) is subscription
        if wanted and self._consumes(subscription.topic):
            worker = Worker(subscription, self._context, self._open_adapter())
            self._workers[name] = worker
            worker.begin()

    async def _retire(self, worker: Worker) -> None:
        # Without limit: timeouts end every handler, or `drain` does.
        await worker.retire()
        self._retiring.discard(worker)

    @staticmethod
    def _new_ids() -> Iterator[str]:
        """Return ids that no other start of any instance gives out: a random part and a number."""
        return map(f"{secrets.token_hex(8)}-%x".__mod__, itertools.count(1))
