"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Return as soon as *condition* is true; fail if it is not within *within* seconds.

    Polls, at first on each turn of the loop: it is for observers that nothing can signal to.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    turns = 0
    while not condition():
        if loop.time() > deadline:
            raise AssertionError(f"not true within {within} s: {condition}")
        turns += 1
        await asyncio.sleep(0 if turns < 100 else 0.005)
