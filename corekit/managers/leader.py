"""Leaders: one instance that does what must be done once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from .. import arguments
from ..adapters import Member
from ..clock import Clock
from ..errors import LockTimeout
from .critical_section import CriticalSection
from .lease import Lease
from .membership import PresenceFormat

if TYPE_CHECKING:
    from .lock import LockManager


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads."""

    instance_id: str

    token: int
    """The fencing token of its lease: greater than that of every earlier leader."""

    since: float
    """When it began to lead, in Unix seconds by its own clock."""


class Election:
    """The instances of an application choose one of them as the leader for a key.

        election = app.lock_manager.leader("scheduler")
        while True:
            try:
                async with election.campaign() as lease:
                    await run_the_schedule(lease.token)
            except LockLost:
                continue        # another leads now; wait for the next turn

    It may be used by any number of tasks at the same time.
    """

    def __init__(
        self, locks: LockManager, presence: PresenceFormat, clock: Clock, name: str, ttl: float
    ) -> None:
        self._locks = locks
        self._presence = presence
        self._clock = clock
        self._name = name
        self._ttl = ttl

    def __repr__(self) -> str:
        return f"<Election {self._name} ttl={self._ttl:g}>"

    def campaign(self, *, wait: float | timedelta | None = None) -> CriticalSection:
        """Return an async context manager: its block runs while this instance leads.

        Entering waits, in the order of arrival, until nobody else leads, at most *wait* seconds
        (None: without limit). Inside, everything is as in `LockManager.lock` with renewal: if the
        leadership is lost the block is cancelled and LockLost raised; a leader that dies is
        followed after at most the ttl.

        Entering raises what `LockManager.acquire` raises.
        """
        limit = None if wait is None else arguments.seconds("wait", wait, zero=True)
        return CriticalSection(partial(self._win, limit), renewed=True)

    async def current(self) -> Leader | None:
        """Return who leads; None if nobody does. It may have changed by the time it is known.

        Raises BackendUnavailable, NotOpenError.
        """
        return self._leader(await self._locks.membership().members(self._name))

    async def watch(self) -> AsyncIterator[Leader | None]:
        """Yield who leads, now and after every change; None while nobody does.

        Quick changes may be seen as one. Ends with NotOpenError when the App stops.
        """
        async for members in self._locks.membership().watch(self._name):
            yield self._leader(members)

    def _leader(self, members: list[Member]) -> Leader | None:
        for seen in self._presence.read(members):
            return Leader(seen.instance_id, seen.token, seen.since)
        return None

    async def _win(self, wait: float | None) -> Lease:
        lease = await self._locks.hold(
            self._name, self._ttl, wait, lambda: self._presence.write(self._clock.time())
        )
        if lease is None:
            raise LockTimeout(f"another instance led {self._name} for all of {wait:g} s")
        return lease
