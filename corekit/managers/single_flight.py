"""Loads of missing values: one per key, and none that overwrites what was written meanwhile.

A load claims its key before it calls the function, and stores only while the claim is still
there: a set, delete or reset in between, from any instance, has removed it, and wins. A claim is an
entry that every reader takes for missing. It ends by itself when its instance dies.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any

from ..adapters import Stored
from ..clock import Clock
from ..errors import BackendError, CorekitError, InvalidArgument, NotOpenError
from ..tasks import TaskOwner, is_being_cancelled
from .cache_entry import PASSED, Entry
from .keyspace import Keyspace

logger = logging.getLogger("corekit.cache")

#: For how long a claim that is not renewed counts as alive, in seconds: after so long another
#: instance takes over the cluster load of one that died. Renewed every third.
CLAIM_LIFETIME = 10.0

#: When a renewal that failed is tried again, in seconds.
_RETRY = 1.0

#: How often a cluster load looks whether another instance's has ended: the first and the longest
#: pause, in seconds.
_FIRST_POLL = 0.02
_LONGEST_POLL = 0.25

#: Numbers the claims of this process.
_CLAIMS = count(1)


@dataclass(slots=True)
class Load:
    """How a missing value is had, and what becomes of it."""

    function: Callable[[], Any]
    ttl: float
    stale: float | None = None
    cluster: bool = False
    is_cacheable: Callable[[Any], Any] | None = None

    async def call(self) -> Any:
        """Return what the function returns, awaited if need be."""
        return await _settled(self.function())


class _Flight:
    """One running load of one key, and how it ended."""

    __slots__ = (
        "awaited",
        "claim",
        "error",
        "key",
        "owns_claim",
        "task",
        "traceback",
        "value",
        "waiters",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        #: The claim under which this flight stores; another instance's, if that came first.
        self.claim: str | None = None
        #: Whether the claim was made by this flight, which must then renew and release it.
        self.owns_claim = False
        self.task: asyncio.Task[None]
        self.waiters = 0
        #: The loads that this one waits for at the moment.
        self.awaited: list[_Flight] = []
        self.value: Any = None
        self.error: BaseException | None = None
        self.traceback: TracebackType | None = None

    def __repr__(self) -> str:
        state = "done" if self.task.done() else "running"
        return f"<_Flight {self.key!r} {state} claim={self.claim!r} waiters={self.waiters}>"

    def fail(self, error: BaseException) -> None:
        """Let every waiter see *error*."""
        self.error = error
        self.traceback = error.__traceback__

    def waits_for(self, others: Collection[_Flight]) -> bool:
        """Tell whether this load is, or waits for, one of *others*."""
        return self in others or any(flight.waits_for(others) for flight in self.awaited)

    async def wait(self) -> Any:
        """Return the value, or raise the error, once the load has ended.

        A waiter that is cancelled leaves the load and the other waiters alone.
        """
        inside = _INSIDE.get()
        self.waiters += 1
        if inside:
            inside[-1].awaited.append(self)
        try:
            await asyncio.wait((self.task,))
        finally:
            self.waiters -= 1
            if inside:
                inside[-1].awaited.remove(self)
        if self.error is not None:
            # All waiters raise one object: without this each would add its own frames to it.
            raise self.error.with_traceback(self.traceback)
        if self.task.cancelled():
            raise NotOpenError("the App was stopped before the load ended")
        return self.value


#: The loads that the running code is part of, child tasks included.
_INSIDE: ContextVar[tuple[_Flight, ...]] = ContextVar("corekit_loads", default=())


class _Watch:
    """Looks, ever less often, whether another instance's claim is still renewed.

    On this instance's own clock: the other's may be far ahead, and its claim look alive for hours.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._version: object = None
        self._given_up = math.inf
        self._pause = _FIRST_POLL

    def __repr__(self) -> str:
        return f"<_Watch until={self._given_up} pause={self._pause:.3f}>"

    def has_ended(self, stored: Stored | None) -> bool:
        """Tell whether the claim in *stored* has not been renewed for its lifetime."""
        version = None if stored is None else stored.version
        if version != self._version:
            self._version = version
            self._given_up = self._monotonic() + CLAIM_LIFETIME
        return self._monotonic() >= self._given_up

    async def pause(self) -> None:
        """Wait until it is time to look again."""
        await asyncio.sleep(self._pause * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
        self._pause = min(self._pause * 1.5, _LONGEST_POLL)


class SingleFlight:
    """The loads of one cache."""

    def __init__(
        self, cache: str, instance: str, keyspace: Keyspace, tasks: TaskOwner, clock: Clock
    ) -> None:
        self._cache = cache
        self._instance = instance
        self._keyspace = keyspace
        self._tasks = tasks
        self._monotonic = clock.monotonic
        self._flights: dict[str, _Flight] = {}

    def __repr__(self) -> str:
        return f"<SingleFlight {self._cache!r} loads={len(self._flights)}>"

    def __len__(self) -> int:
        return len(self._flights)

    async def get(self, key: str, load: Load) -> Any:
        """Return the value under *key*, loading it if it is missing.

        An old value that *load* lets through is returned at once, while the load goes on.
        """
        before = self._flights.get(key)
        claim = None if before is None else before.claim
        stored = await self._keyspace.space.get(key)
        entry = self._keyspace.decode(key, stored)
        now = self._keyspace.now()
        if entry is not None and entry.expires > now:
            return entry.value
        flight = self._flights.get(key)
        if flight is not None and flight.waits_for(_INSIDE.get()):
            raise InvalidArgument(
                f"cache {self._cache!r}: {key!r} is wrapped inside its own load, which would wait "
                "for itself"
            )
        if flight is before and claim is not None and (entry is None or entry.claim != claim):
            # Its claim is gone: what it loads is older than a set or delete that has returned.
            flight = None
        old = _servable(entry, load, now)
        if old is not None:
            if flight is None and not (load.cluster and _is_claimed(old, now)):
                self._start(key, load, stored)
            return old.value
        if flight is None:
            flight = self._start(key, load, stored)
        return await flight.wait()

    def forget(self) -> None:
        """Forget all loads; their tasks have been cancelled."""
        self._flights.clear()

    def _start(self, key: str, load: Load, stored: Stored | None) -> _Flight:
        flight = _Flight(key)
        context = copy_context()
        context.run(_INSIDE.set, (*_INSIDE.get(), flight))
        flight.task = self._tasks.spawn(
            self._run(flight, load, stored), name=f"load {key!r}", context=context
        )
        self._flights[key] = flight
        return flight

    async def _run(self, flight: _Flight, load: Load, stored: Stored | None) -> None:
        try:
            flight.value = await self._result(flight, load, stored)
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            flight.fail(error)
        except BaseException as error:
            flight.fail(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            if not flight.waiters:
                logger.warning(
                    "cache %r: loading %r failed with nobody waiting; the next call tries again",
                    self._cache,
                    flight.key,
                    exc_info=error,
                )
        finally:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

    async def _result(self, flight: _Flight, load: Load, stored: Stored | None) -> Any:
        found = await self._claim(flight, load.cluster, stored)
        if found is not None:
            return found.value
        try:
            with self._renewing(flight):
                value = await load.call()
                cacheable = load.is_cacheable is None or await _settled(load.is_cacheable(value))
            if cacheable:
                await self._store(flight, load, value)
            else:
                await self._release(flight)
        except BaseException:
            await self._release(flight)
            raise
        return value

    async def _claim(self, flight: _Flight, cluster: bool, stored: Stored | None) -> Entry | None:
        """Claim the key; return None when done, or the live entry that was there before."""
        keyspace = self._keyspace
        claim = f"{self._instance}/{next(_CLAIMS)}"
        watch = _Watch(self._monotonic)
        while True:
            entry = keyspace.decode(flight.key, stored)
            now = keyspace.now()
            if entry is not None and entry.expires > now:
                return entry
            if entry is not None and _is_claimed(entry, now) and not watch.has_ended(stored):
                if not cluster:
                    # Both load, and the first to end stores. Overwriting the other's claim would
                    # keep it from storing, and its next load keep this one, without end.
                    flight.claim = entry.claim
                    return None
                await watch.pause()
            else:
                mine = (entry or Entry(None, PASSED)).claimed(claim, now + CLAIM_LIFETIME)
                if await keyspace.swap(flight.key, mine, stored):
                    flight.claim = claim
                    flight.owns_claim = True
                    return None
            stored = await keyspace.space.get(flight.key)

    @contextmanager
    def _renewing(self, flight: _Flight) -> Iterator[None]:
        """Keep the claim alive."""
        renewals: list[asyncio.Task[None]] = []

        def renew() -> None:
            renewals.append(self._tasks.spawn(self._renew(flight), name=f"renew {flight.key!r}"))

        # Most loads end before their first renewal: they cost a timer, not a task.
        timer = asyncio.get_running_loop().call_later(CLAIM_LIFETIME / 3, renew)
        try:
            yield
        finally:
            timer.cancel()
            for renewal in renewals:
                renewal.cancel()

    async def _renew(self, flight: _Flight) -> None:
        while flight.owns_claim:
            extended = partial(_extended, until=self._keyspace.now() + CLAIM_LIFETIME)
            pause = CLAIM_LIFETIME / 3
            try:
                if not await self._update_claimed(flight, extended):
                    return
            except BackendError:
                pause = _RETRY
            await asyncio.sleep(pause)

    async def _store(self, flight: _Flight, load: Load, value: Any) -> None:
        expires = self._keyspace.now() + load.ttl
        loaded = Entry(value, expires, PASSED if load.stale is None else expires + load.stale)
        try:
            await self._update_claimed(flight, lambda _: loaded)
        except BackendError as error:
            # The value is there all the same: it is returned, and loaded again next time.
            logger.warning(
                "cache %r: the value loaded for %r was not stored: %s",
                self._cache,
                flight.key,
                error,
            )

    async def _release(self, flight: _Flight) -> None:
        """Let the next caller load without waiting for this claim to end by itself."""
        if flight.owns_claim:
            flight.owns_claim = False
            with suppress(CorekitError):
                await self._update_claimed(flight, lambda entry: _extended(entry, PASSED))

    async def _update_claimed(self, flight: _Flight, change: Callable[[Entry], Entry]) -> bool:
        """Change the entry under the key if it still has the claim of *flight*; return whether."""

        def changed(entry: Entry | None) -> Entry | None:
            if entry is None or entry.claim is None or entry.claim != flight.claim:
                return None
            return change(entry)

        return await self._keyspace.update(flight.key, changed)


def _servable(entry: Entry | None, load: Load, now: float) -> Entry | None:
    if entry is None or load.stale is None:
        return None
    return entry if now < min(entry.stale_until, entry.expires + load.stale) else None


def _is_claimed(entry: Entry, now: float) -> bool:
    return entry.claim is not None and entry.claimed_until > now


def _extended(entry: Entry, until: float) -> Entry:
    return entry.claimed(entry.claim, until)


async def _settled(result: Any | Awaitable[Any]) -> Any:
    return await result if inspect.isawaitable(result) else result
