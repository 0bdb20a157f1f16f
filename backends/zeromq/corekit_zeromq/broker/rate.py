"""Log lines that others cause: one a second for each of them, the rest is counted."""

from __future__ import annotations

import logging

#: Causes that are told apart within one second.
_CAUSES = 100


class RateLimit:
    """Lets one line for each cause through, until `tell` is called."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._suppressed: dict[object, int] = {}

    def __repr__(self) -> str:
        return f"<RateLimit suppressed={sum(self._suppressed.values())}>"

    def warning(self, cause: object, message: str, *arguments: object) -> None:
        """Log a warning that *cause* is responsible for, or count it."""
        self._log(logging.WARNING, cause, message, *arguments)

    def info(self, cause: object, message: str, *arguments: object) -> None:
        """Log what is no fault, but may be too often, or count it."""
        self._log(logging.INFO, cause, message, *arguments)

    def _log(self, level: int, cause: object, message: str, *arguments: object) -> None:
        if cause in self._suppressed or len(self._suppressed) >= _CAUSES:
            self._suppressed[cause] = self._suppressed.get(cause, 0) + 1
            return
        self._suppressed[cause] = 0
        self._logger.log(level, message, *arguments)

    def tell(self) -> None:
        """Say how many lines were suppressed, and begin anew; called about once a second."""
        suppressed = sum(self._suppressed.values())
        self._suppressed.clear()
        if suppressed:
            self._logger.warning("%d further lines like these", suppressed)
