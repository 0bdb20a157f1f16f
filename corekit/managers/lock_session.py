"""The leases that one App holds, from its start to its stop."""

from __future__ import annotations

import asyncio
import logging

from ..adapters import Grant, Guarantee, LockAdapter, MembershipAdapter
from ..clock import Clock
from ..errors import BackendError, NotOpenError
from ..lifecycle import Gate
from ..tasks import TaskOwner
from .lease import Lease
from .renewal import RenewalSchedule

logger = logging.getLogger("corekit.lock")

#: The number of leases from which on those whose time is over are looked for.
_FEW = 64


class LockSession:
    """What the leases of one start share: the adapter, the clock, and which of them live."""

    def __init__(self, adapter: LockAdapter, clock: Clock, gate: Gate) -> None:
        self.adapter = adapter
        self.membership = adapter if isinstance(adapter, MembershipAdapter) else None
        self.clock = clock
        self.monotonic = clock.monotonic
        self.gate = gate
        self.loop = asyncio.get_running_loop()
        self.tasks = TaskOwner("lock")
        self.renewals = RenewalSchedule(clock, self.tasks)
        #: The youngest lease of each name. It may have ended by its time without being noticed.
        self.leases: dict[str, Lease] = {}
        self._sweep_at = _FEW
        self._closed = False
        self._remote = Guarantee.SHARED in adapter.guarantees

    def __repr__(self) -> str:
        return f"<LockSession leases={len(self.leases)} {self.adapter!r}>"

    def __len__(self) -> int:
        return len(self.leases)

    def lease(self, key: str, grant: Grant) -> Lease:
        """Return the lease of the running task for *grant*, which it has just been given."""
        if self._closed:
            # The adapter, which is closing, releases it.
            raise NotOpenError("the lock manager is stopped")
        lease = Lease(self, key, grant, asyncio.current_task(self.loop))
        leases = self.leases
        leases[grant.name] = lease
        if len(leases) > self._sweep_at:
            self._sweep()
        return lease

    def reliable(self, ttl: float) -> float:
        """Return how long a holder may rely on *ttl*, so that it ends before the backend's.

        What is taken off covers the difference between two machines' clocks and the time that the
        holder needs to notice: a tenth, at most 1 s and 0.1 % of the ttl. Inside one process the
        clock is the same, and only the order of timers matters.
        """
        if self._remote:
            return ttl - min(0.1 * ttl, 1 + 0.001 * ttl)
        return ttl - 0.01 if ttl > 1 else ttl * 0.99

    def _sweep(self) -> None:
        for lease in list(self.leases.values()):
            lease.expire()
        # Looked through again only when as many have come as stayed: constant cost per lease.
        self._sweep_at = max(_FEW, 2 * len(self.leases))

    def release_failed(self, grant: Grant, error: BaseException) -> None:
        """Make the best of a release that ended with *error*.

        A cancelled one is repeated in the background; otherwise the grant ends by its time.
        """
        if isinstance(error, asyncio.CancelledError):
            self.release_later(grant)
        else:
            logger.warning(
                "lock %s: releasing token %d failed, it ends by its time within %g s: %s",
                grant.name,
                grant.token,
                grant.ttl,
                error,
            )

    def release_later(self, grant: Grant) -> None:
        """Release *grant* in the background, unless the session ends and so releases everything."""
        if self.gate.is_open:
            self.tasks.spawn(self._release(grant), name=f"release {grant.name}")

    async def _release(self, grant: Grant) -> None:
        try:
            await self.adapter.release(grant)
        except (BackendError, NotOpenError) as error:
            self.release_failed(grant, error)

    async def close(self, reason: str, unwinding: float) -> None:
        """End every lease, because of *reason*, and close the adapter.

        Blocks of work under a lease get *unwinding* seconds to end before their key is free.
        """
        self._closed = True
        leases = list(self.leases.values())
        blocks = [lease.section.expect_loss() for lease in leases if lease.section is not None]
        for lease in leases:
            lease.lose(reason)
        self.renewals.close()
        try:
            if ends := [ended for ended in blocks if ended is not None]:
                await asyncio.wait(ends, timeout=unwinding)
        finally:
            try:
                await self.tasks.close()
            finally:
                await self.adapter.close()
