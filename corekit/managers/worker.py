"""The consumption of one channel: asks for messages, runs handlers, gives back what must wait."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass

from ..adapters import Delivery, EventQueueAdapter
from ..tasks import TaskOwner
from ..timers import EarliestTimer
from .context import ManagerContext
from .delivery import Process
from .handler_context import enter_handler
from .handling import Handling, Run, Stage
from .log_limit import LogLimit
from .prefetch import MOST, PrefetchBuffer, PrefetchCount

logger = logging.getLogger("corekit.event_queue")

#: How long a cancelled handler may take to end, in seconds, before its slot is freed without it.
_CLEAN_UP = 1.0

#: How often a handler that does not end is logged, in seconds.
_REMINDER = 30.0

#: How often `idle` is asked while it says no, in seconds.
_IDLE_INTERVAL = 0.25

#: How often held messages are looked after, in seconds: what was there at the last look already is
#: given back, with all behind it, so nothing is held for longer than twice this time.
_LOOK = 0.125

#: How long one task runs handlers that never suspend before others get their turn, in seconds.
_BURST = 0.005

#: How long nothing is started after a handler was cancelled by others, in seconds.
_CALM = 0.05

#: A handler that holds the loop up for longer is logged, in seconds.
_BLOCKING = 1.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """What `EventQueue.subscribe` was told."""

    channel: str
    full_name: str

    process: Process
    concurrency: int
    idle: Callable[[], object] | None
    topic: str | None


class Worker:
    """Consumes one channel, in one start of the App.

    Handlers run in tasks. A task whose handler ended without having suspended, and left nothing
    in its context, takes the next message itself; otherwise that one gets a new task. So quick
    handlers do not cost a task each, and no handler sees what another one left.
    """

    def __init__(
        self, subscription: Subscription, context: ManagerContext, adapter: EventQueueAdapter
    ) -> None:
        self._full_name = subscription.full_name
        self._channel = subscription.channel
        self._idle = subscription.idle
        self._now = context.clock.monotonic
        self._slots = subscription.concurrency if subscription.concurrency > 0 else sys.maxsize
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(enter_handler, context.instance_id)
        self._tasks = TaskOwner(f"event queue {subscription.channel!r}")

        self._consumer = adapter.consume(subscription.full_name, self)
        self._handling = Handling(
            subscription.channel, subscription.process, context, self._consumer
        )
        self._prefetch_count = PrefetchCount(self._slots)
        self._buffer = PrefetchBuffer(self._consumer, self._now, in_order=self._slots == 1)
        self._taking = True
        #: Whether `idle` said no when it was asked last.
        self._paused = False
        self._idle_log = LogLimit(context.clock, _REMINDER)

        self._running: set[Run] = set()
        #: The tasks that were spawned last, until they have come to their first await.
        self._newest: list[Run] = []
        #: Whether those before came to one at all, and did not end in their first step.
        self._suspending = False
        self._started = 0
        #: Handlers that do not end, and when that is logged again.
        self._abandoned: dict[Run, float] = {}
        self._quiet = asyncio.Event()
        self._quiet.set()

        #: Runs while nothing is started, because a handler was cancelled by others.
        self._calming: asyncio.TimerHandle | None = None
        self._timer = EarliestTimer(self._loop, self._woken)
        self._look_at = math.inf
        #: How many messages will have been started when those that were held then are.
        self._held_to = 0
        self._go_on()

    def __repr__(self) -> str:
        state = "stopped" if not self._taking else "paused" if self._paused else "taking"
        return (
            f"<Worker {self._full_name!r} {state} running={len(self._running)} "
            f"abandoned={len(self._abandoned)} {self._buffer!r}>"
        )

    # What the adapter calls.

    def deliveries(self, batch: Sequence[Delivery]) -> None:
        self._buffer.add(batch)
        if self._taking:
            self._go_on()
        else:
            self._buffer.give_back()

    def expired(self, delivery: Delivery) -> None:
        logger.warning(
            "channel %r: message %s went to another consumer while it was handled here",
            self._channel,
            delivery.id,
        )

    # What to start, and what to ask for.

    def _go_on(self) -> None:
        """Start what there is and has room, and ask for more."""
        if not self._taking or self._newest or self._calming or not self._loop.is_running():
            # The newest tasks must come to their first await first; then it goes on from here.
            # A loop that ended in the middle takes its tasks apart, and nothing goes on.
            return
        while len(self._running) < self._slots and (delivery := self._next()) is not None:
            self._spawn(delivery)
            if self._idle is not None or not self._suspending:
                # The next message may depend on what this one does, or fit into the same task.
                break
        if self._newest:
            # The loop is first in, first out: this comes right after the tasks' first steps.
            self._loop.call_soon(self._stepped)
        if self._paused:
            self._buffer.give_back()
            self._look_within(_IDLE_INTERVAL)
            return
        ahead = self._prefetch_count.ahead if self._idle is None else 0
        self._buffer.fill(min(self._slots - len(self._running), MOST) + ahead)
        if self._buffer:
            self._look_within(_LOOK)

    def _next(self) -> Delivery | None:
        if self._idle is not None:
            self._paused = not self._asked_idle(self._idle)
            if self._paused:
                return None
        delivery = self._buffer.next()
        if delivery is not None:
            self._started += 1
        return delivery

    def _asked_idle(self, idle: Callable[[], object]) -> bool:
        try:
            answer = idle()
            if not inspect.isawaitable(answer):
                return bool(answer)
            if inspect.iscoroutine(answer):
                answer.close()
            problem: BaseException = TypeError("idle must be a plain function")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever else it raises means "not idle"
            problem = error
        if self._idle_log.passes():
            logger.error("channel %r: idle() failed, so not idle", self._channel, exc_info=problem)
        return False

    def _spawn(self, delivery: Delivery) -> None:
        run = Run(delivery)
        self._newest.append(run)
        self._running.add(run)
        self._quiet.clear()
        run.task = self._tasks.spawn(self._run(run), name=delivery.id, context=self._context.copy())

    def _stepped(self) -> None:
        self._suspending = False
        for run in self._newest:
            if run.task.done():
                # Ended, unless it was cancelled before it had begun: then it is still here.
                self._release_unstarted(run)
            else:
                self._suspending = run.suspended = True
                self._timer.set(run.deadline)
        self._newest.clear()
        self._go_on()

    def _release_unstarted(self, run: Run) -> None:
        if run in self._running:
            self._consumer.release(run.delivery, started=False)
            self._ended(run)

    async def _run(self, run: Run) -> None:
        """Handle the message of *run*, and the next ones as long as that disturbs nobody."""
        began = started = self._now()
        delivery: Delivery | None = run.delivery
        try:
            while delivery is not None:
                await self._handling.handle(run, delivery, started)
                ended = self._now()
                self._prefetch_count.measured(ended - started)
                if run.suspended or ended - began > _BURST or self._left_traces(run):
                    break
                started = ended
                delivery = self._next()
            if not run.suspended and ended - began > _BLOCKING:
                logger.warning(
                    "channel %r: the handler held up the event loop for %.1f s",
                    self._channel,
                    ended - began,
                )
        finally:
            self._ended(run)

    def _left_traces(self, run: Run) -> bool:
        """Tell whether the next handler in the same task could notice this one."""
        try:
            return run.task.cancelling() > 0 or copy_context() != self._context
        except Exception:  # noqa: BLE001 - a value's own comparison failed, so there is a new value
            return True

    def _ended(self, run: Run) -> None:
        self._running.discard(run)
        if self._abandoned.pop(run, None) is not None:
            logger.info(
                "channel %r: the abandoned handler of message %s has ended",
                self._channel,
                run.delivery.id,
            )
        if not self._running:
            self._quiet.set()
        if run.stage is Stage.RUNNING and run.task.cancelling() and self._calming is None:
            # If the loop is being torn down, nobody would end a task that is begun now.
            self._calming = self._loop.call_later(_CALM, self._calmed)
        if run.suspended:
            self._go_on()

    def _calmed(self) -> None:
        self._calming = None
        self._go_on()

    # What happens in time.

    def _look_within(self, seconds: float) -> None:
        if self._look_at == math.inf:
            self._held_to = self._started + len(self._buffer)
            self._look_at = self._now() + seconds
            self._timer.set(self._look_at)

    def _woken(self) -> None:
        now = self._now()
        if now >= self._look_at:
            self._look_at = math.inf
            self._look()
        self._timer.set(self._look_at)
        for run in [run for run in self._running if run.suspended]:
            if now >= run.deadline:
                self._overdue(run, now)
            self._timer.set(run.deadline)
        for run, due in list(self._abandoned.items()):
            if now >= due:
                self._remind(run, now)
            self._timer.set(self._abandoned[run])

    def _look(self) -> None:
        """Give everything back if something waits too long; ask `idle` again if it said no."""
        if not self._paused and self._started < self._held_to:
            self._prefetch_count.stalled()
            self._buffer.give_back()
        self._go_on()

    def _overdue(self, run: Run, now: float) -> None:
        if run.stage is Stage.RUNNING:
            run.stage = Stage.TIMED_OUT
            run.deadline = now + _CLEAN_UP
            run.task.cancel()
        else:
            self._abandon(run)
            self._go_on()

    def _abandon(self, run: Run) -> None:
        """Settle the message of *run* and free its slot, though its handler still runs."""
        self._handling.settle_cancelled(run)
        run.stage = Stage.ABANDONED
        self._running.discard(run)
        if not self._running:
            self._quiet.set()
        self._remind(run, self._now())

    def _remind(self, run: Run, now: float) -> None:
        self._abandoned[run] = now + _REMINDER
        logger.error(
            "channel %r: the handler of message %s was cancelled and still runs; it is left alone",
            self._channel,
            run.delivery.id,
        )

    # The end.

    def cease(self) -> None:
        """Take no more messages, and give back those that were not started."""
        self._taking = False
        self._buffer.give_back()

    async def retire(self) -> None:
        """Let running handlers end, then close the consumer."""
        self.cease()
        await self._quiet.wait()
        await self._close()

    async def drain(self, grace: float) -> None:
        """Let running handlers end for *grace* seconds, then cancel them and give back the rest.

        Cancelled: they are cancelled at once, and their messages are given back.
        """
        self.cease()
        try:
            await self._quiet_within(grace)
            self._cancel_running()
            await self._quiet_within(_CLEAN_UP)
        finally:
            self._cancel_running()
            for run in list(self._running):
                self._abandon(run)
        await self._close()

    async def _close(self) -> None:
        self._timer.close()
        if self._calming is not None:
            self._calming.cancel()
        try:
            await self._consumer.close()
        except Exception:
            logger.exception("channel %r: its consumer failed to close", self._channel)

    async def _quiet_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()

    def _cancel_running(self) -> None:
        for run in list(self._running):
            if run.stage is Stage.RUNNING:
                run.stage = Stage.STOPPED
                run.task.cancel()
