"""The time, as something that can be handed in.

Managers and adapters ask their clock, never the `time` module. They wait with asyncio's timers;
a clock for tests (`corekit.testing.VirtualClock`) brings an event loop that runs on the same time.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What time it is."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; never goes back. For durations and deadlines.

        It is the scale of the running event loop's `time()`.
        """
        ...

    def time(self) -> float:
        """Return Unix seconds. May jump; for what people read and for what other machines read."""
        ...


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def __repr__(self) -> str:
        return "SystemClock()"


SYSTEM_CLOCK = SystemClock()
