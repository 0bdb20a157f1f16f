"""Locks: a key per acquisition, in the order of their creation, each under a lease of etcd."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from corekit.adapters import AdapterContext, Grant, Guarantee, Member
from corekit.config import BackendURL

from .client import Client
from .driver import (
    Call,
    DeleteRangeRequest,
    RangeRequest,
    TxnRequest,
    created_at,
    keeping_lease,
    keeping_value,
    none_in,
    put,
    range_of,
)
from .failures import KeyGone, LeaseGone
from .leases import Lease, Leases, whole
from .membership import AFTER_SEPARATOR, OWNER, SEPARATOR, SHOWN, WAITER, Members
from .watch import Watches

#: How long `close` may take to give back what is held, in seconds.
_CLOSING = 2.0

#: The number of held names from which on those whose time is over are looked for.
_FEW = 64

#: Reads the youngest keys first.
_NEWEST: dict[str, Any] = {
    "sort_order": RangeRequest.DESCEND,
    "sort_target": RangeRequest.CREATE,
}


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

    before: bytes = b""
    """The key just before this one; empty if there is none, or it is not known."""

    before_owns: bool = False
    """Whether the key before this one has shown that it owns the name. Otherwise it may give up,
    and older ones are left."""

    before_gone: bool = False

    moved: bool = False
    """Whether the key may have been moved to another lease, without an answer that says so."""

    left: bool = False

    def stand_behind(self, newest: Sequence[Any]) -> None:
        """Learn what is before this key from *newest*, which begins with it, or is of no use."""
        if len(newest) == 2 and newest[0].key == self.key:
            self.before = newest[1].key
            self.before_owns = newest[1].value.startswith(OWNER)
            self.before_gone = False

    def look_before(self, found: Sequence[Any]) -> None:
        """Learn from *found* what the key before this one is now."""
        if not found:
            self.before_gone = True
        elif found[0].value.startswith(OWNER):
            self.before_owns = True

    def learn(self, event: Any) -> bool:
        """Take what happened to the key before this one; return whether it has gone."""
        if event.type == event.DELETE:
            self.before_gone = True
        elif event.kv.value.startswith(OWNER):
            self.before_owns = True
        return self.before_gone

    @property
    def is_next(self) -> bool:
        """Whether it is certain that no older key is left."""
        return self.before_owns and self.before_gone


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
        self._leases = Leases(self._client)
        self._watches = Watches(self._client)
        self._members = Members(self._client, self._watches, self._root)
        self._held: set[Place] = set()
        self._sweep_at = _FEW

    def __repr__(self) -> str:
        return f"<Lock {self._client!r} held={len(self._held)}>"

    async def open(self) -> None:
        await self._client.open()

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
        start = self._root + name.encode() + SEPARATOR
        end = start[:-1] + AFTER_SEPARATOR
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
            self._hold(place)
            return Grant(name, place.created, ttl, since, place)
        if place.created:
            self._leases.revoke_later(lease)
        else:
            self._leases.give_back(lease)
        return None

    def _hold(self, place: Place) -> None:
        self._held.add(place)
        if len(self._held) > self._sweep_at:
            # Whose time is over is nobody's business any more, and nobody comes to say so.
            now = self._now()
            self._held = {each for each in self._held if each.lease.ends > now}
            self._sweep_at = max(_FEW, 2 * len(self._held))

    async def _enter(self, place: Place, *, waits: bool) -> float | None:
        """Create the key if the name is free, or else if *waits*; return since when it is owned."""
        lease = place.lease
        look = range_of(key=place.key, keys_only=True)
        newest = range_of(key=place.start, range_end=place.end, limit=2, **_NEWEST)
        # If this is a repetition, the key may be there already, and is not created again.
        enter = [put(place.key, WAITER, lease.id), look, newest]
        request = TxnRequest(
            compare=[none_in(place.start, place.end)],
            success=[put(place.key, OWNER, lease.id)],
            failure=enter if waits else [look],
        )
        since = self._now()
        if lease.ends < since + place.ttl:
            # Sent together with the request, and waited for only when the name is owned.
            self._leases.refresh(lease)
        answer = await self._client.call(Call.TXN, request)
        if answer.succeeded:
            place.created = answer.header.revision
        elif waits:
            _, look_answer, newest_answer = answer.responses
            place.created = look_answer.response_range.kvs[0].create_revision
            place.stand_behind(newest_answer.response_range.kvs)
            return None
        else:
            found = answer.responses[0].response_range.kvs
            if not found:
                return None
            place.created = found[0].create_revision
        await self._refresh_from(lease, since + place.ttl - lease.ttl)
        return since

    async def _wait(self, place: Place, until: float | None) -> float | None:
        """Return since when the name is owned; None if it was not free before *until*."""
        self._leases.keep(place.lease)
        try:
            known = bool(place.before)
            while True:
                if not known:
                    await self._look(place)
                if not place.before:
                    return await self._claim(place)
                if not await self._is_gone(place, until):
                    return None
                if place.is_next:
                    return await self._claim(place)
                known = False
        finally:
            place.lease.on_loss = None
            self._leases.let_go(place.lease)

    async def _look(self, place: Place) -> None:
        """Learn which key is before this one; there may be none any more."""
        place.before = b""
        request = RangeRequest(
            key=place.start,
            range_end=place.end,
            max_create_revision=place.created,
            limit=2,
            **_NEWEST,
        )
        answer = await self._client.call(Call.RANGE, request)
        place.stand_behind(answer.kvs)

    async def _is_gone(self, place: Place, until: float | None) -> bool:
        """Wait for the key before this one to go; return False if it is still there at *until*.

        True also when it cannot be watched any longer.
        """
        with self._watches.watch(place.before, wakes=place.learn) as gone:
            place.lease.on_loss = gone.end
            left = None if until is None else until - self._now()
            try:
                async with asyncio.timeout(left):
                    await gone.began.wait()
                    if not gone.happened.is_set():
                        # What happened before it began is not told by the watch.
                        answer = await self._client.call(Call.RANGE, RangeRequest(key=place.before))
                        place.look_before(answer.kvs)
                    if not place.before_gone:
                        await gone.happened.wait()
            except TimeoutError:
                return False
            if gone.refusal is not None:
                raise gone.refusal
        return True

    async def _claim(self, place: Place) -> float:
        """Own the name, of which no older key is left; return since when.

        By a write, which tells the next in the queue, and is done only if the key still exists:
        what is only read may be out of date.
        """
        lease = place.lease
        since = self._now()
        if lease.ends < since + place.ttl:
            self._leases.refresh(lease)
        try:
            await self._client.call(Call.PUT, keeping_lease(place.key, OWNER))
        except KeyGone as error:
            raise LeaseGone(f"the place in the queue of {place.start!r} was lost") from error
        await self._refresh_from(lease, since + place.ttl - lease.ttl)
        return since

    async def _refresh_from(self, lease: Lease, since: float) -> None:
        """Let *lease* be one that was refreshed at *since* or later."""
        while lease.refreshed < since:
            if not await self._leases.refreshed(lease, self._client.settings.timeout):
                raise LeaseGone("a lease ended while it was refreshed")

    async def extend(self, grant: Grant, ttl: float) -> Grant | None:
        place = grant.owner
        if not isinstance(place, Place) or place.left:
            return None
        ttl = max(ttl, self.least_ttl)
        with self._client.pending():
            since = self._now()
            if whole(ttl) == place.lease.asked and not place.moved:
                owned = await self._refresh(place, since)
            else:
                owned = await self._move(place, since, ttl)
        if owned:
            return Grant(grant.name, grant.token, ttl, since, place)
        place.left = True
        self._held.discard(place)
        self._leases.revoke_later(place.lease)
        return None

    async def _refresh(self, place: Place, since: float) -> bool:
        try:
            await self._refresh_from(place.lease, since)
        except LeaseGone:
            return False
        request = TxnRequest(compare=[created_at(place.key, place.created)])
        answer = await self._client.call(Call.TXN, request)
        return bool(answer.succeeded)

    async def _move(self, place: Place, since: float, ttl: float) -> bool:
        """Bind the key to a lease of another ttl; it stays the same key."""
        while True:
            lease = await self._leases.take(ttl)
            try:
                await self._refresh_from(lease, since + ttl - lease.ttl)
                await self._client.call(Call.PUT, keeping_value(place.key, lease.id))
            except LeaseGone:
                continue
            except KeyGone:
                self._leases.give_back(lease)
                return False
            except BaseException:
                # Not revoked: if the key was moved, its holder may rely on either lease.
                place.moved = True
                raise
            break
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

    async def announce(self, grant: Grant, value: bytes) -> bool:
        place = grant.owner
        if not isinstance(place, Place) or place.left:
            return False
        request = keeping_lease(place.key, SHOWN + value)
        with self._client.pending():
            try:
                await self._client.call(Call.PUT, request)
            except KeyGone:
                return False
        return True

    async def members(self, prefix: str) -> list[Member]:
        with self._client.pending():
            return (await self._members.seen(prefix)).members

    def watch(self, prefix: str) -> AsyncGenerator[list[Member], None]:
        return self._members.watch(prefix)

    def _now(self) -> float:
        return self._clock.monotonic()
