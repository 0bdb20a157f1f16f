"""What a subscriber says: how it wants its messages, and what is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .. import arguments
from ..errors import InvalidArgument, InvalidType

Handler = Callable[[Any], Awaitable[object]]
GapHandler = Callable[[str], object]
Resync = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Options:
    """How a subscription wants its messages."""

    debounce: float = 0.0
    """Seconds of quiet after which equal messages are handled, as one; 0: each at once."""

    max_wait: float | None = None
    """Seconds after which they are handled even without quiet; None: quiet is waited for."""

    buffer: int = 1000
    """How many messages may wait, the debounced ones included."""

    on_gap: GapHandler | None = None
    """Called with the channel's name where messages are missing; plain or async."""

    resync: Resync | None = None
    """Like `on_gap`, but called again, with back-off, until it succeeds."""

    @classmethod
    def checked(
        cls,
        *,
        debounce: float | timedelta = 0,
        max_wait: float | timedelta | None = None,
        buffer: int = 1000,
        on_gap: GapHandler | None = None,
        resync: Resync | None = None,
    ) -> Options:
        """Return the options as given to a call; raises InvalidArgument or InvalidType."""
        quiet = arguments.seconds("debounce", debounce, zero=True)
        longest = None if max_wait is None else arguments.seconds("max_wait", max_wait)
        if longest is not None and longest < quiet:
            raise InvalidArgument(
                f"max_wait must be at least debounce ({quiet:g} s), not {arguments.shown(max_wait)}"
            )
        if on_gap is not None and not callable(on_gap):
            raise InvalidType(f"on_gap must be a function, not {arguments.shown(on_gap)}")
        return cls(quiet, longest, arguments.whole("buffer", buffer, least=1), on_gap, resync)
