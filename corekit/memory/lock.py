"""Locks inside one process."""

from __future__ import annotations

import asyncio
import threading
from asyncio import _get_running_loop
from collections import OrderedDict
from typing import TypeAlias

from ..adapters import AdapterContext, Grant, Guarantee, LockAdapter
from ..config import BackendURL
from ..errors import NotOpenError
from .hub import hub

#: The number of held names from which on those whose time is over are looked for.
_FEW = 64


def memory_lock(url: BackendURL, context: AdapterContext) -> LockAdapter:
    """Return locks that all Apps of this process with this URL share, in whatever loop they run."""
    return MemoryLock(hub(url, context, LockHub), context)


class _Waiter:
    """A call that waits for a name; it sleeps until `wake`, or until its `alarm`."""

    __slots__ = ("adapter", "alarm", "grant", "loop", "name", "ttl", "woken")

    def __init__(self, adapter: MemoryLock, name: str, ttl: float) -> None:
        self.adapter = adapter
        self.name = name
        self.ttl = ttl
        self.loop = asyncio.get_running_loop()
        self.woken = asyncio.Event()
        self.grant: Grant | None = None
        #: When it looks again by itself, because the holder's time is over then.
        self.alarm = 0.0

    def wake(self) -> bool:
        """Let the call look again; False if its loop was closed, so that nobody waits any more."""
        if _get_running_loop() is self.loop:
            self.woken.set()
            return True
        try:
            self.loop.call_soon_threadsafe(self.woken.set)
        except RuntimeError:
            return False
        return True


#: A set in the order of arrival, from which any element goes in constant time.
_Queue: TypeAlias = "OrderedDict[_Waiter, None]"


class _Holding:
    """One name's present owner, and those who wait for it. It is the `owner` of the grant."""

    __slots__ = ("adapter", "expires", "waiters")

    def __init__(self, adapter: MemoryLock, expires: float, waiters: _Queue | None) -> None:
        self.adapter = adapter
        self.expires = expires
        self.waiters = waiters


class LockHub:
    """The locks of one `memory://NAME`, for every loop and thread of the process.

    A name is in `_holdings` only while somebody holds it. No timer runs for a holder: whoever waits
    looks when the holder's time is over, and expired names that nobody asks for are dropped when
    the number of names has doubled.
    """

    def __init__(self) -> None:
        # Reentrant: the garbage collector may end a waiting coroutine at any allocation.
        self._mutex = threading.RLock()
        self._holdings: dict[str, _Holding] = {}
        self._token = 0
        self._sweep_at = _FEW

    def __repr__(self) -> str:
        waiting = sum(len(holding.waiters or ()) for holding in self._holdings.values())
        return f"<LockHub held={len(self._holdings)} waiting={waiting}>"

    def raise_tokens(self, least: int) -> None:
        """Let every later token be greater than *least*."""
        with self._mutex:
            self._token = max(self._token, least)

    def take(self, adapter: MemoryLock, name: str, ttl: float, now: float) -> Grant | None:
        """Own *name* if it is free, else return None."""
        with self._mutex:
            holdings = self._holdings
            holding = holdings.get(name)
            if holding is not None and (holding.expires > now or self._pass_on(name, holding, now)):
                return None
            if len(holdings) >= self._sweep_at:
                self._sweep(now)
            holdings[name] = holding = _Holding(adapter, now + ttl, None)
            self._token = token = self._token + 1
            return Grant(name, token, ttl, now, holding)

    def enqueue(self, waiter: _Waiter, now: float) -> None:
        """Own the name if it is free, else wait behind all who wait already."""
        with self._mutex:
            waiter.grant = self.take(waiter.adapter, waiter.name, waiter.ttl, now)
            if waiter.grant is None:
                holding = self._holdings[waiter.name]
                if holding.waiters is None:
                    holding.waiters = OrderedDict()
                holding.waiters[waiter] = None
                waiter.alarm = holding.expires

    def review(self, waiter: _Waiter, now: float) -> None:
        """Pass the name on if its holder's time is over, and set the alarm of *waiter* anew."""
        with self._mutex:
            if waiter.grant is None:
                holding = self._holdings[waiter.name]
                if holding.expires <= now:
                    self._pass_on(waiter.name, holding, now)
                    holding = self._holdings[waiter.name]
                waiter.alarm = holding.expires

    def withdraw(self, waiter: _Waiter) -> Grant | None:
        """Wait no longer; return the grant if it was given at the last moment."""
        with self._mutex:
            if waiter.grant is None:
                holding = self._holdings.get(waiter.name)
                if holding is not None and holding.waiters and waiter in holding.waiters:
                    del holding.waiters[waiter]
                    self._alert(holding)
            return waiter.grant

    def extend(self, grant: Grant, ttl: float, now: float) -> bool:
        """Count *ttl* from *now*; False if the grant has ended."""
        with self._mutex:
            holding = self._holdings.get(grant.name)
            if holding is None or holding is not grant.owner:
                return False
            if holding.expires <= now:
                self._pass_on(grant.name, holding, now)
                return False
            holding.expires = now + ttl
            self._alert(holding)
            return True

    def release(self, grant: Grant, now: float) -> None:
        """Pass the name on to the longest waiter, unless the grant has ended."""
        with self._mutex:
            name = grant.name
            holding = self._holdings.get(name)
            if holding is None or holding is not grant.owner:
                return
            if holding.waiters:
                self._pass_on(name, holding, now)
            else:
                del self._holdings[name]

    def release_all(self, adapter: MemoryLock, now: float) -> None:
        """Release everything that *adapter* holds."""
        with self._mutex:
            for name, holding in list(self._holdings.items()):
                if holding.adapter is adapter:
                    self._pass_on(name, holding, now)

    def _pass_on(self, name: str, holding: _Holding, now: float) -> bool:
        """Give *name* to its longest waiter; False if there is none, and then it is free."""
        waiters = holding.waiters
        while waiters:
            waiter, _ = waiters.popitem(last=False)
            self._holdings[name] = holding = _Holding(waiter.adapter, now + waiter.ttl, waiters)
            self._token += 1
            waiter.grant = Grant(name, self._token, waiter.ttl, now, holding)
            if waiter.wake():
                self._alert(holding)
                return True
        del self._holdings[name]
        return False

    def _alert(self, holding: _Holding) -> None:
        """Wake the longest waiter if it would look too late for this holder's end."""
        if holding.waiters:
            first = next(iter(holding.waiters))
            if first.alarm > holding.expires:
                first.wake()

    def _sweep(self, now: float) -> None:
        for name, holding in list(self._holdings.items()):
            if holding.expires <= now and not holding.waiters:
                del self._holdings[name]
        # Looked through again only when as many have come as stayed: constant cost per grant.
        self._sweep_at = max(_FEW, 2 * len(self._holdings))


