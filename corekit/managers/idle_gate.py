"""Whether an instance has time for messages, as the application tells."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable

from ..clock import Clock
from .log_limit import LogLimit

logger = logging.getLogger("corekit.event_queue")

#: How often an `idle` that fails is logged, in seconds.
_REMINDER = 30.0


class IdleGate:
    """Asks the function that was given as `idle`; whatever it does wrong means "not idle"."""

    def __init__(self, channel: str, idle: Callable[[], object], clock: Clock) -> None:
        self._channel = channel
        self._idle = idle
        self._log = LogLimit(clock, _REMINDER)
        #: Whether the last answer was no.
        self.shut = False

    def __repr__(self) -> str:
        return f"<IdleGate {self._channel!r} {'shut' if self.shut else 'open'}>"

    def opens(self) -> bool:
        """Ask, and return the answer."""
        self.shut = not self._answer()
        return not self.shut

    def _answer(self) -> bool:
        try:
            answer = self._idle()
            if not inspect.isawaitable(answer):
                return bool(answer)
            if inspect.iscoroutine(answer):
                answer.close()
            problem: BaseException = TypeError("idle must be a plain function")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever else it raises means "not idle"
            problem = error
        if self._log.passes():
            logger.error("channel %r: idle() failed, so not idle", self._channel, exc_info=problem)
        return False
