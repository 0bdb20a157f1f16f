"""Why the broker process ends, in the codes of `sysexits.h`, which service managers understand."""

from __future__ import annotations

import os

from corekit.errors import ConfigurationError

USAGE = os.EX_USAGE
CORRUPT = os.EX_DATAERR
UNAVAILABLE = os.EX_UNAVAILABLE
FAULT = os.EX_SOFTWARE
CANNOT_CREATE = os.EX_CANTCREAT
IO_ERROR = os.EX_IOERR
IN_USE = os.EX_TEMPFAIL
NO_PERMISSION = os.EX_NOPERM
CONFIGURATION = os.EX_CONFIG


class BrokerRefused(ConfigurationError):
    """The broker does not start, or cannot go on; `status` is the exit code that says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
