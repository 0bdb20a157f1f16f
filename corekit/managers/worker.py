"""The consumption of one channel: what to ask for, what to start, what to give back."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum, auto

from ..adapters import Delivery, EventQueueAdapter
from ..tasks import TaskOwner
from .context import ManagerContext
from .delivery import Process
from .handler_context import enter_handler
from .handling import Handling
from .idle_gate import IdleGate
from .prefetch import MOST, PrefetchBuffer, PrefetchCount
from .runs import Run, Runs, Stage
from .series import Series

logger = logging.getLogger("corekit.event_queue")

#: How often `idle` is asked while it says no, in seconds.
_IDLE_INTERVAL = 0.25

#: How often held messages are looked after, in seconds: what was there at the last look already is
#: given back, with all behind it, so nothing is held for longer than twice this time.
_LOOK = 0.125

#: How long nothing is started after a handler was cancelled by others, in seconds.
_CALM = 0.05


@dataclass(frozen=True, slots=True)
class Subscription:
    """What `EventQueue.subscribe` was told."""

    channel: str
    full_name: str

    process: Process
    concurrency: int
    idle: Callable[[], object] | None
    topic: str | None


class State(Enum):
    """What a worker waits for before it starts the next message.

    READY → STEPPING → READY around each start; READY or STEPPING → CALMING → READY when others
    cancel a handler; and from any of them CEASED, which is the end.
    """

    READY = auto()
    """A message, and a free slot for it."""

    STEPPING = auto()
    """The newest tasks, until they have come to their first await, or ended without one."""

    CALMING = auto()
    """A moment: if the whole loop is being torn down, nobody would end a task that is begun now."""

    CEASED = auto()
    """Nothing any more; what is delivered is given back."""


class Worker:
    """Consumes one channel, from `begin` on, in one start of the App.

    It never has more runs than slots, and never asks for more than it will start soon.
    """

    def __init__(
        self, subscription: Subscription, context: ManagerContext, adapter: EventQueueAdapter
    ) -> None:
        channel, now = subscription.channel, context.clock.monotonic
        self._channel = channel
        self._full_name = subscription.full_name
        self._slots = subscription.concurrency if subscription.concurrency > 0 else sys.maxsize
        self._idle: IdleGate | None = None
        if subscription.idle is not None:
            self._idle = IdleGate(channel, subscription.idle, context.clock)
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(enter_handler, context.instance_id)
        self._tasks = TaskOwner(f"event queue {channel!r}")

        self._consumer = adapter.consume(subscription.full_name, self)
        self._prefetch_count = PrefetchCount(self._slots)
        self._buffer = PrefetchBuffer(self._consumer, now, in_order=self._slots == 1)
        handling = Handling(channel, subscription.process, context, self._consumer)
        self._runs = Runs(channel, now, settle=handling.settle_cancelled, freed=self._go_on)
        self._series = Series(
            channel,
            handling,
            self._context,
            now,
            take=self._buffer.next if self._idle is None else self._take,
            measured=self._prefetch_count.measured,
            ended=self._ended,
        )

        self._state = State.READY
        #: The tasks of the last start, until it is known whether they come to an await.
        self._newest: list[Run] = []
        #: Whether one of those before did.
        self._suspending = False
        self._calm_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        paused = " paused" if self._paused else ""
        return (
            f"<Worker {self._full_name!r} {self._state.name.lower()}{paused} {self._runs!r} "
            f"{self._buffer!r}>"
        )

    def begin(self) -> None:
        """Ask for messages; `idle` is asked here, and may end this worker."""
        self._go_on()

    # What the adapter calls.

    def deliveries(self, batch: Sequence[Delivery]) -> None:
        self._buffer.add(batch)
        if self._state is State.CEASED:
            self._buffer.give_back()
        else:
            self._go_on()

    def expired(self, delivery: Delivery) -> None:
        logger.warning(
            "channel %r: message %s went to another consumer while it was handled here",
            self._channel,
            delivery.id,
        )

    # What to start, and what to ask for.

    @property
    def _ready(self) -> bool:
        # A loop that ended in the middle takes its tasks apart, and nothing goes on.
        return self._state is State.READY and self._loop.is_running()

    @property
    def _paused(self) -> bool:
        return self._idle is not None and self._idle.shut

    def _go_on(self) -> None:
        """Start what there is and has room, and ask for more."""
        if not self._ready:
            return
        self._start()
        if self._state is State.CEASED:
            # By `idle`, which may unsubscribe.
            return
        if self._paused:
            self._buffer.give_back()
            self._look_within(_IDLE_INTERVAL)
            return
        ahead = self._prefetch_count.ahead if self._idle is None else 0
        self._buffer.fill(min(self._slots - len(self._runs.running), MOST) + ahead)
        if self._buffer:
            self._look_within(_LOOK)

    def _start(self) -> None:
        while len(self._runs.running) < self._slots and (delivery := self._take()) is not None:
            self._spawn(delivery)
            if self._idle is not None or not self._suspending:
                # The next message may depend on what this one does, or fit into the same task.
                break
        if self._newest:
            # The loop is first in, first out: this comes right after the tasks' first steps.
            self._loop.call_soon(self._stepped)
            self._leave(State.READY, State.STEPPING)

    def _take(self) -> Delivery | None:
        """Take the next message, unless `idle` says no."""
        if self._idle is not None and not self._idle.opens():
            return None
        return self._buffer.next()

    def _spawn(self, delivery: Delivery) -> None:
        run = Run(delivery)
        self._newest.append(run)
        self._runs.add(run)
        run.task = self._tasks.spawn(
            self._series.handle(run), name=delivery.id, context=self._context.copy()
        )

    def _stepped(self) -> None:
        self._suspending = False
        for run in self._newest:
            if not run.task.done():
                self._suspending = True
                self._runs.watch(run)
            elif run in self._runs.running:
                # Cancelled before it had begun.
                self._consumer.release(run.delivery, started=False)
                self._ended(run)
        self._newest.clear()
        self._leave(State.STEPPING, State.READY)
        self._go_on()

    def _ended(self, run: Run) -> None:
        self._runs.ended(run)
        if run.stage is Stage.RUNNING and run.task.cancelling():
            self._calm()
        if run.suspended:
            self._go_on()

    def _calm(self) -> None:
        if self._state in {State.READY, State.STEPPING}:
            self._state = State.CALMING
            self._calm_timer = self._loop.call_later(_CALM, self._calmed)

    def _calmed(self) -> None:
        self._leave(State.CALMING, State.READY)
        self._go_on()

    def _leave(self, state: State, following: State) -> None:
        """Go from *state* to the one *following* it; from any other one go nowhere."""
        if self._state is state:
            self._state = following

    # What waits too long.

    def _look_within(self, seconds: float) -> None:
        if self._look_timer is None:
            self._buffer.mark()
            self._look_timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Give everything back if something waits too long; ask `idle` again if it said no."""
        self._look_timer = None
        if self._buffer.holds_marked and not self._paused:
            self._prefetch_count.stalled()
            self._buffer.give_back()
        self._go_on()

    # The end.

    def cease(self) -> None:
        """Take no more messages, and give back those that were not started."""
        self._state = State.CEASED
        self._buffer.give_back()

    async def retire(self) -> None:
        """Let running handlers end, then close the consumer."""
        self.cease()
        await self._runs.wait()
        await self._close()

    async def drain(self, grace: float) -> None:
        """Let running handlers end for *grace* seconds, then cancel them and give back the rest.

        Cancelled: they are cancelled at once, and their messages are given back.
        """
        self.cease()
        await self._runs.drain(grace)
        await self._close()

    async def _close(self) -> None:
        self._runs.close()
        for timer in (self._calm_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        try:
            await self._consumer.close()
        except Exception:
            logger.exception("channel %r: its consumer failed to close", self._channel)
