"""What a worker holds ready beyond the messages that it can start at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from ..adapters import Consumer, Delivery

#: The most messages that are held ready, and the most free slots that are counted.
MOST = 256

#: What is held shall have been started within this time, in seconds.
_HORIZON = 0.05

#: The weight of the newest handler.
_WEIGHT = 0.2

#: What was on its way longer ago than this has arrived, in seconds.
_TRANSIT = 1.0


class PrefetchCount:
    """Follows how long handlers take, and says how many messages to hold ready.

    Handlers of microseconds need a buffer that outlasts the way to the backend and back; those of
    seconds need none, and what they held would be kept from other instances. Nothing is held ready
    before the first measurement.
    """

    __slots__ = ("_mean", "_slots", "ahead")

    def __init__(self, slots: int) -> None:
        self._slots = min(slots, MOST)
        self._mean: float | None = None
        #: How many messages to hold ready.
        self.ahead = 0

    def __repr__(self) -> str:
        return f"<PrefetchCount ahead={self.ahead} mean={self._mean}>"

    def measured(self, seconds: float, handlers: int = 1) -> None:
        """Take note that so many *handlers* took *seconds* each."""
        mean = self._mean
        if mean is None:
            mean = seconds
        else:
            mean += (seconds - mean) * (1 - (1 - _WEIGHT) ** handlers)
        self._mean = mean
        if mean > _HORIZON:
            self.ahead = 0
        elif mean * MOST <= _HORIZON * self._slots:
            self.ahead = MOST
        else:
            self.ahead = int(_HORIZON * self._slots / mean)

    def stalled(self) -> None:
        """Take note that nothing could be started: hold nothing until handlers are quick again."""
        self._mean = max(self._mean or 0.0, 4 * _HORIZON)
        self.ahead = 0


class PrefetchBuffer:
    """The messages that a consumer delivered and nobody has started yet, and the credit for more.

    With *in_order* it makes sure that what is given back is handled before what came after it:
    deliveries that are on their way meanwhile are given back too.
    """

    def __init__(self, consumer: Consumer, now: Callable[[], float], *, in_order: bool) -> None:
        self._consumer = consumer
        self._now = now
        self._in_order = in_order
        self._held: deque[Delivery] = deque()
        self._credit = 0
        #: How many messages were taken out, and how many it will be when all marked ones were.
        self._taken = 0
        self._marked = 0
        #: Credit that was taken back, but may have been used up before; it counts until a moment.
        self._revoked = 0
        self._revoked_until = 0.0
        #: The oldest message that was given back while others may have been on their way.
        self._returned: str | None = None

    def __repr__(self) -> str:
        return f"<PrefetchBuffer held={len(self._held)} credit={self._credit}>"

    def __len__(self) -> int:
        return len(self._held)

    def add(self, batch: Sequence[Delivery]) -> None:
        """Take *batch* in."""
        if self._returned is not None:
            batch = self._without_younger(batch)
        self._credit = max(0, self._credit - len(batch))
        self._held.extend(batch)

    def next(self) -> Delivery | None:
        """Take out the message whose turn it is."""
        if not self._held:
            return None
        self._taken += 1
        return self._held.popleft()

    def mark(self) -> None:
        """Remember what is held now."""
        self._marked = self._taken + len(self._held)

    @property
    def holds_marked(self) -> bool:
        """Whether something that was held at the last `mark` still is."""
        return self._taken < self._marked

    def fill(self, wanted: int) -> None:
        """Ask for so many messages that *wanted* are held or to come.

        Half a buffer is no reason to ask: credit is best granted by the dozen.
        """
        missing = wanted - len(self._held) - self._credit
        if missing > 0 and missing * 2 >= wanted:
            self._credit += missing
            self._consumer.grant(missing)

    def give_back(self) -> None:
        """Give back all messages, the last first, and take back all credit."""
        now = self._now()
        if now > self._revoked_until:
            self._revoked = 0
        if self._credit:
            self._consumer.revoke()
            self._revoked += self._credit
            self._revoked_until = now + _TRANSIT
            self._credit = 0
        if self._held and self._in_order and self._revoked:
            self._returned = self._held[0].id
        self._taken += len(self._held)
        while self._held:
            self._consumer.release(self._held.pop(), started=False)

    def _without_younger(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Give back what was sent before the backend knew of the messages that were given back.

        The first of those comes before anything younger, unless another consumer has it: then
        revoked credit or time runs out.
        """
        for index, delivery in enumerate(batch):
            if (
                delivery.id == self._returned
                or self._revoked == 0
                or self._now() > self._revoked_until
            ):
                self._returned = None
                self._revoked = 0
                return batch[index:]
            self._revoked -= 1
            # Whether it used up old credit or new cannot be told; too much does no harm.
            self._credit = max(0, self._credit - 1)
            self._consumer.release(delivery, started=False)
        return ()
