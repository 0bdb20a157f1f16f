"""Locks inside one process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator
from operator import attrgetter

from ..adapters import AdapterContext, Grant, Guarantee, LockAdapter, Member
from ..clock import Clock
from ..config import BackendURL
from ..errors import NotOpenError
from .hub import OPTIONS, hub
from .membership import Announcements
from .signal import Signal

#: The number of held names from which on those whose time is over are looked for.
_FEW = 64


class _Waiter:
    """A call that waits for a name."""

    __slots__ = ("adapter", "alarm", "grant", "name", "signal", "ttl")

    def __init__(self, adapter: MemoryLock, name: str, ttl: float) -> None:
        self.adapter = adapter
        self.name = name
        self.ttl = ttl
        self.signal = Signal()
        self.grant: Grant | None = None
        #: When it looks again by itself, because the holder's time is over then.
        self.alarm = 0.0

    def __repr__(self) -> str:
        return f"<_Waiter {self.name!r} grant={self.grant!r} alarm={self.alarm}>"


class LockHub:
    """The locks of one `memory://NAME`, for every loop and thread of the process.

    A name is here only while somebody holds it. No timer runs for a holder: whoever waits looks
    when the holder's time is over, and names whose time is over without anybody asking for them
    are dropped when the number of names has doubled.
    """

    def __init__(self) -> None:
        # Reentrant: the garbage collector may end a waiting coroutine at any allocation.
        self._mutex = threading.RLock()
        #: The present grant of each name; its `owner` is the adapter, its token marks it.
        self._grants: dict[str, Grant] = {}
        #: Who waits for a name, in the order of arrival: a set from which any goes at once.
        self._queues: dict[str, OrderedDict[_Waiter, None]] = {}
        self._announcements = Announcements()
        self._token = 0
        self._sweep_at = _FEW

    def __repr__(self) -> str:
        waiting = sum(map(len, self._queues.values()))
        return f"<LockHub held={len(self._grants)} waiting={waiting}>"

    def raise_tokens(self, least: int) -> None:
        """Let every later token be greater than *least*."""
        with self._mutex:
            self._token = max(self._token, least)

    def take(self, adapter: MemoryLock, name: str, ttl: float, now: float) -> Grant | None:
        """Own *name* if it is free, else return None."""
        with self._mutex:
            grants = self._grants
            held = grants.get(name)
            if held is not None and (held.since + held.ttl > now or self._pass_on(name, now)):
                return None
            if len(grants) >= self._sweep_at:
                self._sweep(now)
            self._token = token = self._token + 1
            grants[name] = grant = Grant(name, token, ttl, now, adapter)
            return grant

    def enqueue(self, waiter: _Waiter, now: float) -> None:
        """Own the name if it is free, else wait behind all who wait already."""
        with self._mutex:
            waiter.grant = self.take(waiter.adapter, waiter.name, waiter.ttl, now)
            if waiter.grant is None:
                self._queues.setdefault(waiter.name, OrderedDict())[waiter] = None
                waiter.alarm = self._end(waiter.name)

    def review(self, waiter: _Waiter, now: float) -> None:
        """Pass the name on if its holder's time is over, and set the alarm of *waiter* anew."""
        with self._mutex:
            if waiter.grant is None:
                if self._end(waiter.name) <= now:
                    self._pass_on(waiter.name, now)
                waiter.alarm = self._end(waiter.name)

    def withdraw(self, waiter: _Waiter) -> Grant | None:
        """Wait no longer; return the grant if it was given at the last moment."""
        with self._mutex:
            queue = self._queues.get(waiter.name)
            if queue is not None and waiter in queue:
                del queue[waiter]
                self._alert(waiter.name)
            return waiter.grant

    def extend(self, grant: Grant, ttl: float, now: float) -> Grant | None:
        """Count *ttl* from *now*; None if the grant has ended."""
        with self._mutex:
            held = self._grants.get(grant.name)
            if held is None or held.token != grant.token:
                return None
            if held.since + held.ttl <= now:
                self._pass_on(grant.name, now)
                return None
            extended = Grant(grant.name, grant.token, ttl, now, grant.owner)
            self._grants[grant.name] = extended
            self._alert(grant.name)
            if grant.name in self._announcements.values:
                self._announcements.touch(grant.name)
            return extended

    def release(self, grant: Grant, clock: Clock) -> None:
        """Pass the name on to the longest waiter, unless the grant has ended.

        Mostly nobody waits; then *clock* is not asked, which would cost a tenth of the release.
        """
        with self._mutex:
            name = grant.name
            held = self._grants.get(name)
            if held is None or held.token != grant.token:
                return
            if name in self._queues or name in self._announcements.values:
                self._pass_on(name, clock.monotonic())
            else:
                del self._grants[name]

    def release_all(self, adapter: MemoryLock, now: float) -> None:
        """Release everything that *adapter* holds."""
        with self._mutex:
            for name, held in list(self._grants.items()):
                if held.owner is adapter:
                    self._pass_on(name, now)

    def announce(self, grant: Grant, value: bytes, now: float) -> bool:
        """Show *value* while the grant lasts; False if it has ended."""
        with self._mutex:
            held = self._grants.get(grant.name)
            if held is None or held.token != grant.token or held.since + held.ttl <= now:
                return False
            self._announcements.add(grant.name, value)
            return True

    def members(self, prefix: str, now: float) -> tuple[list[Member], float | None]:
        """Return what is shown under *prefix*, and when the first of it will end."""
        with self._mutex:
            shown = [
                (self._grants[name], value)
                for name, value in self._announcements.under(prefix).items()
            ]
        live = [(grant, value) for grant, value in shown if grant.since + grant.ttl > now]
        members = [Member(grant.name, grant.token, value) for grant, value in live]
        members.sort(key=attrgetter("token"))
        return members, min((grant.since + grant.ttl for grant, _ in live), default=None)

    def watch(self, prefix: str) -> Signal:
        """Return a signal that is woken by each change under *prefix*, until `unwatch`."""
        with self._mutex:
            return self._announcements.watch(prefix)

    def unwatch(self, watcher: Signal) -> None:
        """Wake *watcher* no more."""
        with self._mutex:
            self._announcements.unwatch(watcher)

    def _end(self, name: str) -> float:
        held = self._grants[name]
        return held.since + held.ttl

    def _pass_on(self, name: str, now: float) -> bool:
        """Give *name* to its longest waiter; False if there is none, and then it is free."""
        if name in self._announcements.values:
            self._announcements.remove(name)
        queue = self._queues.get(name)
        while queue:
            waiter, _ = queue.popitem(last=False)
            self._token += 1
            waiter.grant = Grant(name, self._token, waiter.ttl, now, waiter.adapter)
            if waiter.signal.wake():
                self._grants[name] = waiter.grant
                self._alert(name)
                return True
        if queue is not None:
            del self._queues[name]
        del self._grants[name]
        return False

    def _alert(self, name: str) -> None:
        """Wake the longest waiter if it would look too late for the present holder's end."""
        queue = self._queues.get(name)
        if queue:
            first = next(iter(queue))
            if first.alarm > self._end(name):
                first.signal.wake()

    def _sweep(self, now: float) -> None:
        for name, held in list(self._grants.items()):
            if held.since + held.ttl <= now and not self._queues.get(name):
                self._pass_on(name, now)
        # Looked through again only when as many have come as stayed: constant cost per grant.
        self._sweep_at = max(_FEW, 2 * len(self._grants))


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
        self._watchers: set[Signal] = set()
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
            waiter.signal.wake()
        for watcher in self._watchers:
            watcher.wake()
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
        return self._hub.extend(grant, ttl, now)

    async def release(self, grant: Grant) -> None:
        self._hub.release(grant, self._clock)

    async def announce(self, grant: Grant, value: bytes) -> bool:
        if self._closed:
            raise self._refusal()
        return self._hub.announce(grant, value, self._clock.monotonic())

    async def members(self, prefix: str) -> list[Member]:
        if self._closed:
            raise self._refusal()
        return self._hub.members(prefix, self._clock.monotonic())[0]

    async def watch(self, prefix: str) -> AsyncGenerator[list[Member], None]:
        watcher = self._hub.watch(prefix)
        self._watchers.add(watcher)
        last = None
        try:
            while not self._closed:
                members, end = self._hub.members(prefix, self._clock.monotonic())
                if members != last:
                    last = members
                    yield members
                else:
                    await watcher.sleep(end)
            raise self._refusal()
        finally:
            self._watchers.discard(watcher)
            self._hub.unwatch(watcher)

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
                self._hub.release(grant, self._clock)
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
            await waiter.signal.sleep(alarm)
            self._hub.review(waiter, self._clock.monotonic())
        if self._closed:
            raise self._refusal()

    def _refusal(self) -> NotOpenError:
        return NotOpenError("the lock adapter is closed")


def memory_lock(url: BackendURL, context: AdapterContext) -> LockAdapter:
    """Build the locks of `memory://NAME`, which Apps share in whatever loop they run."""
    url.refuse_other_options(*OPTIONS)
    return MemoryLock(hub(url, context, LockHub), context)
