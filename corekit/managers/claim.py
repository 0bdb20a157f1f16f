"""Claims: marks in the store which say that a value is being loaded.

A load claims its key before it calls the function, and stores only while the claim is still
there: a set, delete or reset in between, from any instance, has removed it, and wins. A claim is an
entry that every reader takes for missing. It ends by itself when its instance dies.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

from ..adapters import Stored
from ..errors import BackendError, CorekitError, OutcomeUnknown
from ..tasks import TaskOwner
from .cache_entry import PASSED, Entry
from .keyspace import Keyspace

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
_NUMBERS = count(1)


class Claim:
    """What allows a load to write under its key, as long as the store has it.

    It is the load's own, which renews and releases it; or another instance's that came first, and
    then only the first of both loads to end stores.
    """

    def __init__(self, keyspace: Keyspace, key: str, mark: str, *, own: bool) -> None:
        self.mark = mark
        self._keyspace = keyspace
        self._key = key
        self._own = own

    def __repr__(self) -> str:
        return f"<Claim {self._key!r} {self.mark} {'own' if self._own else 'shared'}>"

    def is_in(self, entry: Entry | None) -> bool:
        """Tell whether *entry* has this claim."""
        return entry is not None and entry.claim == self.mark

    async def replace(self, entry: Entry) -> bool:
        """Write *entry* if the claim is still there; return whether it was. Raises BackendError."""
        return await self._update(lambda _: entry)

    async def release(self) -> None:
        """Let the next caller load without waiting for this claim to end by itself."""
        if self._own:
            self._own = False
            try:
                await self._end()
            except asyncio.CancelledError:
                # Or others would wait for a load that nobody runs any more.
                await self._end()
                raise

    @contextmanager
    def renewed(self, tasks: TaskOwner) -> Iterator[None]:
        """Keep the claim alive inside of the block, if it is the load's own."""
        renewals: list[asyncio.Task[None]] = []

        def renew() -> None:
            renewals.append(tasks.spawn(self._renew(), name=f"renew {self._key!r}"))

        # Most loads end before their first renewal: they cost a timer, not a task.
        timer = asyncio.get_running_loop().call_later(CLAIM_LIFETIME / 3, renew)
        try:
            yield
        finally:
            timer.cancel()
            for renewal in renewals:
                renewal.cancel()

    async def _renew(self) -> None:
        while self._own:
            pause = CLAIM_LIFETIME / 3
            try:
                if not await self._extend(self._keyspace.now() + CLAIM_LIFETIME):
                    return
            except BackendError:
                pause = _RETRY
            await asyncio.sleep(pause)

    async def _end(self) -> None:
        with suppress(CorekitError):
            await self._extend(PASSED)

    async def _extend(self, until: float) -> bool:
        return await self._update(lambda entry: entry.claimed(entry.claim, until))

    async def _update(self, change: Callable[[Entry], Entry]) -> bool:
        return await self._keyspace.update(
            self._key,
            lambda entry: change(entry) if entry is not None and self.is_in(entry) else None,
        )


async def take(
    keyspace: Keyspace,
    key: str,
    stored: Stored | None,
    *,
    instance: str,
    alone: bool,
    monotonic: Callable[[], float],
) -> Claim | Entry:
    """Claim *key* for *instance*, where *stored* was found; or return a live entry that came there.

    Another's live claim is waited for with *alone*, and shared without.
    """
    mark = f"{instance}/{next(_NUMBERS)}"
    watch = _Watch(monotonic)
    while True:
        entry = keyspace.decode(key, stored)
        now = keyspace.now()
        if entry is not None and entry.expires > now:
            return entry
        if entry is not None and entry.is_claimed(now) and not watch.has_ended(stored):
            if not alone:
                # Both load, and the first to end stores. Overwriting the other's claim would
                # keep it from storing, and its next load keep this one, without end.
                return Claim(keyspace, key, entry.claim or "", own=False)
            await watch.pause()
        else:
            claimed = (entry or Entry(None, PASSED)).claimed(mark, now + CLAIM_LIFETIME)
            claim = Claim(keyspace, key, mark, own=True)
            try:
                if await keyspace.swap(key, claimed, stored):
                    return claim
            except (asyncio.CancelledError, OutcomeUnknown):
                # It may be there all the same.
                await claim.release()
                raise
        stored = await keyspace.space.get(key)


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
