"""Loads of missing values: one per key of a cache, however many callers miss it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..adapters import Stored
from ..clock import Clock
from ..errors import BackendError, InvalidArgument
from ..lifecycle import Gate
from ..tasks import TaskOwner, is_being_cancelled
from .cache_entry import PASSED, Entry
from .claim import Claim, take
from .flight import Flight
from .keyspace import Keyspace

logger = logging.getLogger("corekit.cache")


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

    async def keeps(self, value: Any) -> bool:
        """Tell whether *value* is to be stored."""
        return self.is_cacheable is None or bool(await _settled(self.is_cacheable(value)))

    def entry(self, value: Any, now: float) -> Entry:
        """Return *value*, loaded *now*, as it is stored."""
        expires = now + self.ttl
        return Entry(value, expires, PASSED if self.stale is None else expires + self.stale)

    def serves(self, old: Entry | None, now: float) -> bool:
        """Tell whether the value of *old* may be returned while a new one is loaded."""
        if old is None or self.stale is None:
            return False
        return now < min(old.stale_until, old.expires + self.stale)


class SingleFlight:
    """The loads of one cache: at most one runs for a key, unless what it loads is outdated."""

    def __init__(
        self,
        cache: str,
        instance: str,
        keyspace: Keyspace,
        tasks: TaskOwner,
        clock: Clock,
        gate: Gate,
    ) -> None:
        self._cache = cache
        self._instance = instance
        self._keyspace = keyspace
        self._tasks = tasks
        self._monotonic = clock.monotonic
        self._gate = gate
        self._flights: dict[str, Flight] = {}

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
        if flight is not None and flight.waits_for_caller():
            raise InvalidArgument(
                f"cache {self._cache!r}: {key!r} is wrapped inside its own load, which would wait "
                "for itself"
            )
        if flight is before and claim is not None and not claim.is_in(entry):
            # Its claim is gone: what it loads is older than a set or delete that has returned.
            flight = None
        if entry is not None and load.serves(entry, now):
            if flight is None and not (load.cluster and entry.is_claimed(now)):
                self._start(key, load, stored)
            return entry.value
        if flight is None:
            flight = self._start(key, load, stored)
        return await flight.wait()

    def forget(self) -> None:
        """Forget all loads; their tasks have been cancelled."""
        self._flights.clear()

    def _start(self, key: str, load: Load, stored: Stored | None) -> Flight:
        # The App may have been stopped while the entry was read: nobody would end the load.
        self._gate.check()
        flight = self._flights[key] = Flight(key)
        flight.task = self._tasks.spawn(
            self._run(flight, load, stored), name=f"load {key!r}", context=flight.context()
        )
        return flight

    async def _run(self, flight: Flight, load: Load, stored: Stored | None) -> None:
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

    async def _result(self, flight: Flight, load: Load, stored: Stored | None) -> Any:
        claim = await take(
            self._keyspace,
            flight.key,
            stored,
            instance=self._instance,
            alone=load.cluster,
            monotonic=self._monotonic,
        )
        if isinstance(claim, Entry):
            return claim.value
        flight.claim = claim
        try:
            with claim.renewed(self._tasks):
                value = await load.call()
                keep = await load.keeps(value)
            if keep:
                await self._store(flight.key, claim, load.entry(value, self._keyspace.now()))
            else:
                await claim.release()
        except BaseException:
            await claim.release()
            raise
        return value

    async def _store(self, key: str, claim: Claim, entry: Entry) -> None:
        try:
            await claim.replace(entry)
        except BackendError as error:
            # The value is there all the same: it is returned, and loaded again next time.
            logger.warning(
                "cache %r: the value loaded for %r was not stored: %s", self._cache, key, error
            )


async def _settled(result: Any | Awaitable[Any]) -> Any:
    return await result if inspect.isawaitable(result) else result
