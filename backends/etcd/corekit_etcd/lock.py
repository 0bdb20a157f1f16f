"""Locks: a key per acquisition, in the order of their creation, each under a lease of etcd."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

from corekit.adapters import AdapterContext, Grant, Guarantee
from corekit.config import BackendURL

from .client import Client
from .driver import (
    Call,
    DeleteRangeRequest,
    RangeRequest,
    TxnRequest,
    all_newer,
    created_at,
    none_in,
    put,
    range_of,
    rebind,
)
from .failures import LeaseGone
from .leases import Lease, Leases, whole
from .watch import Watches

#: How long `close` may take to give back what is held, in seconds.
_CLOSING = 2.0

#: Stands between a name and the places in its queue. No name holds it, so none begins with another
#: and this.
_SEPARATOR = b"\0"
_AFTER_SEPARATOR = b"\1"

_RANGE = "response_range"


@dataclass(slots=True, eq=False)
class Place:
    """A place in the queue of a name: a key of its own, so nobody else's can be removed by it."""

    start: bytes
    """Where the range of the name begins."""

    end: bytes
    key: bytes
    ttl: float
    lease: Lease

    created: int = 0
    """The revision at which the key was created: the place in the order, and the token."""

    before: bytes | None = None
    """The key just before this one, if it is known."""

    seen: int = 0
    """The revision at which that was so."""

    moved: bool = False
    """Whether the key may have been moved to another lease, without an answer that says so."""

    left: bool = False


