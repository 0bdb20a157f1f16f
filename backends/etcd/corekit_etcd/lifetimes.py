"""The leases that end the lifetimes of cache entries: one for many entries that end together."""

from __future__ import annotations

import asyncio
import math
import secrets

from .client import Client
from .driver import Call, LeaseGrantRequest
from .failures import LeaseExists

#: How much longer than its lifetime an entry may be kept: each class of lifetimes is so many times
#: the one before, and a lease is used for so long a part of its class's time.
_GROWTH = 1.25

#: How much longer in any case, in seconds.
_LEAST_SHARED = 2

#: After so many entries a new lease is granted: etcd removes all entries of one at once.
_ENTRIES = 1000


class _Bucket:
    """The lease that entries of one class of lifetimes are bound to at present."""

    __slots__ = ("ends", "entries", "granting", "lease")

    def __init__(self) -> None:
        self.lease = 0
        #: When the lease ends at the earliest, on the monotonic clock.
        self.ends = -math.inf
        self.entries = 0
        self.granting = asyncio.Lock()

    def serves(self, until: float) -> bool:
        return self.ends >= until and self.entries < _ENTRIES


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
        # All entries shorter than a second are of one class.
        number = max(0, math.ceil(math.log(max(lifetime, 1), _GROWTH)))
        bucket = self._buckets.setdefault(number, _Bucket())
        if not bucket.serves(self._clock.monotonic() + lifetime):
            async with bucket.granting:
                if not bucket.serves(self._clock.monotonic() + lifetime):
                    await self._grant(bucket, _GROWTH**number)
        bucket.entries += entries
        return bucket.lease

    def forget(self, lease: int) -> None:
        """Use *lease* no more: etcd does not know it."""
        for bucket in self._buckets.values():
            if bucket.lease == lease:
                bucket.ends = -math.inf

    async def _grant(self, bucket: _Bucket, longest: float) -> None:
        ttl = math.ceil(longest * _GROWTH) + _LEAST_SHARED
        # With an id of our own it can be asked for twice.
        lease = secrets.randbits(62) + 1
        now = self._clock.monotonic()
        try:
            await self._client.call(Call.GRANT, LeaseGrantRequest(TTL=ttl, ID=lease))
        except LeaseExists:
            pass
        bucket.lease, bucket.ends, bucket.entries = lease, now + ttl, 0
