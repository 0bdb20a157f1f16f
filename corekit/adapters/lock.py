"""The contract of locks: one owner per name, for a limited time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .guarantees import Guarantee


# Not frozen, which would make it four times as expensive to build; nobody changes it all the same.
@dataclass(slots=True, eq=False)
class Grant:
    """The ownership of a name, as the backend gave it. It is never changed."""

    name: str

    token: int
    """The fencing token: greater than that of every earlier grant of the name."""

    ttl: float
    """How long it lasts, in seconds: what was asked, or the backend's least if that is more."""

    since: float
    """From when `ttl` counts, on the clock's monotonic scale: not later than the backend counts."""

    owner: object
    """The adapter's own mark of this very grant."""


class LockAdapter(Protocol):
    """Gives names to owners. A grant belongs to the call that got it, not to a task or process.

    A grant ends when it is released, when its time is over, or when the backend loses it. The
    backend never gives a name to a second owner before the first one's time, counted from `since`,
    is over or it was released. A name that nobody holds or waits for costs nothing.
    """

    guarantees: frozenset[Guarantee]

    least_ttl: float
    """The shortest ttl that the backend can grant, in seconds; shorter ones become this."""

    async def open(self) -> None:
        """Connect."""
        ...

    async def close(self) -> None:
        """Release what is held and disconnect; calls that wait raise NotOpenError."""
        ...

    async def acquire(self, name: str, ttl: float, wait: float | None) -> Grant | None:
        """Own *name* for *ttl*; wait for it at most *wait* seconds, None means without limit.

        Returns None if it was not free in that time; with `wait=0` after one try. A cancelled call
        holds nothing, even if it is cancelled in the moment in which the name was given to it.

        Raises BackendUnavailable (nothing is held, or at most until *ttl* ends).
        """
        ...

    async def extend(self, grant: Grant, ttl: float) -> Grant | None:
        """Own the name for *ttl* from now on; the token stays.

        Returns the new grant, or None if the name is no longer owned by this grant, which is then
        certain. Raises BackendUnavailable if that could not be learnt; *grant* goes on as it was.
        """
        ...

    async def release(self, grant: Grant) -> None:
        """Own the name no longer; the longest waiter gets it. A grant that ended is ignored.

        Raises BackendUnavailable; the grant then ends by its time.
        """
        ...
