"""Time that passes only when everything waits for it."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: How long a loop without any timer may wait for the outside world, in real seconds.
_PATIENCE = 20.0


class VirtualClock:
    """A clock, and event loops that run on it.

    When nothing is ready to run, the time jumps to the next timer: a test of a lease of an hour
    takes no time and always the same steps. Real I/O still works, but the clock does not wait for
    it while a timer is pending.
    """

    def __init__(self, *, epoch: float = 1_700_000_000.0) -> None:
        self._now = 1000.0
        self._epoch = epoch - self._now

    def __repr__(self) -> str:
        return f"<VirtualClock {self._now:.3f}>"

    def monotonic(self) -> float:
        """Return the seconds that have passed on this clock, from an arbitrary start."""
        return self._now

    def time(self) -> float:
        """Return Unix seconds."""
        return self._epoch + self._now

    def jump(self, seconds: float) -> None:
        """Let *seconds* pass at once, as when the process was paused: timers fire late."""
        self._now += seconds

    def jump_wall(self, seconds: float) -> None:
        """Set the Unix time forward (or back) by *seconds*; monotonic time goes on as it was."""
        self._epoch += seconds

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return a new event loop that runs on this clock."""
        return _VirtualLoop(self)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run *main* to its end in a new loop on this clock, as `asyncio.run` does."""
        with asyncio.Runner(loop_factory=self.loop) as runner:
            return runner.run(main)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_JumpingSelector(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock.monotonic()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # Python 3.12 and newer limit the time, which would be over at once.
        await super().shutdown_default_executor()


class _JumpingSelector(selectors.DefaultSelector):
    """Jumps over the time that a loop would wait."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            ready = super().select(_PATIENCE)
            if not ready:
                raise RuntimeError("deadlock: no task can go on, and no timer is pending")
            return ready
        # A hair more than asked: sums of floats are inexact, and a loop whose time is exactly a
        # timer's, without room for its resolution of 1 ns, would neither fire it nor wait for it.
        hair = max(1e-9, 4 * math.ulp(self._clock.monotonic() + timeout))
        self._clock.jump(timeout + hair)
        return ready
