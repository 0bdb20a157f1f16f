"""Locks: one at a time, in the whole cluster."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from types import FunctionType
from typing import Any, NoReturn, TypeVar, overload

from .. import arguments, names
from ..adapters import LockAdapter, MembershipAdapter
from ..errors import ConfigurationError, InvalidType, LockError, LockNotAcquired, LockTimeout
from ..lifecycle import Gate
from .context import ManagerContext
from .critical_section import CriticalSection
from .leader import Election
from .lease import Lease
from .lock_session import LockSession
from .membership import PresenceFormat
from .renewal import Renewal

logger = logging.getLogger("corekit.lock")

T = TypeVar("T")

_DAY = 86400.0

#: How long work under a lock may go on when the App stops, before others get the lock, in seconds.
_CLEAN_UP = 1.0


def _timeout(key: str, wait: float | None) -> LockError:
    return LockTimeout(f"lock {key!r} was not free within {wait:g} s")


def _held(key: str, _wait: float | None) -> LockError:
    return LockNotAcquired(f"lock {key!r} is held by another")


class LockManager:
    """Locks by key: one holder per key among all instances of the application.

    A lock is a lease: it ends after its ttl whatever becomes of the holder. A paused process may
    still believe for a moment that it holds it; where that does harm, let the resource refuse
    every `Lease.token` that is smaller than the greatest it has seen.

    Keys are per application. A task that holds a key and takes it again gets LockNotAcquired at
    once instead of waiting for itself; its child tasks (`asyncio.wait_for` makes one, before
    Python 3.12) and other instances wait.
    """

    def __init__(self, context: ManagerContext) -> None:
        self._clock = context.clock
        self._prefix = names.full(context.app, names.LOCK) + "/"
        self._leaders = names.full(context.app, names.LEADER) + "/"
        self._presence = PresenceFormat(context)
        self._gate = Gate("the lock manager")
        self._session: LockSession | None = None
        self._warned = False

    def __repr__(self) -> str:
        state = "closed" if self._session is None else f"open, holds {len(self._session)}"
        return f"<LockManager {self._prefix} {state}>"

    async def open(self, adapter: LockAdapter) -> None:
        """Open *adapter*, new and not opened yet, and work with it until `close`.

        Raises what the adapter raises; *adapter* is then closed, as after a cancelled call.
        """
        try:
            await adapter.open()
        except BaseException:
            await adapter.close()
            raise
        self._gate.open()
        self._session = LockSession(adapter, self._clock, self._gate)

    async def close(self) -> None:
        """Release all leases and close the adapter; on a closed manager it does nothing.

        Every lease is lost. Work under a lock is cancelled with LockLost and may unwind for a
        moment before its key is free; the calling task is not cancelled. Calls that wait raise
        NotOpenError.
        """
        session, self._session = self._session, None
        if session is not None:
            self._gate.close()
            await session.close("the App was stopped", _CLEAN_UP)

    async def acquire(
        self, key: str, ttl: float | timedelta = 10, *, wait: float | timedelta | None = None
    ) -> Lease:
        """Own *key* for *ttl* seconds and no longer, unless the lease is extended.

        Waits for it in the order of arrival, at most *wait* seconds; None: without limit. A
        backend's least ttl may be longer (`Lease.expires_at` tells). Nothing is cancelled when the
        lease ends: see `Lease.lost`, and `lock` for work that must not outlive it.

        A cancelled call holds nothing. Raises LockTimeout if the key was not free in time,
        LockNotAcquired if this task holds it, BackendUnavailable (then the key may stay taken for
        *ttl*), InvalidArgument, InvalidType, InvalidName, NotOpenError.
        """
        seconds = self._ttl(ttl)
        limit = None if wait is None else arguments.seconds("wait", wait, zero=True)
        name = self._prefix + names.escaped(names.checked("key", key))
        return await self._acquire(name, key, seconds, limit)

    async def try_acquire(
        self, key: str, timeout: float | timedelta = 0, *, ttl: float | timedelta = 10
    ) -> Lease:
        """Own *key* for *ttl* seconds if it is free now, or within *timeout* seconds.

        Raises LockNotAcquired if it was not; for all else see `acquire`.
        """
        seconds = self._ttl(ttl)
        limit = arguments.seconds("timeout", timeout, zero=True)
        name = self._prefix + names.escaped(names.checked("key", key))
        return await self._acquire(name, key, seconds, limit, _held)

    def lock(
        self,
        key: str,
        ttl: float | timedelta = 10,
        *,
        wait: float | timedelta | None = None,
        renew: bool = True,
    ) -> CriticalSection:
        """Return an async context manager: `async with manager.lock("key") as lease: ...`.

        The block runs while *key* is held. The *ttl* is the crash lease: a dead process frees the
        key after at most *ttl* seconds (or the backend's least), while a living one renews it for
        as long as the block runs. With `renew=False` the block has *ttl* seconds.

        If the lease is lost all the same (the process was paused, the loop was blocked, the
        backend was unreachable, the App stops), or not renewed and over, the block is cancelled
        and LockLost raised at its end: also in place of its result, of another error (which is
        then the cause), and of a swallowed cancellation. A cancellation from outside stays one.

        Arguments are checked at once; entering waits and raises like `acquire`.
        """
        seconds = self._ttl(ttl)
        limit = None if wait is None else arguments.seconds("wait", wait, zero=True)
        name = self._prefix + names.escaped(names.checked("key", key))
        acquire = partial(self._acquire, name, key, seconds, limit)
        return CriticalSection(acquire, renewed=arguments.flag("renew", renew))

    @overload
    async def run_exclusive(
        self,
        key: str,
        fn: Callable[..., Awaitable[T]],
        ttl: float | timedelta = 10,
        *,
        wait: float | timedelta | None = None,
        renew: bool = True,
    ) -> T: ...
    @overload
    async def run_exclusive(
        self,
        key: str,
        fn: Callable[..., T],
        ttl: float | timedelta = 10,
        *,
        wait: float | timedelta | None = None,
        renew: bool = True,
    ) -> T: ...
    async def run_exclusive(
        self,
        key: str,
        fn: Callable[..., Any],
        ttl: float | timedelta = 10,
        *,
        wait: float | timedelta | None = None,
        renew: bool = True,
    ) -> Any:
        """Run *fn* while *key* is held, and return what it returns; see `lock` for the promises.

        *fn* is plain or async. It is given the lease if it has a positional parameter without a
        default, or a parameter named `lease`.

        Raises what *fn* raises, LockLost, and what `acquire` raises.
        """
        call = _taking_lease(fn)
        async with self.lock(key, ttl, wait=wait, renew=renew) as lease:
            result = call(lease)
            return await result if inspect.isawaitable(result) else result

    def leader(self, key: str, ttl: float | timedelta = 10) -> Election:
        """Return the election of the leader for *key*, among all instances of the application.

        A leader that dies is followed after at most *ttl* seconds (or the backend's least). Keys of
        leaders and of locks are apart. Raises InvalidArgument, InvalidType, InvalidName.
        """
        name = self._leaders + names.escaped(names.checked("key", key))
        return Election(self, self._presence, self._clock, name, self._ttl(ttl))

    # What follows is for the managers of leaders and instances, with full names and checked values.

    @property
    def keeps_members(self) -> bool:
        """Whether the manager is open on a backend that is a `MembershipAdapter`."""
        return self._session is not None and self._session.membership is not None

    def membership(self) -> MembershipAdapter:
        """Return the open adapter; raises ConfigurationError if it cannot keep members."""
        session = self._session
        if session is None:
            raise self._gate.refusal()
        self._gate.check()
        if session.membership is None:
            raise ConfigurationError(
                f"the lock backend ({session.adapter!r}) cannot tell who holds what: leaders and "
                "instances need another one, such as lock='memory://' or lock='etcd://...'"
            )
        return session.membership

    async def hold(
        self, name: str, ttl: float, wait: float | None, value: Callable[[], bytes]
    ) -> Lease | None:
        """Own *name* like `acquire`, and show there what *value* returns then.

        Returns None if it was not free in time.
        """
        membership = self.membership()
        try:
            lease = await self._acquire(name, name, ttl, wait)
        except LockTimeout:
            return None
        try:
            shown = await membership.announce(lease.grant, value())
        except BaseException:
            await lease.release()
            raise
        if not shown:
            lease.expire()
            lease.lose("the backend ended it at once")
            raise lease.loss()
        return lease

    async def keep(self, lease: Lease) -> NoReturn:
        """Renew *lease* until it is lost, then raise LockLost; release it if cancelled."""
        renewal = Renewal(lease, lease.session.renewals)
        try:
            await lease.lost.wait()
        finally:
            renewal.stop()
            await lease.release()
        raise lease.loss()

    def _ttl(self, ttl: float | timedelta) -> float:
        seconds = arguments.seconds("ttl", ttl)
        if seconds > _DAY and not self._warned:
            self._warned = True
            logger.warning(
                "a lock is taken for %g s, more than a day: a ttl is in seconds, and a dead holder "
                "blocks the key that long",
                seconds,
            )
        return seconds

    async def _acquire(
        self,
        name: str,
        key: str,
        ttl: float,
        wait: float | None,
        late: Callable[[str, float | None], LockError] = _timeout,
    ) -> Lease:
        self._gate.check()
        session = self._session
        if session is None:
            raise self._gate.refusal()
        held = session.leases.get(name)
        if held is not None and held.is_mine:
            raise LockNotAcquired(f"lock {key!r} is held by this very task, as {held!r}")
        adapter = session.adapter
        if ttl < adapter.least_ttl:
            ttl = adapter.least_ttl
        grant = await adapter.acquire(name, ttl, wait)
        if grant is None:
            raise late(key, wait)
        return session.lease(key, grant)


def _taking_lease(fn: Callable[..., Any]) -> Callable[[Lease], Any]:
    """Return *fn* as a function of the lease, which passes it on if *fn* has a parameter for it."""
    if not callable(fn):
        hint = ": hand over the function, not its call" if inspect.isawaitable(fn) else ""
        raise InvalidType(f"fn must be a function, not {arguments.shown(fn)}{hint}")
    if isinstance(fn, FunctionType) and not fn.__dict__:
        # Without decorators, the code tells at once; a signature takes longer than the lock.
        code = fn.__code__
        if not code.co_argcount and not code.co_kwonlyargcount:
            return lambda _: fn()
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        # Functions written in C need not tell what they take.
        return lambda _: fn()
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    taking = required or [parameter for parameter in parameters if parameter.name == "lease"]
    if not taking:
        return lambda _: fn()
    if len(taking) > 1:
        raise InvalidType(f"fn must take no parameter, or the lease, not {arguments.shown(fn)}")
    if taking[0].kind is inspect.Parameter.POSITIONAL_ONLY:
        return fn
    name = taking[0].name
    return lambda lease: fn(**{name: lease})