class MemoryLock:
    """One App's way to a hub.

    Its tokens start at the Unix time in microseconds, so that a resource which outlives the
    process (a database) sees them grow after a restart too, unless the machine's clock was set
    back; that is why it does not declare FENCED.
    """

    guarantees = frozenset({Guarantee.FAIR})
    least_ttl = 0.001

    def __init__(self, hub: LockHub, context: AdapterContext) -> None:
        self._hub = hub
        self._clock = context.clock
        self._waiters: set[_Waiter] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryLock {self._hub!r}{' closed' if self._closed else ''}>"

    async def open(self) -> None:
        self._hub.raise_tokens(int(self._clock.time() * 1e6))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for waiter in self._waiters:
            waiter.wake()
        self._hub.release_all(self, self._clock.monotonic())

    async def acquire(self, name: str, ttl: float, wait: float | None) -> Grant | None:
        if self._closed:
            raise self._refusal()
        grant = self._hub.take(self, name, ttl, self._clock.monotonic())
        if grant is None and wait != 0:
            return await self._wait(name, ttl, wait)
        return grant

    async def extend(self, grant: Grant, ttl: float) -> Grant | None:
        now = self._clock.monotonic()
        if self._closed:
            raise self._refusal()
        if not self._hub.extend(grant, ttl, now):
            return None
        return Grant(grant.name, grant.token, ttl, now, grant.owner)

    async def release(self, grant: Grant) -> None:
        self._hub.release(grant, self._clock.monotonic())

    async def _wait(self, name: str, ttl: float, wait: float | None) -> Grant | None:
        waiter = _Waiter(self, name, ttl)
        now = self._clock.monotonic()
        self._waiters.add(waiter)
        try:
            self._hub.enqueue(waiter, now)
            await self._sleep(waiter, None if wait is None else now + wait)
        except BaseException:
            grant = self._hub.withdraw(waiter)
            if grant is not None:
                self._hub.release(grant, self._clock.monotonic())
            raise
        finally:
            self._waiters.discard(waiter)
        return self._hub.withdraw(waiter)

    async def _sleep(self, waiter: _Waiter, deadline: float | None) -> None:
        """Return when *waiter* was given the name, or at *deadline*."""
        while waiter.grant is None and not self._closed:
            if deadline is not None and self._clock.monotonic() >= deadline:
                break
            alarm = waiter.alarm if deadline is None else min(waiter.alarm, deadline)
            timer = waiter.loop.call_at(alarm, waiter.woken.set)
            try:
                await waiter.woken.wait()
            finally:
                timer.cancel()
            waiter.woken.clear()
            self._hub.review(waiter, self._clock.monotonic())
        if self._closed:
            raise self._refusal()

    def _refusal(self) -> NotOpenError:
        return NotOpenError("the lock adapter is closed")
