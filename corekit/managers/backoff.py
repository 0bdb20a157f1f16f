"""How long a message waits before it is tried again.

The waits are settled when the message is published: the retry happens in another process, where
the publisher's function cannot go.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import timedelta

from ..arguments import seconds, shown
from ..errors import InvalidArgument, InvalidType

logger = logging.getLogger("corekit.event_queue")

Backoff = float | timedelta | Callable[[int], float | timedelta]

#: What travels with a message: the first wait, to be doubled, or the waits themselves.
Waits = float | list[float]

FIRST = 0.5

#: Doubling stops here, in seconds.
LONGEST_DOUBLED = 300.0

#: Doubled waits differ by up to this share, so that what failed together is not retried together.
SPREAD = 0.25

#: For so many attempts a function is asked; its last answer holds for the attempts after them.
ASKED = 50


def planned(backoff: Backoff | None, max_retries: int) -> Waits:
    """Return the waits that *backoff* means, for a message with *max_retries*.

    Raises InvalidType or InvalidArgument for a number that is no duration. A function that fails,
    or gives none, is logged, and the default wait stands in.
    """
    if backoff is None:
        return FIRST
    if callable(backoff):
        return [_asked(backoff, attempt) for attempt in range(1, min(max_retries, ASKED) + 1)]
    return seconds("backoff", backoff, zero=True)


def _asked(backoff: Callable[[int], float | timedelta], attempt: int) -> float:
    try:
        return seconds("backoff's result", backoff(attempt), zero=True)
    except (InvalidType, InvalidArgument) as error:
        logger.warning("backoff(%d): %s; the default is used", attempt, error)
    except Exception:
        logger.warning("backoff(%d) failed; the default is used", attempt, exc_info=True)
    return _doubled(FIRST, attempt)


def _doubled(first: float, attempt: int) -> float:
    # The exponent is bounded: a float overflows at 2 ** 1024.
    return min(first * 2.0 ** min(attempt - 1, 64), max(first, LONGEST_DOUBLED))


def wait(waits: Waits, attempt: int) -> float:
    """Return how long a message waits whose *attempt* (from 1) has failed, in seconds."""
    if isinstance(waits, list):
        return waits[min(attempt, len(waits)) - 1] if waits else 0.0
    spread = random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - jitter is no secret
    return _doubled(waits, attempt) * spread


def checked(waits: object) -> Waits:
    """Return *waits* as they came with a message; raises ValueError if they are none."""
    if isinstance(waits, list):
        return [_duration(value) for value in waits]
    return _duration(waits)


def _duration(value: object) -> float:
    try:
        return seconds("wait", value, zero=True)  # type: ignore[arg-type]
    except (InvalidType, InvalidArgument):
        raise ValueError(f"{shown(value)} is no wait") from None