class Lock:
    """Locks for `etcd://` URLs.

    The holder of a name is the oldest key in its range; every other one waits for the key just
    before its own to go. The token is the revision at which the key was created.
    """

    guarantees = frozenset({Guarantee.SHARED, Guarantee.FENCED, Guarantee.FAIR})
    least_ttl = 2.0

    def __init__(self, url: BackendURL, context: AdapterContext) -> None:
        self._client = Client(url, context, "lock")
        self._clock = context.clock
        self._root = f"{self._client.settings.prefix}lock/".encode()
        self._held: set[Place] = set()

    def __repr__(self) -> str:
        return f"<Lock {self._client!r} held={len(self._held)}>"

    async def open(self) -> None:
        connection = await self._client.open()
        self._leases = Leases(self._client)
        self._watches = Watches(connection)

    async def close(self) -> None:
        if not await self._client.end_pending():
            return
        try:
            held = [place.lease for place in self._held]
            self._held.clear()
            await self._leases.close(held, _CLOSING)
            await self._watches.close()
        finally:
            await self._client.close()

    async def acquire(self, name: str, ttl: float, wait: float | None) -> Grant | None:
        ttl = max(ttl, self.least_ttl)
        until = None if wait is None else self._clock.monotonic() + wait
        with self._client.pending():
            while True:
                try:
                    return await self._acquire(name, ttl, until)
                except LeaseGone:
                    # The process was paused, or etcd has lost its data: a new lease, a new place.
                    continue

    async def _acquire(self, name: str, ttl: float, until: float | None) -> Grant | None:
        start = self._root + name.encode() + _SEPARATOR
        end = start[:-1] + _AFTER_SEPARATOR
        lease = await self._leases.take(ttl)
        place = Place(start, end, start + secrets.token_hex(8).encode(), ttl, lease)
        try:
            since = await self._enter(place, waits=until is None or until > self._now())
            if since is None and place.created:
                since = await self._wait(place, until)
        except BaseException:
            # What was sent may still arrive: without its lease it does nothing.
            self._leases.revoke_later(lease)
            raise
        if since is not None:
            self._held.add(place)
            return Grant(name, place.created, ttl, since, place)
        if place.created:
            self._leases.revoke_later(lease)
        else:
            self._leases.give_back(lease)
        return None

    async def _enter(self, place: Place, *, waits: bool) -> float | None:
        """Create the key if the name is free, or else if *waits*; return since when it is owned."""
        own = put(place.key, b"", place.lease.id)
        look = range_of(key=place.key, keys_only=True)
        request = TxnRequest(
            compare=[none_in(place.start, place.end)],
            success=[own],
            # If this is a repetition, the key may be there already, and is not created again.
            failure=[own, look, _newest(place, 2)] if waits else [look],
        )
        since, answer = await self._send(place, request)
        if answer.succeeded:
            place.created = answer.header.revision
            return since
        found = [each.response_range.kvs for each in answer.responses if each.HasField(_RANGE)]
        if found[0]:
            place.created = found[0][0].create_revision
            if not waits:
                return since
            newest = found[1]
            if len(newest) == 2 and newest[0].key == place.key:
                place.before, place.seen = newest[1].key, answer.header.revision
        return None

    async def _wait(self, place: Place, until: float | None) -> float | None:
        """Return since when the name is owned; None if it was not free before *until*."""
        lease = place.lease
        self._leases.keep(lease)
        try:
            while True:
                if place.before is None:
                    since = await self._advance(place)
                    if since is not None:
                        return since
                    continue
                with self._watches.watch(place.before, revision=place.seen + 1, puts=False) as gone:
                    place.before = None
                    lease.on_loss = gone.happened.set
                    left = None if until is None else until - self._now()
                    try:
                        async with asyncio.timeout(left):
                            await gone.happened.wait()
                    except TimeoutError:
                        return None
                if gone.refusal is not None:
                    raise gone.refusal
        finally:
            lease.on_loss = None
            self._leases.let_go(lease)

    async def _advance(self, place: Place) -> float | None:
        """Own the name if no older key is left; return since when, or learn who is before."""
        request = TxnRequest(
            compare=[
                created_at(place.key, place.created),
                all_newer(place.start, place.end, place.created - 1),
            ],
            # The write makes it certain: what is only read may be out of date.
            success=[put(place.key, b"", place.lease.id)],
            failure=[
                range_of(key=place.key, keys_only=True),
                _newest(place, 1, max_create_revision=place.created - 1),
            ],
        )
        since, answer = await self._send(place, request)
        if answer.succeeded:
            return since
        own, before = (each.response_range.kvs for each in answer.responses)
        if not own:
            raise LeaseGone(f"the place in the queue of {place.start!r} was lost")
        if before:
            place.before, place.seen = before[0].key, answer.header.revision
        return None

    async def _send(self, place: Place, request: TxnRequest) -> tuple[float, Any]:
        """Send *request*, and let the lease last from the moment that is returned with the answer.

        That it lasts is certain only if the name is owned then.
        """
        lease = place.lease
        since = self._now()
        if lease.ends < since + place.ttl:
            # On its way together with the request, which does not wait for it.
            self._leases.refresh(lease)
        answer = await self._client.call(Call.TXN, request)
        if answer.succeeded:
            while lease.ends < since + place.ttl:
                if not await self._leases.refreshed(lease, self._client.settings.timeout):
                    raise LeaseGone("a lease ended while it was refreshed")
        return since, answer

    async def extend(self, grant: Grant, ttl: float) -> Grant | None:
        place = grant.owner
        if not isinstance(place, Place) or place.left:
            return None
        ttl = max(ttl, self.least_ttl)
        with self._client.pending():
            since = self._now()
            if whole(ttl) == place.lease.asked and not place.moved:
                owned = await self._refresh(place, since, ttl)
            else:
                owned = await self._move(place, since, ttl)
        if owned:
            return Grant(grant.name, grant.token, ttl, since, place)
        place.left = True
        self._held.discard(place)
        self._leases.revoke_later(place.lease)
        return None

    async def _refresh(self, place: Place, since: float, ttl: float) -> bool:
        timeout = self._client.settings.timeout
        lease = place.lease
        if not await self._leases.refreshed(lease, timeout):
            return False
        while lease.ends < since + ttl:
            if not await self._leases.refreshed(lease, timeout):
                return False
        request = TxnRequest(compare=[created_at(place.key, place.created)])
        answer = await self._client.call(Call.TXN, request)
        return bool(answer.succeeded)

    async def _move(self, place: Place, since: float, ttl: float) -> bool:
        """Bind the key to a lease of another ttl; it stays the same key."""
        lease = await self._leases.take(ttl)
        try:
            while lease.ends < since + ttl:
                if not await self._leases.refreshed(lease, self._client.settings.timeout):
                    lease = await self._leases.take(ttl)
            request = TxnRequest(
                compare=[created_at(place.key, place.created)],
                success=[rebind(place.key, lease.id)],
            )
            answer = await self._client.call(Call.TXN, request)
        except BaseException:
            # Not revoked: if the key was moved, its holder may rely on either lease.
            place.moved = True
            raise
        if not answer.succeeded:
            self._leases.give_back(lease)
            return False
        before, place.lease = place.lease, lease
        if place.moved:
            self._leases.revoke_later(before)
        else:
            self._leases.give_back(before)
        place.moved = False
        return True

    async def release(self, grant: Grant) -> None:
        place = grant.owner
        if not isinstance(place, Place) or place.left:
            return
        with self._client.pending():
            place.left = True
            self._held.discard(place)
            try:
                # The key is this grant's alone, so nobody else's can be met.
                await self._client.call(Call.DELETE, DeleteRangeRequest(key=place.key))
            except BaseException:
                self._leases.revoke_later(place.lease)
                raise
            self._leases.give_back(place.lease)

    def _now(self) -> float:
        return self._clock.monotonic()


def _newest(place: Place, limit: int, **fields: int) -> Any:
    """Return the operation that reads the youngest keys of the name."""
    return range_of(
        key=place.start,
        range_end=place.end,
        limit=limit,
        keys_only=True,
        sort_order=RangeRequest.DESCEND,
        sort_target=RangeRequest.CREATE,
        **fields,
    )
