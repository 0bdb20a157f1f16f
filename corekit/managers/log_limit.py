"""Log lines about what comes from outside: few, however much comes."""

from __future__ import annotations

from ..clock import Clock


class LogLimit:
    """Lets one log line through per *interval* seconds and counts those it holds back."""

    __slots__ = ("_clock", "_held_back", "_interval", "_quiet_until", "held_back")

    def __init__(self, clock: Clock, interval: float = 60.0) -> None:
        self._clock = clock
        self._interval = interval
        self._quiet_until = float("-inf")
        self._held_back = 0
        #: How many lines were held back before the one that passed last.
        self.held_back = 0

    def __repr__(self) -> str:
        return f"<LogLimit interval={self._interval:g} held_back={self._held_back}>"

    def passes(self) -> bool:
        """Tell whether a line may be written now."""
        now = self._clock.monotonic()
        if now < self._quiet_until:
            self._held_back += 1
            return False
        self._quiet_until = now + self._interval
        self.held_back, self._held_back = self._held_back, 0
        return True
