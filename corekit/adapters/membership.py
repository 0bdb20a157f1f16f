"""The contract of membership: holders of names that show something of themselves to everybody."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .lock import Grant


@dataclass(frozen=True, slots=True)
class Member:
    """A name that is held, and what its holder shows."""

    name: str
    token: int
    value: bytes


@runtime_checkable
class MembershipAdapter(Protocol):
    """An ability that a `LockAdapter` may have: a grant can carry a value that everybody sees.

    Managers look for these methods once, when the adapter is opened. The general rules of
    `corekit.adapters` hold; an adapter that has the ability has it for every grant.

    *prefix* means the name itself and the names below it: `a/b` covers `a/b` and `a/b/c`, not
    `a/bc`.
    """

    async def announce(self, grant: Grant, value: bytes) -> bool:
        """Show *value* under the grant's name for as long as the grant lasts.

        It survives extensions and goes with the grant: with its release, with the end of its time
        (then at most as late as another could get the name), with the close of the adapter. A
        second call replaces the value. Returns False, and shows nothing, if the grant has ended.
        """
        ...

    async def members(self, prefix: str) -> list[Member]:
        """Return what is shown under *prefix* at the moment, the smallest token first."""
        ...

    def watch(self, prefix: str) -> AsyncGenerator[list[Member], None]:
        """Yield what `members` would return, now and whenever it has changed.

        Changes in quick succession may come as one, but the latest state always comes. An outage
        of the backend is waited out; what was missed meanwhile is seen in the next state. Ends
        with NotOpenError when the adapter is closed; closing the iterator ends it earlier.
        """
        ...
