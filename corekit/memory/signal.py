"""Waking a task of whatever loop."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop


class Signal:
    """Lets one task sleep until any loop or thread of the process wakes it, or until a time."""

    __slots__ = ("_event", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Signal {'set' if self._event.is_set() else 'unset'}>"

    def wake(self) -> bool:
        """Wake the task; False if its loop was closed, so that nobody sleeps there any more."""
        if _get_running_loop() is self._loop:
            self._event.set()
            return True
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return False
        return True

    async def sleep(self, until: float | None) -> None:
        """Return when woken since the last call, or at *until* on the loop's time; None: never."""
        timer = None if until is None else self._loop.call_at(until, self._event.set)
        try:
            await self._event.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._event.clear()
