"""Renewal: keeps a lease alive while work runs under it."""

from __future__ import annotations

import asyncio
import logging

from ..errors import BackendError, LockLost
from .lease import Lease

logger = logging.getLogger("corekit.lock")

#: The longest pause between two tries to reach the backend, in seconds.
_LONGEST_PAUSE = 1.0


class Renewal:
    """Extends *lease* to *ttl* whenever a third of it is over, until it is stopped.

    It runs in the event loop on purpose: a loop that is stuck must lose the lock. A backend that
    cannot be reached is tried again until the lease's own deadline, at which the lease is lost by
    itself. Before the first renewal is due it costs one timer and no task.
    """

    __slots__ = ("_lease", "_task", "_timer", "_ttl")

    def __init__(self, lease: Lease, ttl: float) -> None:
        self._lease = lease
        self._ttl = ttl
        self._task: asyncio.Task[None] | None = None
        lease.keep_at_least(ttl)
        self._timer = lease.session.loop.call_at(lease.renewal_due, self._begin)

    def __repr__(self) -> str:
        return f"<Renewal {self._lease!r} ttl={self._ttl:g}>"

    def stop(self) -> None:
        """Renew no more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._lease.watch()
        if self._lease.held:
            name = f"renew {self._lease.key}"
            self._task = self._lease.session.tasks.spawn(self._renew(), name=name)

    async def _renew(self) -> None:
        failing = False
        while True:
            pause = self._lease.renewal_due - self._lease.session.clock.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
                continue
            try:
                await self._lease.extend(self._ttl)
            except LockLost:
                return
            except BackendError as error:
                if not failing:
                    logger.warning("%r: cannot be renewed, trying again: %s", self._lease, error)
                failing = True
                await asyncio.sleep(min(self._ttl / 10, _LONGEST_PAUSE))
            else:
                if failing:
                    logger.info("%r: renewed again", self._lease)
                failing = False
