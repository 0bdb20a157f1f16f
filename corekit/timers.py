"""One timer for the earliest of many moments."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class EarliestTimer:
    """Calls *callback* at the earliest moment that it was set to; then it is unset.

    Who waits for many moments thus pays for one timer; the callback sets it to what is next.
    Times are those of *loop*.
    """

    __slots__ = ("_callback", "_loop", "_timer", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._timer: asyncio.TimerHandle | None = None
        self._when = math.inf

    def __repr__(self) -> str:
        return f"<EarliestTimer at={self._when}>"

    def set(self, when: float) -> None:
        """Call at *when*, unless that comes earlier anyway; `math.inf` is never."""
        if when < self._when:
            if self._timer is not None:
                self._timer.cancel()
            self._when = when
            self._timer = self._loop.call_at(when, self._expire)

    def close(self) -> None:
        """Never call again, whatever it is set to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._when = -math.inf

    def _expire(self) -> None:
        self._timer, self._when = None, math.inf
        self._callback()
