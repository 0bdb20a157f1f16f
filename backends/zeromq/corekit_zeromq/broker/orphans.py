"""Sessions whose process has died: what it said still counts, then they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sessions import Session

#: How long the end of a dead process's connection is waited for in silence, in seconds: what it
#: said before comes first. Another process, or a proxy, may hold the connection open.
_LAST_WORDS = 0.25


class _Orphan:
    __slots__ = ("received", "until")

    def __init__(self, received: int, until: float) -> None:
        self.received = received
        self.until = until


class Orphans:
    """The sessions that are to end, each at the latest a moment after it said something."""

    def __init__(self) -> None:
        self._orphans: dict[Session, _Orphan] = {}

    def __repr__(self) -> str:
        return f"<Orphans {len(self)}>"

    def __len__(self) -> int:
        return len(self._orphans)

    def __contains__(self, session: Session) -> bool:
        return session in self._orphans

    def add(self, now: float, session: Session) -> None:
        """Take note that the process of *session* has died."""
        self._orphans[session] = _Orphan(session.received, now + _LAST_WORDS)

    def discard(self, session: Session) -> None:
        """Forget *session*: it has ended, or goes on in another process."""
        self._orphans.pop(session, None)

    def over(self, now: float, *, drained: bool) -> list[Session]:
        """Return the sessions of which nothing will be heard again.

        *drained*: everything that came in was read, after the connections which have gone had.
        """
        over = []
        for session, orphan in self._orphans.items():
            if session.received != orphan.received:
                orphan.received = session.received
                orphan.until = now + _LAST_WORDS
            elif (drained and session.route is None) or orphan.until <= now:
                over.append(session)
        return over
