"""Ending in order at SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("corekit.app")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def first_signal(callback: Callable[[], None]) -> Iterator[None]:
    """Call *callback* in the running loop at the first signal that comes while the block runs.

    A second one has its ordinary effect: the process ends at once. For the main thread only.
    """
    loop = asyncio.get_running_loop()

    def release() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    def take(number: signal.Signals) -> None:
        logger.info("%s: stopping", number.name)
        release()
        callback()

    for number in _SIGNALS:
        loop.add_signal_handler(number, take, number)
    try:
        yield
    finally:
        release()
