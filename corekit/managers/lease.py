"""Leases: the ownership of a lock for a limited time, as its holder sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Self
from weakref import ref

from .. import arguments
from ..adapters import Grant
from ..errors import BackendError, LockLost, NotOpenError
from .guard import Guard

if TYPE_CHECKING:
    from .critical_section import CriticalSection
    from .lock_session import LockSession

_RELEASED = "it was released"
_EXPIRED = "its time is over"
_TAKEN = "the backend no longer knows it, and another may hold the lock"


class Lease:
    """The ownership of a lock, until it is released, its time is over, or the backend loses it.

    It ends at the holder's own deadline, which is earlier than the backend's: the key is given to
    nobody else before. As an async context manager it releases itself at the end; it does not
    cancel the block when it is lost (`LockManager.lock` does).
    """

    key: str
    """The key, as it was given to `acquire`."""

    token: int
    """The fencing token: greater than that of every earlier holder of the key."""

    # Most leases are taken and released, and nothing else: what they do not need is set when it is.
    _end: str | None = None
    _lost: asyncio.Event | None = None
    _alarm: asyncio.TimerHandle | None = None
    _extending: asyncio.Lock | None = None
    _least_ttl = 0.0

    _unanswered = False
    """Whether an extension was asked for whose answer has not come, and may never come."""

    section: CriticalSection | None = None
    """The block of work that ends with this lease; for the managers."""

    def __init__(
        self, session: LockSession, key: str, grant: Grant, task: asyncio.Task[Any] | None
    ) -> None:
        self.key = key
        self.token = grant.token
        self.session = session
        self.grant = grant
        self._deadline = grant.since + session.reliable(grant.ttl)
        # Not the task itself: a lease that is never released must not keep it alive.
        self._task = None if task is None else ref(task)

    def __repr__(self) -> str:
        if self._end is _RELEASED:
            state = "released"
        elif self.held:
            state = f"held for {self._deadline - self.session.monotonic():.3f} s"
        else:
            state = f"lost: {self._end or _EXPIRED}"
        return f"<Lease {self.key!r} token={self.token} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Lease belongs to this process and cannot be copied: hand on its token")

    async def __aenter__(self) -> Self:
        return self

    def __aexit__(self, *_: object) -> Coroutine[Any, Any, None]:
        return self.release()

    @property
    def expires_at(self) -> float:
        """When the lease ends by itself unless it is extended, in Unix seconds."""
        clock = self.session.clock
        return clock.time() + (self._deadline - clock.monotonic())

    @property
    def held(self) -> bool:
        """Whether the lease has neither ended nor been released, as far as its holder can know.

        May be asked in any thread.
        """
        return self._end is None and self.session.monotonic() < self._deadline

    @property
    def lost(self) -> asyncio.Event:
        """Set when the lease has ended against the holder's will; `release` does not set it.

        That is at the holder's own deadline, when the backend says that it is gone, and when the
        App stops. It is set by the event loop, so a loop that was blocked learns it late.
        """
        if self._lost is None:
            if self._end is None:
                self.session.gate.check()
            self._lost = asyncio.Event()
            if self.was_lost:
                self._lost.set()
            elif self._end is None:
                self.watch()
        return self._lost

    @property
    def guard(self) -> Guard:
        """A guard for writes that must happen only while this lease's token is the newest."""
        return Guard(self.grant.name, self.token)

    async def extend(self, ttl: float | timedelta) -> None:
        """Hold the lock for *ttl* seconds from now on, which may be less than is left.

        Under `lock` and `run_exclusive` with renewal it is at least their ttl. Overlapping calls
        take effect one after the other.

        Raises LockLost if the lease was released or lost; BackendUnavailable if the backend cannot
        be reached: then, and if the call is cancelled, the lease ends at the earlier of the old
        and the new time. InvalidArgument or InvalidType for *ttl*, NotOpenError (WrongLoop,
        ForkedProcess).
        """
        seconds = arguments.seconds("ttl", ttl)
        self._require_held()
        self.session.gate.check()
        if self._extending is None:
            self._extending = asyncio.Lock()
        async with self._extending:
            self._require_held()
            await self._extend(max(seconds, self.session.adapter.least_ttl, self._least_ttl))

    async def release(self) -> None:
        """Give the lock to the longest waiter; a lease that has ended is left alone.

        A second call does nothing. It never raises for a lease that was lost or a backend that
        cannot be reached (that is logged, and the lease ends by its time). If the call is
        cancelled, the lease is released all the same.

        Raises WrongLoop and ForkedProcess, and then changes nothing.
        """
        if self._end is not None:
            return
        session = self.session
        session.gate.check()
        if session.monotonic() >= self._deadline:
            self.lose(_EXPIRED)
            return
        self._finish(_RELEASED)
        try:
            await session.adapter.release(self.grant)
        except (BackendError, NotOpenError, asyncio.CancelledError) as error:
            session.release_failed(self.grant, error)
            if isinstance(error, asyncio.CancelledError):
                raise

    # What follows is for the managers; nothing is promised for it.

    @property
    def is_mine(self) -> bool:
        """Whether the running task holds the lease."""
        self.expire()
        return (
            self._end is None and self._task is not None and self._task() is asyncio.current_task()
        )

    @property
    def was_lost(self) -> bool:
        """Whether the lease has ended in another way than by `release`."""
        self.expire()
        return self._end is not None and self._end is not _RELEASED

    @property
    def renewal_due(self) -> float:
        """When a third of the ttl is over, on the clock's monotonic scale."""
        return self.grant.since + self.grant.ttl - self._least_ttl * 2 / 3

    def keep_at_least(self, ttl: float) -> None:
        """Let no extension be shorter than *ttl*."""
        self._least_ttl = ttl

    def watch(self) -> None:
        """Notice the end of the lease when it comes."""
        self.expire()
        if self._alarm is None and self._end is None:
            self._alarm = self.session.loop.call_at(self._deadline, self._alarmed)

    def expire(self) -> None:
        """Notice the end of the lease if its time is over."""
        if self._end is None and self.session.monotonic() >= self._deadline:
            self.lose(_EXPIRED)

    def lose(self, reason: str) -> None:
        """End the lease against the holder's will, because of *reason*."""
        if self._end is not None:
            return
        self._finish(reason)
        if self._unanswered:
            # It may yet be heard, and would keep the key from the next one for another ttl.
            self.session.release_later(self.grant)
        if self._lost is not None:
            self._lost.set()
        if self.section is not None:
            self.section.interrupt()

    def loss(self) -> LockLost:
        """Return the error that says how the lease ended."""
        return LockLost(f"lock {self.key!r}, token {self.token}: {self._end}")

    def _require_held(self) -> None:
        self.expire()
        if self._end is not None:
            raise self.loss()

    def _alarmed(self) -> None:
        self._alarm = None
        self.watch()

    def _finish(self, end: str) -> None:
        self._end = end
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        leases = self.session.leases
        # A younger lease may have taken its place.
        if leases.get(self.grant.name) is self:
            del leases[self.grant.name]

    def _end_at(self, deadline: float) -> None:
        self._deadline = deadline
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
            self.watch()

    async def _extend(self, ttl: float) -> None:
        session = self.session
        # Once it is asked, the backend may count the new time, and that may be the shorter one.
        self._end_at(min(self._deadline, session.monotonic() + session.reliable(ttl)))
        self._unanswered = True
        try:
            grant = await session.adapter.extend(self.grant, ttl)
        except NotOpenError:
            self._require_held()
            raise
        self._unanswered = False
        if grant is None:
            self.lose(_TAKEN)
        elif self.was_lost:
            # The answer came after the holder's own deadline: too late for it, so nobody's.
            session.release_later(grant)
        elif self._end is None:
            self.grant = grant
            self._end_at(grant.since + session.reliable(grant.ttl))
        self._require_held()
