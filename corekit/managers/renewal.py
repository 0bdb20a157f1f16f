"""Renewal: keeps a lease alive while work runs under it."""

from __future__ import annotations

import asyncio
import logging

from ..clock import Clock
from ..errors import BackendError, LockLost
from ..tasks import TaskOwner
from ..timers import EarliestTimer
from .lease import Lease

logger = logging.getLogger("corekit.lock")

#: The longest pause between two tries to reach the backend, in seconds.
_LONGEST_PAUSE = 1.0


class Renewal:
    """Extends *lease* to its ttl whenever a third of it is over, until it is stopped.

    It runs in the event loop on purpose: a loop that is stuck must lose the lock. A backend that
    cannot be reached is tried again until the lease's own deadline, at which the lease is lost by
    itself.
    """

    __slots__ = ("_lease", "_schedule", "_task", "due", "ttl")

    def __init__(self, lease: Lease, schedule: RenewalSchedule) -> None:
        self.ttl = lease.grant.ttl
        #: When it is to begin, on the monotonic scale: a third of the ttl after the lease did.
        self.due = lease.grant.since + self.ttl / 3
        self._lease = lease
        self._schedule = schedule
        self._task: asyncio.Task[None] | None = None
        lease.keep_at_least(self.ttl)
        schedule.add(self)

    def __repr__(self) -> str:
        return f"<Renewal {self._lease!r} ttl={self.ttl:g}>"

    def begin(self, tasks: TaskOwner) -> None:
        """Renew from now on, in a task of *tasks*."""
        self._lease.watch()
        if self._lease.held:
            self._task = tasks.spawn(self._renew(), name=f"renew {self._lease.key}")

    def stop(self) -> None:
        """Renew no more."""
        if self._task is None:
            self._schedule.discard(self)
        else:
            self._task.cancel()

    async def _renew(self) -> None:
        failing = False
        while True:
            pause = self._lease.renewal_due - self._lease.session.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
                continue
            try:
                await self._lease.extend(self.ttl)
            except LockLost:
                return
            except BackendError as error:
                if not failing:
                    logger.warning("%r: cannot be renewed, trying again: %s", self._lease, error)
                failing = True
                await asyncio.sleep(min(self.ttl / 10, _LONGEST_PAUSE))
            else:
                if failing:
                    logger.info("%r: renewed again", self._lease)
                failing = False


class RenewalSchedule:
    """Begins renewals when the first one is due, with one timer for all of them.

    Most work under a lock is over by then, and has paid for neither a timer nor a task.
    """

    def __init__(self, clock: Clock, tasks: TaskOwner) -> None:
        self._clock = clock
        self._tasks = tasks
        self._timer = EarliestTimer(asyncio.get_running_loop(), self._begin_due)
        self._waiting: set[Renewal] = set()

    def __repr__(self) -> str:
        return f"<RenewalSchedule waiting={len(self._waiting)}>"

    def add(self, renewal: Renewal) -> None:
        """Begin *renewal* when it is due."""
        self._waiting.add(renewal)
        self._timer.set(renewal.due)

    def discard(self, renewal: Renewal) -> None:
        """Do not begin *renewal*, if it has not begun."""
        self._waiting.discard(renewal)

    def close(self) -> None:
        """Begin no renewal any more."""
        self._waiting.clear()
        self._timer.close()

    def _begin_due(self) -> None:
        now = self._clock.monotonic()
        # Those that are due soon begin as well (and wait): no two calls of this are close together.
        for renewal in [one for one in self._waiting if one.due - now <= one.ttl / 10]:
            self._waiting.discard(renewal)
            renewal.begin(self._tasks)
        if self._waiting:
            self._timer.set(min(renewal.due for renewal in self._waiting))
