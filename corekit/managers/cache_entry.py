"""What a cache keeps under a key: the value, its deadlines, and who is loading a new one."""

from __future__ import annotations

import math
from typing import Any, Protocol

from ..clock import Clock
from ..errors import SerializationError
from ..serialization import Serializer

#: A deadline that has always passed.
PASSED = -math.inf

#: How many fields stand before the body of an envelope.
_HEAD_FIELDS = 4


class Entry:
    """An entry; never changed once made, since a store by reference hands it to everyone.

    All deadlines are exact and count on the codec's clock. A claim without a value is an entry
    that has always been expired, so readers need no case for it.
    """

    __slots__ = ("claim", "claimed_until", "expires", "stale_until", "value")

    def __init__(
        self,
        value: Any,
        expires: float,
        stale_until: float = PASSED,
        claim: str | None = None,
        claimed_until: float = PASSED,
    ) -> None:
        self.value = value
        #: Until when the value is served; `math.inf` for ever.
        self.expires = expires
        #: Until when `wrap` serves it while one refresh runs.
        self.stale_until = stale_until
        #: The load that may replace this entry: whoever writes anything else ends the claim.
        self.claim = claim
        #: Until when that load is believed to be alive.
        self.claimed_until = claimed_until

    def __repr__(self) -> str:
        claim = "" if self.claim is None else f" claim={self.claim!r} until={self.claimed_until}"
        return f"<Entry expires={self.expires} stale_until={self.stale_until}{claim}>"

    def is_claimed(self, now: float) -> bool:
        """Tell whether a load that may replace this entry is believed to be alive."""
        return self.claim is not None and self.claimed_until > now

    def claimed(self, claim: str | None, until: float) -> Entry:
        """Return this entry with *claim*, which counts as alive until *until*."""
        return Entry(self.value, self.expires, self.stale_until, claim, until)

    def kept_until(self) -> float:
        """Return the moment from which on nobody needs this entry."""
        return max(self.expires, self.stale_until, self.claimed_until)


class EntryCodec(Protocol):
    """How entries are handed to a store."""

    def now(self) -> float:
        """Return the time on the clock that the deadlines count on."""
        ...

    def encode(self, entry: Entry) -> Any:
        """Return what the store is given. Raises SerializationError."""
        ...

    def decode(self, stored: Any) -> Entry:
        """Return what `encode` was given; raises SerializationError for anything else."""
        ...


class BytesCodec:
    """For stores that several machines share: bytes, and deadlines in Unix time.

    A wall clock that is set changes when entries expire, but none lives longer than the store's own
    lifetime for it.
    """

    def __init__(self, serializer: Serializer, clock: Clock) -> None:
        self._serializer = serializer
        self.now = clock.time

    def __repr__(self) -> str:
        return f"<BytesCodec {self._serializer!r}>"

    def encode(self, entry: Entry) -> bytes:
        head = (entry.expires, entry.stale_until, entry.claim, entry.claimed_until)
        return self._serializer.seal(head, entry.value, what="value")

    def decode(self, stored: Any) -> Entry:
        if type(stored) is not bytes:
            raise SerializationError(f"not bytes but {type(stored).__name__}")
        expires, stale_until, claim, claimed_until, value = self._serializer.unseal(
            stored, _HEAD_FIELDS
        )
        if not (
            type(expires) is type(stale_until) is type(claimed_until) is float
            # NaN is never reached: what expires then would be served for ever.
            and (expires == expires and stale_until == stale_until)
            and claimed_until == claimed_until
            and (claim is None or type(claim) is str)
        ):
            raise SerializationError("not a cache entry")
        return Entry(value, expires, stale_until, claim, claimed_until)


class ReferenceCodec:
    """For stores inside this process: the entry itself, and deadlines on the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self.now = clock.monotonic

    def __repr__(self) -> str:
        return "<ReferenceCodec>"

    def encode(self, entry: Entry) -> Entry:
        return entry

    def decode(self, stored: Any) -> Entry:
        if type(stored) is not Entry:
            raise SerializationError(f"not an entry but {type(stored).__name__}")
        return stored
