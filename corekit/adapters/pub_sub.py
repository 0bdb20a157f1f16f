"""The contract of pub/sub: every current subscriber of a channel gets a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .guarantees import Guarantee


class MessageReceiver(Protocol):
    """Takes what arrives. Its calls return at once and never raise."""

    def messages(self, channel: str, payloads: Sequence[bytes]) -> None:
        """Take *payloads*, which arrived on *channel* in this order."""
        ...

    def gap(self, channel: str) -> None:
        """Take note that messages on *channel* may have been missed at this point of the order.

        Called for a subscribed channel when the connection was lost and what was published
        meanwhile cannot be delivered, when a buffer of the backend overflowed, and whenever
        the adapter cannot rule it out.
        """
        ...


class PubSubAdapter(Protocol):
    """Sends payloads to every subscriber of a channel, in all processes that share the backend.

    Channels are full names, matched exactly: no character is a wildcard. The publisher's own
    subscription gets its messages too. Delivery is at most once; what is lost is told as a gap.
    """

    guarantees: frozenset[Guarantee]

    async def open(self, receiver: MessageReceiver) -> None:
        """Connect; from now on *receiver* takes what arrives, in the loop of this call."""
        ...

    async def close(self) -> None:
        """Send what was published, for a bounded time, and disconnect.

        *receiver* is not called any more once this call has begun.
        """
        ...

    async def publish(self, channel: str, payload: bytes) -> None:
        """Send *payload*. Returns when it is on its way in order, maybe before it arrived.

        Waits while the connection is down or its buffer full, for a bounded time, then raises
        BackendUnavailable (it will not be sent). A cancelled call was sent or was not. Payloads
        published by overlapping calls are sent in the order of the calls.
        """
        ...

    async def subscribe(self, channel: str) -> None:
        """Receive *channel* from now on: what is published after this call returned arrives.

        Subscribing twice is subscribing once. Cancelled or failed: not subscribed.
        """
        ...

    async def unsubscribe(self, channel: str) -> None:
        """Receive *channel* no longer; unknown channels are ignored."""
        ...
