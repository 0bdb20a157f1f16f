"""The handlers of one channel that have begun: their deadlines, and those that do not end."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from ..adapters import Delivery
from ..timers import EarliestTimer
from .delivery import Envelope

logger = logging.getLogger("corekit.event_queue")

#: How long a cancelled handler may take to end, in seconds, before its slot is freed without it.
_CLEAN_UP = 1.0

#: How often a handler that does not end is logged, in seconds.
_REMINDER = 30.0


class Stage(Enum):
    """How far a run has come with its handler.

    RUNNING becomes TIMED_OUT or STOPPED when its handler is cancelled, and then ABANDONED if that
    does not end within a second. It never goes back.
    """

    RUNNING = auto()

    TIMED_OUT = auto()
    """Past its deadline, and cancelled."""

    STOPPED = auto()
    """Cancelled, because the grace time of a stop is over."""

    ABANDONED = auto()
    """Cancelled and still running; its message has been settled without it."""


class Run:
    """A task that runs handlers, and the one that it is at."""

    __slots__ = ("deadline", "delivery", "envelope", "stage", "suspended", "task")

    task: asyncio.Task[None]
    envelope: Envelope

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.stage = Stage.RUNNING
        #: On the monotonic clock; infinite before the first handler.
        self.deadline = math.inf
        #: Whether the task has come to an await, so that others ran beside it.
        self.suspended = False

    def __repr__(self) -> str:
        return f"<Run {self.stage.name} message={self.delivery.id} suspended={self.suspended}>"


class Runs:
    """The runs of one worker that have not ended.

    Each of them is in `running` and holds a slot, or is abandoned and holds none. No handler holds
    one for longer than its timeout and a second.

    *settle* settles the message of a run whose handler was cancelled. *freed* is called after
    slots became free though their handlers still run.
    """

    def __init__(
        self,
        channel: str,
        now: Callable[[], float],
        *,
        settle: Callable[[Run], None],
        freed: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._now = now
        self._settle = settle
        self._freed = freed
        #: For the worker to look into, which does so for each message.
        self.running: set[Run] = set()
        #: Handlers that do not end, and when that is logged again.
        self._abandoned: dict[Run, float] = {}
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._timer = EarliestTimer(asyncio.get_running_loop(), self._woken)

    def __repr__(self) -> str:
        return f"<Runs running={len(self.running)} abandoned={len(self._abandoned)}>"

    def add(self, run: Run) -> None:
        """Give *run* a slot."""
        self.running.add(run)
        self._quiet.clear()

    def watch(self, run: Run) -> None:
        """Let the deadline of *run* count, whose task has come to its first await."""
        run.suspended = True
        self._timer.set(run.deadline)

    def ended(self, run: Run) -> None:
        """Free the slot of *run*, whose task ends."""
        self._free(run)
        if self._abandoned.pop(run, None) is not None:
            logger.info(
                "channel %r: the abandoned handler of message %s has ended",
                self._channel,
                run.delivery.id,
            )

    async def wait(self) -> None:
        """Wait until no slot is held."""
        await self._quiet.wait()

    async def drain(self, grace: float) -> None:
        """Let handlers end for *grace* seconds, cancel them, and abandon those that still run.

        Cancelled: they are cancelled and abandoned at once.
        """
        try:
            await self._wait_within(grace)
            self._stop()
            await self._wait_within(_CLEAN_UP)
        finally:
            self._stop()
            for run in list(self.running):
                self._abandon(run)

    def close(self) -> None:
        """Look after abandoned handlers no more."""
        self._timer.close()

    async def _wait_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()

    def _stop(self) -> None:
        for run in self.running:
            if run.stage is Stage.RUNNING:
                run.stage = Stage.STOPPED
                run.task.cancel()

    def _free(self, run: Run) -> None:
        self.running.discard(run)
        if not self.running:
            self._quiet.set()

    def _woken(self) -> None:
        now = self._now()
        slots = len(self.running)
        for run in [run for run in self.running if run.suspended]:
            if now >= run.deadline:
                self._overdue(run, now)
            self._timer.set(run.deadline)
        for run, due in list(self._abandoned.items()):
            if now >= due:
                self._remind(run, now)
            self._timer.set(self._abandoned[run])
        if len(self.running) < slots:
            self._freed()

    def _overdue(self, run: Run, now: float) -> None:
        if run.stage is Stage.RUNNING:
            run.stage = Stage.TIMED_OUT
            run.deadline = now + _CLEAN_UP
            run.task.cancel()
        else:
            self._abandon(run)

    def _abandon(self, run: Run) -> None:
        self._settle(run)
        run.stage = Stage.ABANDONED
        self._free(run)
        self._remind(run, self._now())

    def _remind(self, run: Run, now: float) -> None:
        self._abandoned[run] = now + _REMINDER
        logger.error(
            "channel %r: the handler of message %s was cancelled and still runs; it is left alone",
            self._channel,
            run.delivery.id,
        )
