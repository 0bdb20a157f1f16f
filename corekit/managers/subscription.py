"""One handler on one channel: its buffer, its debouncing, its turn."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from ..errors import SerializationError
from ..tasks import TaskOwner, is_being_cancelled
from .context import ManagerContext
from .handler_context import enter_handler
from .log_limit import LogLimit
from .subscription_options import Handler, Options, Resync

logger = logging.getLogger("corekit.pub_sub")

#: Stands among the messages where some are missing.
GAP: Final = object()

#: Seconds until a failed resync is tried again: the first time, and at most.
_FIRST_RETRY = 1.0
_LAST_RETRY = 60.0

#: Seconds after which a task that has had nothing to do is ended, twice as many at most. To begin
#: one costs a message that comes alone more than anything else here.
_REST = 1.0


@dataclass(slots=True)
class _Held:
    """A debounced message and the time at which it will be handled, unless it comes again."""

    message: Any
    due: float
    last: float
    """The latest that `due` can become."""


class Subscription:
    """Hands a channel's messages to one handler, in order, one at a time.

    A task does it, and rests for a moment when there is nothing more to do; later there is none.
    Whatever fails in a handler is logged and is that message's end only.
    """

    def __init__(
        self,
        context: ManagerContext,
        tasks: TaskOwner,
        channel: str,
        full_name: str,
        handler: Handler,
        options: Options,
    ) -> None:
        self._context = context
        self._tasks = tasks
        self._channel = channel
        self._full_name = full_name
        self.handler = handler
        self._options = options
        # Handlers run in the context of the call that subscribed them, not in that of whoever
        # published or received a message.
        self._variables = copy_context()
        self._buffer: deque[Any] = deque()
        #: How many of what is in the buffer are gaps; they do not count as messages.
        self._gaps = 0
        self._task: asyncio.Task[None] | None = None
        #: Whether it is at work, or about to be; otherwise what it rests on, if it does.
        self._running = False
        self._rest: asyncio.Future[None] | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._held: dict[bytes, _Held] = {}
        self._debounce_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._failed_resyncs = 0
        self._overflow_log = LogLimit(context.clock)

    def __repr__(self) -> str:
        state = "running" if self._running else "resting" if self._rest else "idle"
        return (
            f"<Subscription {self._full_name!r} {name_of(self.handler)} {state} "
            f"buffered={len(self._buffer)} held={len(self._held)}>"
        )

    def renewed(self) -> Subscription:
        """Return the same subscription for another run of the App, with nothing in it."""
        fresh = Subscription(
            self._context,
            self._tasks,
            self._channel,
            self._full_name,
            self.handler,
            self._options,
        )
        fresh._variables = self._variables
        return fresh

    def replace(self, options: Options) -> None:
        """Go on with other *options*; what waits is kept, and what is held comes at once."""
        self._options = options
        self._cancel_debounce_timer()
        self._release(float("inf"))
        self._shorten()

    def put(self, batch: Sequence[Any], gaps: int) -> None:
        """Take messages, with `GAP` where some are missing, *gaps* times, never twice in a row.

        Returns at once and never raises.
        """
        buffer = self._buffer
        if self._options.debounce:
            self._hold(batch)
        else:
            if gaps:
                if batch[0] is GAP and buffer and buffer[-1] is GAP:
                    batch = batch[1:]
                    gaps -= 1
                self._gaps += gaps
            buffer.extend(batch)
        if len(buffer) - self._gaps + len(self._held) > self._options.buffer:
            self._shorten()
        if not self._running and self._buffer:
            self._start()

    def stop(self) -> None:
        """Drop what waits, for good; a call of the handler that runs is left alone."""
        self._stopped = True
        self._buffer.clear()
        self._gaps = 0
        self._held.clear()
        self._cancel_debounce_timer()
        self._cancel_retry_timer()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    # The turn.

    def _start(self) -> None:
        self._running = True
        rest, self._rest = self._rest, None
        # The task of one that was cancelled ends without another look at the buffer.
        if rest is not None and not rest.cancelled():
            rest.set_result(None)
            return
        variables = self._variables.copy()
        self._task = self._tasks.spawn(self._run(), name=self._full_name, context=variables)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Take note that *task* has ended; what it left, being cancelled, another one does."""
        if task is self._task:
            self._task = self._rest = None
            self._running = False
            if self._buffer and task.cancelled():
                self._start()

    async def _run(self) -> None:
        enter_handler(self._context.instance_id)
        variables = copy_context()
        loop = asyncio.get_running_loop()
        buffer = self._buffer
        handler = self.handler
        while True:
            while buffer:
                message = buffer.popleft()
                if message is GAP:
                    self._gaps -= 1
                    await self._tell_gap()
                    continue
                try:
                    await handler(message)
                except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                    self._failed("handler", handler, error)
            message = None  # nobody is to wait for its end meanwhile
            self._running = False
            # What comes later is to find everything as it was: also nobody who cancels.
            is_as_new = not is_being_cancelled() and _are_same(copy_context(), variables)
            if self._stopped or not is_as_new:
                return
            rest = self._rest = loop.create_future()
            if self._rest_timer is None:
                self._rest_timer = loop.call_later(_REST, self._look, None)
            # Cancelled when nothing comes for long.
            await rest

    def _look(self, before: asyncio.Future[None] | None) -> None:
        """End the task if it still rests on what it did at the last look."""
        self._rest_timer = None
        rest = self._rest
        if rest is None:
            return
        if rest is before:
            self._rest = None
            rest.cancel()
            return
        self._rest_timer = asyncio.get_running_loop().call_later(_REST, self._look, rest)

    def _failed(self, what: str, function: Callable[..., object], error: BaseException) -> None:
        """Log that *function* failed with *error*; raise what is not its failure."""
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise error
        if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
            raise error
        logger.error(
            "channel %s: %s %s failed", self._full_name, what, name_of(function), exc_info=error
        )

    # Gaps.

    async def _tell_gap(self) -> None:
        on_gap, resync = self._options.on_gap, self._options.resync
        if on_gap is not None:
            try:
                result = on_gap(self._channel)
                if inspect.isawaitable(result):
                    await result
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                self._failed("on_gap", on_gap, error)
        if resync is not None:
            await self._resync(resync)

    async def _resync(self, resync: Resync) -> None:
        self._cancel_retry_timer()
        try:
            await resync()
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            self._failed("resync", resync, error)
        else:
            self._failed_resyncs = 0
            return
        if self._stopped:
            return
        # Messages are handled meanwhile: a resync that always fails must not end the channel.
        delay = min(_FIRST_RETRY * 2**self._failed_resyncs, _LAST_RETRY)
        self._failed_resyncs = min(self._failed_resyncs + 1, 16)
        self._retry_timer = asyncio.get_running_loop().call_later(
            delay * random.uniform(0.75, 1.25),  # noqa: S311 - spreads instances, hides nothing
            self._retry_resync,
        )

    def _retry_resync(self) -> None:
        self._retry_timer = None
        self._put_gap_first()
        if not self._running:
            self._start()

    def _cancel_retry_timer(self) -> None:
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None

    # The bound.

    def _shorten(self) -> None:
        """Drop the oldest until the buffer is no longer than it may be, and put a gap there."""
        options, buffer, held = self._options, self._buffer, self._held
        excess = len(buffer) - self._gaps + len(held) - options.buffer
        if excess <= 0:
            return
        while excess and len(buffer) > self._gaps:
            if buffer.popleft() is GAP:
                self._gaps -= 1
            else:
                excess -= 1
        for key in list(islice(held, excess)):
            del held[key]
        self._put_gap_first()
        if self._overflow_log.passes():
            logger.warning(
                "channel %s: handler %s is too slow, its buffer of %d overflowed: "
                "the oldest messages are dropped",
                self._full_name,
                name_of(self.handler),
                options.buffer,
            )

    def _put_gap_first(self) -> None:
        if not self._buffer or self._buffer[0] is not GAP:
            self._buffer.appendleft(GAP)
            self._gaps += 1

    # Debouncing.

    def _hold(self, batch: Sequence[Any]) -> None:
        now = self._context.clock.monotonic()
        debounce, max_wait = self._options.debounce, self._options.max_wait
        canonical = self._context.serializer.canonical
        for message in batch:
            if message is GAP:
                if not self._buffer or self._buffer[-1] is not GAP:
                    self._buffer.append(GAP)
                    self._gaps += 1
                continue
            try:
                key = canonical(message)
            except SerializationError:
                # Readable, but not to be written again: it equals nothing.
                self._buffer.append(message)
                continue
            held = self._held.get(key)
            if held is None:
                last = float("inf") if max_wait is None else now + max_wait
                self._held[key] = _Held(message, now + debounce, last)
            else:
                held.due = min(now + debounce, held.last)
        if self._held and self._debounce_timer is None:
            self._watch()

    def _watch(self) -> None:
        # Later messages are never due before the earliest one that is held: one timer suffices.
        due = min(held.due for held in self._held.values())
        self._debounce_timer = asyncio.get_running_loop().call_at(due, self._on_time)

    def _on_time(self) -> None:
        self._debounce_timer = None
        self._release(self._context.clock.monotonic())
        if self._held:
            self._watch()

    def _cancel_debounce_timer(self) -> None:
        if self._debounce_timer is not None:
            self._debounce_timer.cancel()
            self._debounce_timer = None

    def _release(self, now: float) -> None:
        """Let the handler have what is due, in the order in which it became due."""
        due = [(held.due, key) for key, held in self._held.items() if held.due <= now]
        due.sort(key=lambda pair: pair[0])
        self._buffer.extend(self._held.pop(key).message for _, key in due)
        if not self._running and self._buffer:
            self._start()


def _are_same(one: Context, other: Context) -> bool:
    """Whether both hold the same objects; these themselves may be anything, with any `__eq__`."""
    return len(one) == len(other) and all(
        variable in one and one[variable] is value for variable, value in other.items()
    )


def name_of(function: Callable[..., object]) -> str:
    """Return what logs call *function*: its name, never its arguments."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", None) or type(function).__qualname__
