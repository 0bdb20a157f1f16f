"""The sessions of the broker's former lives: whose clients may claim what they hold."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .journal import Journal


class FormerSessions:
    """Knows, and for a moment waits for, the sessions that the broker had when it died.

    A session stays in the journal until the first frame of its client, which claims, is here, or
    is awaited no longer. So it does not matter how often the broker dies before that.
    """

    def __init__(self, journal: Journal, until: float) -> None:
        self._journal = journal
        rows = journal.peek("SELECT id, secret FROM session").fetchall()
        self._digests: dict[bytes, bytes] = dict(rows)
        self._awaited = set(self._digests)
        self._until = until

    def __repr__(self) -> str:
        return f"<FormerSessions {len(self._digests)} awaited={len(self._awaited)}>"

    def knows(self, id: bytes, secret: bytes) -> bool:  # noqa: A002 - the session's id
        """Whether there was a session *id*, and this is its secret."""
        digest = self._digests.get(id)
        return digest is not None and hmac.compare_digest(digest, digest_of(secret))

    def returned(self, id: bytes) -> None:  # noqa: A002
        """Take note that the client of *id* has claimed, in another session, what it holds."""
        # Twice, if its first welcome was lost.
        if self._digests.pop(id, None) is not None:
            self._awaited.discard(id)
            self._forget(id)

    def awaiting(self, now: float) -> bool:
        """Whether deliveries must wait for those that may claim them."""
        if self._awaited and now >= self._until:
            for id_ in self._awaited:
                self._forget(id_)
            self._awaited.clear()
        return bool(self._awaited)

    def _forget(self, id: bytes) -> None:  # noqa: A002
        self._journal.execute("DELETE FROM session WHERE id=?", (id,))

    @property
    def awaited_until(self) -> float | None:
        """When the waiting ends; None if it has."""
        return self._until if self._awaited else None

    def extend(self, seconds: float) -> None:
        """Wait *seconds* longer: the broker itself was not there to hear them."""
        self._until += seconds


def digest_of(secret: bytes) -> bytes:
    """Return what is kept of a secret: who reads the journal cannot take a session over."""
    return hashlib.sha256(secret).digest()
