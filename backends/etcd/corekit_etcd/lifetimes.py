"""The leases that end the lifetimes of cache entries: one for many entries that end together."""

from __future__ import annotations

import asyncio
import math

from .client import Client
from .leases import Lease, grant

#: How much longer than its lifetime an entry may be kept: each class of lifetimes is so many times
#: the one before, and a lease is used for so long a part of its class's time.
_GROWTH = 1.25

#: How much longer in any case, in seconds.
_LEAST_SHARED = 2

#: After so many entries a new lease is granted: etcd removes all entries of one at once.
_ENTRIES = 1000


class _Bucket:
    """The lease that entries of one class of lifetimes are bound to at present."""

    __slots__ = ("entries", "granting", "lease")

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.entries = 0
        self.granting = asyncio.Lock()

    def serving(self, until: float) -> Lease | None:
        if self.lease is None or self.lease.ends < until or self.entries >= _ENTRIES:
            return None
        return self.lease


class Lifetimes:
    """Finds a lease for an entry. The manager keeps the exact deadline, so this one may be later.

    An entry goes at most 1.6 times its lifetime and 4 s after it was written.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._clock = client.clock
        self._buckets: dict[int, _Bucket] = {}

    def __repr__(self) -> str:
        return f"<Lifetimes leases={len(self._buckets)}>"

    async def lease(self, lifetime: float | None, entries: int = 1) -> int:
        """Return the id of a lease that lasts at least *lifetime*; 0, which is none, for None."""
        if lifetime is None:
            return 0
        # All that are shorter than a second are of one class.
        number = max(0, math.ceil(math.log(max(lifetime, 1), _GROWTH)))
        bucket = self._buckets.setdefault(number, _Bucket())
        lease = bucket.serving(self._clock.monotonic() + lifetime)
        if lease is None:
            async with bucket.granting:
                lease = bucket.serving(self._clock.monotonic() + lifetime)
                if lease is None:
                    ttl = math.ceil(_GROWTH ** (number + 1)) + _LEAST_SHARED
                    lease = bucket.lease = await grant(self._client, ttl)
                    bucket.entries = 0
        bucket.entries += entries
        return lease.id

    def forget(self, lease_id: int) -> None:
        """Use this lease no more: etcd does not know it."""
        for bucket in self._buckets.values():
            if bucket.lease is not None and bucket.lease.id == lease_id:
                bucket.lease = None
