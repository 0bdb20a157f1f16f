"""The broker's locks: fair, fenced, freed when the session of their holder ends."""

from __future__ import annotations

import asyncio
from typing import Any

from corekit.adapters import AdapterContext, Grant, Guarantee
from corekit.config import BackendURL
from corekit.errors import NotOpenError

from .client import Client
from .connection import Connection
from .protocol import Op
from .request import Request

#: The part of its time that a grant may have lost on the way before it is worth extending.
_STALE = 0.1

#: How long `close` waits for what was released to arrive, in seconds.
_CLOSING = 1.0

#: So many grants are remembered without a look whether their time is over.
_MANY = 1000


class Lock:
    """Locks for `zmq://` URLs."""

    guarantees = frozenset({Guarantee.SHARED, Guarantee.FENCED, Guarantee.FAIR})
    least_ttl = 0.05

    def __init__(self, url: BackendURL, context: AdapterContext) -> None:
        self._client = Client(url, context, "lock")
        self._clock = context.clock
        #: The names of the grants that were not released, and when they end, by owner.
        self._held: dict[object, tuple[str, float]] = {}
        self._sweep_at = _MANY
        #: Until when acquisitions that have a limit wait.
        self._waiting: dict[Request, float] = {}

    def __repr__(self) -> str:
        return f"<Lock {self._client!r} held={len(self._held)}>"

    async def open(self) -> None:
        await self._client.open(self)

    async def close(self) -> None:
        try:
            connection = self._client.connection
        except NotOpenError:
            return
        connection.leave(self)
        for owner, (name, _) in self._held.items():
            connection.requests.begin(None, Op.LOCK_RELEASE, (name, owner), patient=True)
        self._held.clear()
        await self._client.close(linger=_CLOSING)

    async def acquire(self, name: str, ttl: float, wait: float | None) -> Grant | None:
        connection = self._client.connection
        ttl = max(ttl, self.least_ttl)
        deadline = None if wait is None else self._clock.monotonic() + wait
        while True:
            since = self._clock.monotonic()
            got = await self._acquire(connection, name, ttl, deadline)
            if got is None:
                return None
            token, granted, owner = got
            grant = Grant(name, token, granted, since, owner)
            if self._clock.monotonic() - since <= _STALE * granted:
                return grant
            # When it was given is unknown: a lease that was extended counts from a known time.
            try:
                extended = await self.extend(grant, ttl)
            except BaseException:
                self._let_go(connection, name, owner)
                raise
            if extended is not None:
                return extended

    async def _acquire(
        self, connection: Connection, name: str, ttl: float, deadline: float | None
    ) -> Any:
        wait = None if deadline is None else self._left(deadline)
        request = connection.ask(self, Op.LOCK_ACQUIRE, name, ttl, wait, patient=True)
        if deadline is not None:
            self._waiting[request] = deadline
        try:
            got = await request.future
        except asyncio.CancelledError:
            answer = request.future
            if answer.done() and not answer.cancelled() and not answer.exception():
                if answer.result() is not None:
                    self._let_go(connection, name, answer.result()[2])
            elif not connection.requests.abandon(request):
                connection.session.add([Op.LOCK_ABANDON, request.rid])
                connection.flush_soon()
            raise
        finally:
            self._waiting.pop(request, None)
        if got is not None:
            self._hold(got[2], name, got[1])
        return got

    def _hold(self, owner: object, name: str, ttl: float) -> None:
        now = self._clock.monotonic()
        if len(self._held) >= self._sweep_at:
            # Who lets a lease end by its time does not release it.
            self._held = {key: held for key, held in self._held.items() if held[1] > now}
            self._sweep_at = max(_MANY, 2 * len(self._held))
        self._held[owner] = name, now + ttl

    def _left(self, deadline: float) -> float:
        return max(0.0, deadline - self._clock.monotonic())

    def _let_go(self, connection: Connection, name: str, owner: bytes) -> None:
        self._held.pop(owner, None)
        connection.requests.begin(None, Op.LOCK_RELEASE, (name, owner), patient=True)
        connection.flush_soon()

    async def extend(self, grant: Grant, ttl: float) -> Grant | None:
        ttl = max(ttl, self.least_ttl)
        since = self._clock.monotonic()
        granted = await self._request(Op.LOCK_EXTEND, grant.name, grant.owner, ttl)
        if granted is None:
            self._held.pop(grant.owner, None)
            return None
        self._hold(grant.owner, grant.name, granted)
        return Grant(grant.name, grant.token, granted, since, grant.owner)

    async def release(self, grant: Grant) -> None:
        self._held.pop(grant.owner, None)
        await self._request(Op.LOCK_RELEASE, grant.name, grant.owner)

    async def _request(self, op: Op, *arguments: Any) -> Any:
        return await self._client.connection.request(self, op, *arguments)

    def restore(self, confirmed: int) -> None:
        # The requests are repeated, but the time has gone on.
        for request, deadline in self._waiting.items():
            request.command[4] = self._left(deadline)
