"""One channel: what was published on it, who listens, and what they missed.

A publish that fails or is cancelled uses up its number, if the message could be written: it may
have been sent, and if it was not, subscribers have missed what was meant for them; the hole tells
them so. Numbers are never used twice: a subscriber would take the second one for a repetition.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any

from ..adapters import PubSubAdapter
from ..errors import SerializationError
from ..lifecycle import Gate
from .context import ManagerContext
from .envelope import HEAD_FIELDS, LARGEST, ONLY_SELF, EnvelopeReader, EnvelopeWriter, Run
from .gaps import AFTER_GAP, REPEATED, SequenceTracker
from .log_limit import LogLimit
from .subscription import GAP, Subscription
from .subscription_options import Handler

logger = logging.getLogger("corekit.pub_sub")

#: Bodies that several handlers can be given without one seeing what another makes of it.
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})


class Channel:
    """One full name: the number of what was published last, and who listens."""

    __slots__ = (
        "_bad_log",
        "_check",
        "_context",
        "_gate",
        "_me",
        "_reader",
        "_send",
        "_write",
        "full_name",
        "heard",
        "lock",
        "name",
        "number",
        "publisher",
        "received",
        "subscriptions",
    )

    def __init__(
        self,
        context: ManagerContext,
        gate: Gate,
        adapter: PubSubAdapter | None,
        name: str,
        full_name: str,
    ) -> None:
        self._context = context
        self._gate = gate
        self._check = gate.check
        self._me = context.instance_id
        self._reader = EnvelopeReader(context.serializer)
        self._bad_log = LogLimit(context.clock)
        self.name = name
        self.full_name = full_name
        self.subscriptions: list[Subscription] = []
        self.restart(adapter)

    def __repr__(self) -> str:
        return (
            f"<Channel {self.full_name!r} {'received' if self.received else 'not received'} "
            f"published={self.number} subscriptions={len(self.subscriptions)}>"
        )

    def restart(self, adapter: PubSubAdapter | None) -> None:
        """Begin anew, as another publisher, on *adapter*; the subscribers stay."""
        self._send = None if adapter is None else adapter.publish
        self.publisher = secrets.randbits(63)
        self._write = EnvelopeWriter(self._context.serializer, self._me, self.publisher).write
        self.number = 0
        self.heard = SequenceTracker()
        self.lock = asyncio.Lock()
        #: Whether the adapter receives it.
        self.received = False
        self.subscriptions = [subscription.renewed() for subscription in self.subscriptions]

    @property
    def is_idle(self) -> bool:
        """Whether it can be forgotten: nobody listens, and nobody is about to."""
        return not (self.subscriptions or self.received or self.lock.locked())

    def remove(self, handler: Handler) -> None:
        """Drop the subscription of *handler*, if there is one."""
        for subscription in self.subscriptions:
            if subscription.handler == handler:
                subscription.stop()
                # A new list: somebody may be going through the old one.
                self.subscriptions = [s for s in self.subscriptions if s is not subscription]
                return

    def publish(self, message: Any, audience: int) -> Awaitable[None]:
        """Send *message* to *audience*; to be awaited at once: numbers must leave in their order.

        Raises NotOpenError, SerializationError (nothing was sent), and what the adapter raises.
        """
        self._check()
        send = self._send
        if send is None:
            raise self._gate.refusal()
        number = self.number + 1
        payload = self._write(number, audience, message)
        # A message that cannot be written has no number.
        self.number = number
        return send(self.full_name, payload)

    def as_written(self, message: Any, audience: int) -> Any:
        """Return *message* as a subscriber will get it; raises if it cannot be sealed later."""
        written = self._write(LARGEST, audience, message)
        return self._context.serializer.unseal(written, HEAD_FIELDS)[-1]

    def receive(self, payloads: Sequence[bytes]) -> None:
        """Give *payloads* to the subscribers, without what is not for this instance."""
        messages: list[Any] = []
        #: How many `GAP` are in it, and whether something is missing after the last message.
        gaps, missed = 0, False
        for run in self._reader.read(payloads):
            if isinstance(run, SerializationError):
                self._complain(run)
                missed = True
                continue
            instance, publisher, audience, first, bodies = run
            verdict = self.heard.observe(publisher, first)
            if verdict is REPEATED:
                bodies = self._unseen(run)
                if not bodies:
                    continue
            elif len(bodies) > 1:
                self.heard.advance(publisher, first + len(bodies))
            for_us = not audience or (instance == self._me) is bool(audience & ONLY_SELF)
            # Before one that is not for us there may be some that were, unless all are our own: we
            # miss nothing of what we send to others.
            missed |= verdict is AFTER_GAP and (for_us or instance != self._me)
            if for_us:
                if missed:
                    messages.append(GAP)
                    gaps, missed = gaps + 1, False
                messages += bodies
        if missed:
            messages.append(GAP)
            gaps += 1
        if messages:
            self._distribute(messages, gaps)

    def _unseen(self, run: Run) -> list[Any]:
        """Return the messages of *run* that were not here before, as its first one was."""
        _, publisher, _, first, bodies = run
        for place in range(1, len(bodies)):
            if self.heard.observe(publisher, first + place) is not REPEATED:
                self.heard.advance(publisher, first + len(bodies))
                return bodies[place:]
        return []

    def gap(self) -> None:
        """Tell the subscribers that they may have missed something here."""
        self.heard.forgive()
        self._distribute([GAP], 1)

    def _distribute(self, batch: list[Any], gaps: int) -> None:
        subscriptions = self.subscriptions
        # The copies are made before any handler can have changed a message.
        for subscription in subscriptions[1:]:
            subscription.put([self._copy(message) for message in batch], gaps)
        subscriptions[0].put(batch, gaps)

    def _copy(self, message: Any) -> Any:
        if message is GAP or type(message) in _IMMUTABLE:
            return message
        serializer = self._context.serializer
        try:
            return serializer.decode(serializer.encode(message))
        except SerializationError:
            # An extension that reads what it does not write.
            return message

    def _complain(self, error: SerializationError) -> None:
        if self._bad_log.passes():
            logger.warning(
                "channel %s: a message could not be read (%d more before it): %s",
                self.full_name,
                self._bad_log.held_back,
                error,
            )
