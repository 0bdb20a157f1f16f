"""Contexts for adapters and managers that are tested without an App."""

from __future__ import annotations

import itertools

from ..adapters import AdapterContext
from ..clock import SYSTEM_CLOCK, Clock

_numbers = itertools.count(1)


def make_context(app: str = "suite", *, clock: Clock = SYSTEM_CLOCK) -> AdapterContext:
    """Return the context of one more instance of *app*: each call plays another process."""
    return AdapterContext(app, f"{app}-{next(_numbers)}", clock=clock)
