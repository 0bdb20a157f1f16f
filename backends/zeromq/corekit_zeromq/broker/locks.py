"""Locks: one owner per name, waiters in order, grants that outlive the broker."""

from __future__ import annotations

import hmac
import logging
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from corekit.errors import BackendRefused

from .journal import Journal
from .limits import Limits

if TYPE_CHECKING:
    from .sessions import Session

logger = logging.getLogger("corekit.broker.lock")


class Lease:
    """A name in the hands of an owner, until a time."""

    __slots__ = ("name", "owner", "rid", "session", "token", "until")

    def __init__(self, name: str, token: int, owner: bytes, until: float) -> None:
        self.name = name
        self.token = token
        self.owner = owner
        self.until = until
        """On the monotonic scale."""
        self.session: Session | None = None
        """Frees it by ending. None after a restart, until the owner extends it."""
        self.rid = 0

    def __repr__(self) -> str:
        return f"<Lease {self.name!r} token={self.token} until={self.until:.3f}>"


class Waiter:
    """An acquisition that waits."""

    __slots__ = ("name", "rid", "session", "ttl", "until")

    def __init__(self, session: Session, rid: int, name: str, ttl: float, until: float) -> None:
        self.session = session
        self.rid = rid
        self.name = name
        self.ttl = ttl
        self.until = until

    def __repr__(self) -> str:
        return f"<Waiter for {self.name!r} rid={self.rid}>"


