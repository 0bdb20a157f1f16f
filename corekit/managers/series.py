"""Handlers that run one after another in the same task."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context, copy_context

from ..adapters import Delivery
from .handling import Handling
from .runs import Run

logger = logging.getLogger("corekit.event_queue")

#: How long one task runs handlers that never suspend before others get their turn, in seconds.
_BURST = 0.005

#: A handler that holds the loop up for longer is logged, in seconds.
_BLOCKING = 1.0


class Series:
    """Handles a message in a task, and further ones after it, so that quick ones cost no task each.

    Nobody may notice: a task goes on only if its handlers never suspended, have left nothing in
    *context* (a copy of which each task begins with) and no cancellation, and took a moment only.

    *take* returns the next message, *measured* is told how long handlers took on average, and how
    many they were, *ended* that the task ends.
    """

    def __init__(
        self,
        channel: str,
        handling: Handling,
        context: Context,
        now: Callable[[], float],
        *,
        take: Callable[[], Delivery | None],
        measured: Callable[[float, int], None],
        ended: Callable[[Run], None],
    ) -> None:
        self._channel = channel
        self._handling = handling
        self._context = context
        self._now = now
        self._take = take
        self._measured = measured
        self._ended = ended

    def __repr__(self) -> str:
        return f"<Series {self._channel!r} {self._handling!r}>"

    async def handle(self, run: Run) -> None:
        """Handle the message of *run*, and what may follow it."""
        began = started = ended = self._now()
        handled = 0
        delivery: Delivery | None = run.delivery
        try:
            while delivery is not None:
                await self._handling.handle(run, delivery, started)
                ended = self._now()
                handled += 1
                if run.suspended or ended - began > _BURST or self._left_traces(run):
                    break
                started = ended
                delivery = self._take()
            if not run.suspended and ended - began > _BLOCKING:
                logger.warning(
                    "channel %r: the handler held up the event loop for %.1f s",
                    self._channel,
                    ended - began,
                )
        finally:
            if handled:
                self._measured((ended - began) / handled, handled)
            self._ended(run)

    def _left_traces(self, run: Run) -> bool:
        """Tell whether the next handler in the same task could notice this one."""
        try:
            return run.task.cancelling() > 0 or copy_context() != self._context
        except Exception:  # noqa: BLE001 - a value's own comparison failed, so there is a new value
            return True
