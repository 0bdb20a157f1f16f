"""Leases: what keeps a key in etcd alive, granted in advance and refreshed over one stream."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any

from corekit.clock import Clock
from corekit.errors import BackendError, BackendRefused, BackendUnavailable
from corekit.tasks import TaskOwner

from .client import Client
from .connection import TRY
from .driver import Call, Endpoint, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest
from .failures import LeaseExists, LeaseGone
from .stream import Stream

logger = logging.getLogger("corekit.etcd")

#: How much longer than what is asked for a lease lasts at least, in seconds. For so long after it
#: was refreshed it can be used without being refreshed again.
SLACK = 0.5

#: How often leases are looked at, in seconds.
_ROUND = 0.5

#: How long a spare lease is kept alive without being used, in seconds, and how many are kept.
_KEPT = 60.0
_SPARES = 32


class Lease:
    """A lease of etcd, which ends *ttl* seconds after it was refreshed for the last time."""

    __slots__ = ("asked", "id", "lost", "on_loss", "refreshed", "ttl", "used")

    def __init__(self, lease_id: int, asked: int, ttl: int, refreshed: float) -> None:
        self.id = lease_id
        #: What etcd was asked for; it may have a least ttl of its own.
        self.asked = asked
        self.ttl = ttl
        #: When the last refreshing that was answered had been sent, on the monotonic clock.
        self.refreshed = refreshed
        self.used = refreshed
        #: Whether etcd has said that it is over.
        self.lost = False
        #: Called when etcd says so.
        self.on_loss: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Lease {self.id:x} ttl={self.ttl}{' lost' if self.lost else ''}>"

    @property
    def ends(self) -> float:
        """When it ends at the earliest, on the monotonic clock."""
        return -math.inf if self.lost else self.refreshed + self.ttl


async def grant(client: Client, ttl: int) -> Lease:
    """Return a new lease of at least *ttl* seconds."""
    # With an id of our own it can be asked for twice.
    lease_id = secrets.randbits(62) + 1
    now = client.clock.monotonic()
    try:
        answer = await client.call(Call.GRANT, LeaseGrantRequest(TTL=ttl, ID=lease_id))
    except LeaseExists:
        return Lease(lease_id, ttl, ttl, now)
    return Lease(lease_id, ttl, answer.TTL, now)


class _Refreshing:
    """A refreshing that was not answered yet."""

    __slots__ = ("done", "lease", "sent")

    def __init__(self, lease: Lease, sent: float) -> None:
        self.lease = lease
        self.sent = sent
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Leases:
    """The leases of one adapter: spare ones, and those that are kept alive for who waits."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._clock: Clock = client.clock
        self._stream = Stream(client, "lease", _method, self)
        self._tasks = TaskOwner("etcd leases")
        self._spares: dict[int, deque[Lease]] = {}
        self._kept: set[Lease] = set()
        self._refreshing: dict[int, _Refreshing] = {}
        self._rounds: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        spares = sum(map(len, self._spares.values()))
        return f"<Leases spare={spares} kept={len(self._kept)}>"

    async def take(self, seconds: float) -> Lease:
        """Return a lease that lasts at least *seconds* whenever it was just refreshed.

        A spare one may be older than that: see `refresh`.
        """
        ttl = whole(seconds)
        now = self._clock.monotonic()
        spares = self._spares.get(ttl)
        while spares:
            lease = spares.pop()
            if lease.ends > now:
                return lease
        return await grant(self._client, ttl)

    def give_back(self, lease: Lease) -> None:
        """Keep *lease*, to which no key is bound any more, as a spare one."""
        lease.used = self._clock.monotonic()
        if lease.ends <= lease.used:
            return
        spares = self._spares.setdefault(lease.asked, deque())
        spares.append(lease)
        if sum(map(len, self._spares.values())) > _SPARES:
            oldest = min((each for each in self._spares.values() if each), key=_first_used)
            self.revoke_later(oldest.popleft())
        self._look_after()

    def keep(self, lease: Lease) -> None:
        """Refresh *lease* in the background until `let_go`."""
        self._kept.add(lease)
        self._look_after()

    def let_go(self, lease: Lease) -> None:
        """Refresh *lease* no more."""
        self._kept.discard(lease)

    def refresh(self, lease: Lease) -> asyncio.Future[None]:
        """Ask etcd to count *lease* from now on; done when it has, or said that it is over.

        If that is being asked already, it is not asked again, and counts from then.
        """
        found = self._refreshing.get(lease.id)
        if found is None:
            found = self._refreshing[lease.id] = _Refreshing(lease, self._clock.monotonic())
            self._stream.send(LeaseKeepAliveRequest(ID=lease.id))
        return found.done

    async def refreshed(self, lease: Lease, timeout: float) -> bool:
        """Refresh *lease*; return whether it lasts. Raises BackendUnavailable after *timeout*."""
        deadline = self._clock.monotonic() + timeout
        done = self.refresh(lease)
        while not done.done():
            left = deadline - self._clock.monotonic()
            if left <= 0:
                self._refreshing.pop(lease.id, None)
                raise BackendUnavailable(
                    f"{self._client.settings.text}: a lease was not refreshed in {timeout:g} s"
                )
            if not (await asyncio.wait([done], timeout=min(left, TRY)))[0]:
                self._stream.unanswered()
        done.result()
        return not lease.lost

    async def revoke(self, lease: Lease) -> None:
        """End *lease* at once, and with it whatever is bound to it or may still arrive."""
        with suppress(LeaseGone):
            await self._client.call(Call.REVOKE, LeaseRevokeRequest(ID=lease.id))

    def revoke_later(self, lease: Lease) -> None:
        """End *lease* in the background; if that fails, it ends by its time."""
        self._tasks.spawn(self._revoke_quietly(lease), name=f"revoke {lease.id:x}")

    async def close(self, held: list[Lease], timeout: float) -> None:
        """End the spare leases and *held*, within about *timeout* seconds."""
        self._kept.clear()
        for spares in self._spares.values():
            held += spares
        self._spares.clear()
        for lease in held:
            self.revoke_later(lease)
        if self._rounds is not None:
            self._rounds.cancel()
        await self._tasks.wait(timeout)
        await self._tasks.close()
        await self._stream.close()

    async def _revoke_quietly(self, lease: Lease) -> None:
        try:
            await self.revoke(lease)
        except BackendError as error:
            logger.info("lease %x was not revoked, it ends by its time: %s", lease.id, error)

    def opened(self) -> None:
        for lease_id in self._refreshing:
            self._stream.send(LeaseKeepAliveRequest(ID=lease_id))

    def received(self, response: Any) -> None:
        found = self._refreshing.pop(response.ID, None)
        if found is None:
            return
        if response.TTL > 0:
            found.lease.refreshed = found.sent
        else:
            found.lease.lost = True
            if found.lease.on_loss is not None:
                found.lease.on_loss()
        if not found.done.done():
            found.done.set_result(None)

    def refused(self, error: BackendRefused) -> None:
        for found in self._refreshing.values():
            if not found.done.done():
                found.done.set_exception(error)
                # Nobody may be waiting for it.
                found.done.exception()
        self._refreshing.clear()

    def _look_after(self) -> None:
        if self._rounds is None or self._rounds.done():
            self._rounds = self._tasks.spawn(self._go_round(), name="refresh")

    async def _go_round(self) -> None:
        """Refresh what a third of its time has passed of, and drop spares that nobody uses."""
        while self._kept or any(self._spares.values()):
            await asyncio.sleep(_ROUND)
            now = self._clock.monotonic()
            for spares in self._spares.values():
                while spares and spares[0].used + _KEPT < now:
                    self.revoke_later(spares.popleft())
            for lease in (*self._kept, *chain.from_iterable(self._spares.values())):
                if now - lease.refreshed > lease.ttl / 3:
                    self.refresh(lease)
            if any(now - each.sent > TRY for each in self._refreshing.values()):
                self._stream.unanswered()


def whole(seconds: float) -> int:
    """Return the ttl of the lease for something that is to last *seconds*."""
    return math.ceil(seconds + SLACK)


def _first_used(spares: deque[Lease]) -> float:
    return spares[0].used


def _method(endpoint: Endpoint) -> Any:
    return endpoint.keep_alive