class Locks:
    """All names that somebody owns or waits for.

    A grant is in the journal before it is answered. After a restart exactly the leases whose time
    is not over are held; what is left of it is known from the wall clock, at most the whole ttl.
    """

    def __init__(
        self,
        journal: Journal,
        limits: Limits,
        random: Callable[[int], bytes],
        *,
        now: float,
        wall: float,
    ) -> None:
        self._journal = journal
        self._limits = limits
        self._random = random
        self._offset = wall - now
        self._leases: dict[str, Lease] = {}
        self._waiters: dict[str, deque[Waiter]] = {}
        # (time, number, lease or waiter): whose time ends when; may hold what ended before.
        self._alarms: list[tuple[float, int, Lease | Waiter]] = []
        self._alarm_number = 0
        self._sweep_at = 1024
        self._token = journal.meta("token")
        for name, token, owner, ttl, until in journal.peek(
            "SELECT name, token, owner, ttl, until FROM lease"
        ).fetchall():
            left = min(until - wall, ttl)
            lease = Lease(name, token, owner, now + left)
            self._leases[name] = lease
            self._watch(lease.until, lease)
            # A counter that was restored from a copy must not fall behind what is held.
            self._token = max(self._token, token)

    def __repr__(self) -> str:
        return f"<Locks held={len(self._leases)} waiting={sum(map(len, self._waiters.values()))}>"

    def __len__(self) -> int:
        return len(self._leases)

    # -- what clients ask

    def acquire(
        self, now: float, session: Session, rid: int, name: str, ttl: float, wait: float | None
    ) -> None:
        """Give *name* to *session*, at once or when its turn comes; the answer says which.

        Raises BackendRefused beyond the limits.
        """
        self.wake(now)
        if name not in self._leases:
            if len(self._leases) >= self._limits.locks:
                raise BackendRefused(f"{self._limits.locks} locks are held, the broker's limit")
            self._grant(now, session, rid, name, ttl)
        elif wait is not None and wait <= 0:
            session.answer(rid, None)
        else:
            if rid in session.waiting:
                raise BackendRefused(f"request {rid} waits already")
            if len(session.waiting) >= self._limits.waiters:
                raise BackendRefused(f"a session waits for {self._limits.waiters} locks at most")
            until = float("inf") if wait is None else now + wait
            waiter = Waiter(session, rid, name, ttl, until)
            self._waiters.setdefault(name, deque()).append(waiter)
            session.waiting[rid] = waiter
            if wait is not None:
                self._watch(until, waiter)

    def abandon(self, now: float, session: Session, rid: int) -> None:
        """End the acquisition *rid*: it waits no longer, and what it got is released."""
        waiter = session.waiting.get(rid)
        if waiter is not None:
            self._drop(waiter)
        lease = session.acquired.get(rid)
        if lease is not None:
            self._free(now, lease)

    def extend(
        self, now: float, session: Session, name: str, owner: bytes, ttl: float
    ) -> float | None:
        """Let the lease last *ttl* from *now* on, and as long as *session*; None if it is lost."""
        self.wake(now)
        lease = self._owned(name, owner)
        if lease is None:
            return None
        if lease.session is not session:
            self._unbind(lease)
            lease.session = session
            # Its rid belongs to another session: from here it cannot be abandoned, only released.
            lease.rid = -lease.token
            session.acquired[lease.rid] = lease
        lease.until = now + ttl
        self._keep(lease, ttl)
        self._watch(lease.until, lease)
        return ttl

    def release(self, now: float, name: str, owner: bytes) -> None:
        """Free *name* if this is its owner."""
        lease = self._owned(name, owner)
        if lease is not None:
            self._free(now, lease)

    def end_session(self, now: float, session: Session) -> None:
        """Free what *session* holds, and let it wait for nothing."""
        for waiter in list(session.waiting.values()):
            self._drop(waiter)
        for lease in list(session.acquired.values()):
            self._free(now, lease)

    # -- time

    def next_alarm(self) -> float | None:
        """Return when `wake` has something to do; None for never."""
        return self._alarms[0][0] if self._alarms else None

    def wake(self, now: float) -> None:
        """End what is over at *now*."""
        while self._alarms and self._alarms[0][0] <= now:
            _, _, ended = heappop(self._alarms)
            if isinstance(ended, Lease):
                if ended.until <= now and self._leases.get(ended.name) is ended:
                    logger.info("the lease of %r (token %d) is over", ended.name, ended.token)
                    self._free(now, ended)
            elif ended.session.waiting.get(ended.rid) is ended:
                self._drop(ended)
                ended.session.answer(ended.rid, None)

    def _watch(self, at: float, what: Lease | Waiter) -> None:
        self._alarm_number += 1
        heappush(self._alarms, (at, self._alarm_number, what))
        if self._alarm_number >= self._sweep_at:
            self._alarms = [alarm for alarm in self._alarms if self._is_alive(*alarm)]
            heapify(self._alarms)
            # The next sweep is paid by as many new alarms as there are old ones.
            self._sweep_at = self._alarm_number + len(self._alarms) + 1024

    def _is_alive(self, at: float, _number: int, what: Lease | Waiter) -> bool:
        if isinstance(what, Lease):
            return self._leases.get(what.name) is what and what.until == at
        return what.session.waiting.get(what.rid) is what

    # -- owning

    def _grant(self, now: float, session: Session, rid: int, name: str, ttl: float) -> None:
        self._token += 1
        lease = Lease(name, self._token, self._random(16), now + ttl)
        lease.session = session
        lease.rid = rid
        self._leases[name] = lease
        session.acquired[rid] = lease
        self._keep(lease, ttl)
        self._watch(lease.until, lease)
        session.answer(rid, (lease.token, ttl, lease.owner))

    def _keep(self, lease: Lease, ttl: float) -> None:
        until = lease.until + self._offset
        self._journal.keep_lease((lease.name, lease.token, lease.owner, ttl, until))

    def _owned(self, name: str, owner: bytes) -> Lease | None:
        lease = self._leases.get(name)
        return lease if lease and hmac.compare_digest(lease.owner, owner) else None

    def _unbind(self, lease: Lease) -> None:
        if lease.session is not None:
            if lease.session.acquired.get(lease.rid) is lease:
                del lease.session.acquired[lease.rid]
            lease.session = None

    def _free(self, now: float, lease: Lease) -> None:
        """End *lease*; the longest waiter gets the name."""
        self._unbind(lease)
        del self._leases[lease.name]
        self._journal.drop_lease(lease.name)
        waiters = self._waiters.get(lease.name)
        while waiters:
            waiter = waiters[0]
            self._drop(waiter)
            if waiter.until <= now:
                waiter.session.answer(waiter.rid, None)
                continue
            self._grant(now, waiter.session, waiter.rid, waiter.name, waiter.ttl)
            return

    def _drop(self, waiter: Waiter) -> None:
        del waiter.session.waiting[waiter.rid]
        waiters = self._waiters[waiter.name]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[waiter.name]
