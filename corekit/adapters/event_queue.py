"""The contract of an event queue: each message goes to one consumer until it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .guarantees import Guarantee


# Not frozen, which would make it four times as expensive to build; nobody changes it all the same.
@dataclass(slots=True, eq=False)
class Delivery:
    """A message in the hands of one consumer, until the consumer settles it or dies.

    It is never changed.
    """

    id: str
    """The message's id, the same in every delivery of it."""

    payload: bytes

    attempt: int
    """1 for the first delivery; one more after each `retry`. Deaths do not count."""

    deaths: int
    """How many deliveries in a row, since the last `retry`, ended in `release(started=True)` or in
    the death of their consumer."""

    published_at: float
    """Unix seconds."""

    token: object
    """The adapter's own mark of this very delivery."""


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message that ended as a dead letter."""

    id: str
    payload: bytes
    error: str
    attempts: int
    died_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many messages a channel holds, counted over the whole backend."""

    ready: int
    """Waiting for a consumer."""

    delayed: int
    """Held back for a time: published with a delay, or waiting for a retry."""

    in_flight: int
    """Delivered and not settled yet."""

    dead: int
    """Dead letters."""


class DeliveryReceiver(Protocol):
    """Takes deliveries. Its calls return at once and never raise."""

    def deliveries(self, batch: Sequence[Delivery]) -> None:
        """Take *batch*, never more than the credit that was granted and not used up yet."""
        ...

    def expired(self, delivery: Delivery) -> None:
        """Take note that settling *delivery* came too late: the message is no longer ours."""
        ...


class Consumer(Protocol):
    """Takes messages from one channel. Its calls return at once; none of them waits for I/O.

    Each delivery is settled by exactly one of `ack`, `release`, `retry` and `bury`. The adapter
    sends it on as soon as it can; if the connection is lost before, the message is delivered again,
    to anyone. Settling a delivery that is no longer this consumer's changes nothing and calls
    `DeliveryReceiver.expired`. Settling one twice is ignored.
    """

    def grant(self, credit: int) -> None:
        """Allow *credit* further deliveries, on top of what was granted before."""
        ...

    def revoke(self) -> None:
        """Take back all credit that is not used up; deliveries already on their way still come."""
        ...

    def ack(self, delivery: Delivery) -> None:
        """Forget the message: the work is done."""
        ...

    def release(self, delivery: Delivery, *, started: bool) -> None:
        """Give the message back: deliverable at once, at its old place in the order.

        *started*: work had begun, so it counts as a death. Otherwise nothing is counted.
        """
        ...

    def retry(self, delivery: Delivery, *, delay: float, error: str) -> None:
        """Make the message deliverable again after *delay* seconds, with the next `attempt`.

        The attempt failed with *error*; its deaths are counted from 0 again.
        """
        ...

    def bury(self, delivery: Delivery, *, error: str) -> None:
        """Give up: the message becomes a dead letter with *error*."""
        ...

    async def close(self) -> None:
        """Take no more, and wait, for a bounded time, until everything settled has been sent on.

        Deliveries that were not settled are given back as by `release(started=False)`. *receiver*
        is not called any more once this call has begun.
        """
        ...


class EventQueueAdapter(Protocol):
    """Keeps messages, in the order in which they were published, until they are settled.

    Channels are full names, matched exactly. A channel exists as long as something is in it or
    consumes it. Messages without delay are delivered in the order of publishing; released ones come
    back at their place, retried ones after their delay. Consumers with credit take turns.

    When a consumer's process dies, or cannot be reached for longer than the backend's session
    time-out, its deliveries go to others and count as deaths; from the second in a row on they may
    be delayed, since they may be what kills. As long as it lives, a delivery may take any time.
    """

    guarantees: frozenset[Guarantee]

    async def open(self) -> None:
        """Connect."""
        ...

    async def close(self) -> None:
        """Close all consumers and disconnect."""
        ...

    async def publish(
        self,
        channel: str,
        id: str,  # noqa: A002 - it is the message's id in every other place too
        payload: bytes,
        *,
        delay: float = 0.0,
        dedup_id: str | None = None,
    ) -> str:
        """Queue *payload* and return the message's id, once the backend owns the message.

        *delay*: seconds before it can be delivered; only with `Guarantee.DELAYED`.
        *dedup_id*: if a message with it is in the channel, or was published within the last two
        minutes, nothing is queued and that message's id is returned; only with
        `Guarantee.DEDUPLICATED`. The adapter may repeat a publish whose answer was lost only if
        *id* keeps it from being queued twice.

        Raises QueueFull or StorageFull (not queued), BackendUnavailable (not queued),
        OutcomeUnknown with `message_id` (queued or not). Cancelled: queued or not.
        """
        ...

    def consume(self, channel: str, receiver: DeliveryReceiver) -> Consumer:
        """Return a consumer of *channel*, which begins with no credit. No I/O in this call."""
        ...

    async def stats(self, channel: str) -> QueueStats:
        """Count the messages of *channel*; all zero if it does not exist."""
        ...

    async def dead_letters(self, channel: str, limit: int) -> list[DeadMessage]:
        """Return at most *limit* dead letters of *channel*, the oldest first."""
        ...

    async def requeue(self, channel: str, id: str) -> None:  # noqa: A002
        """Make the dead letter *id* an ordinary message again, the last in order, attempt 1.

        Raises BackendRefused if there is no such dead letter.
        """
        ...

    async def purge(self, channel: str) -> int:
        """Remove all messages that are ready, delayed or dead; return how many.

        Messages in flight are untouched.
        """
        ...
