"""One channel: its envelopes, who listens, and what they missed.

On the wire a message is an envelope with the fields

    instance   str  who published it: the App instance
    publisher  int  one run of one instance on one channel: whose numbers these are
    number     int  1, 2, 3 ... without a hole among what this publisher sent
    audience   int  0: everybody; bit 0: everybody else; bit 1: the instance itself only
    body

A publish that fails or is cancelled uses up its number, if the message could be written: it may
have been sent, and if it was not, subscribers have missed what was meant for them; the hole tells
them so. Numbers are never used twice: a subscriber would take the second one for a repetition.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import Any, Final

from ..errors import SerializationError
from .context import ManagerContext
from .gaps import SequenceTracker, Verdict
from .log_limit import LogLimit
from .subscription import GAP, Handler, Subscription

logger = logging.getLogger("corekit.pub_sub")

EVERYBODY: Final = 0
NOT_SELF: Final = 1
ONLY_SELF: Final = 2

#: How many fields stand before the body of an envelope.
_HEAD_FIELDS = 4
_LARGEST = 2**63

#: Bodies that several handlers can be given without one seeing what another makes of it.
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})


class Channel:
    """One full name: the number of what was published last, and who listens."""

    __slots__ = (
        "_bad_log",
        "_context",
        "_seal",
        "_unseal",
        "full_name",
        "heard",
        "lock",
        "name",
        "number",
        "publisher",
        "received",
        "subscriptions",
    )

    def __init__(self, context: ManagerContext, name: str, full_name: str) -> None:
        self._context = context
        self._seal = context.serializer.seal
        self._unseal = context.serializer.unseal
        self._bad_log = LogLimit(context.clock)
        self.name = name
        self.full_name = full_name
        self.subscriptions: list[Subscription] = []
        self.restart()

    def __repr__(self) -> str:
        return (
            f"<Channel {self.full_name!r} {'received' if self.received else 'not received'} "
            f"published={self.number} subscriptions={len(self.subscriptions)}>"
        )

    def restart(self) -> None:
        """Begin anew, as another publisher, in the running loop; the subscribers stay."""
        self.publisher = secrets.randbits(63)
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

    def seal(self, message: Any, audience: int) -> bytes:
        """Return the envelope of the next message; a message that cannot be written has none."""
        payload = self._seal(
            (self._context.instance_id, self.publisher, self.number + 1, audience), message
        )
        self.number += 1
        return payload

    def as_written(self, message: Any, audience: int) -> Any:
        """Return *message* as a subscriber will get it; raises if it cannot be sealed later."""
        head = (self._context.instance_id, self.publisher, _LARGEST, audience)
        return self._unseal(self._seal(head, message), _HEAD_FIELDS)[-1]

    def receive(self, payloads: Sequence[bytes]) -> None:
        """Give *payloads* to the subscribers, without what is not for this instance."""
        batch: list[Any] = []
        missed, gaps = False, 0
        unseal, observe = self._unseal, self.heard.observe
        me = self._context.instance_id
        for payload in payloads:
            try:
                instance, publisher, number, audience, body = unseal(payload, _HEAD_FIELDS)
                not_for_us = audience and (instance == me) is not bool(audience & ONLY_SELF)
                verdict = observe(publisher, number)
            except (SerializationError, TypeError) as error:
                self._complain(error)
                missed = True
                continue
            if verdict is Verdict.REPEATED:
                continue
            if not_for_us:
                # What is missing before it may have been for us, unless it is our own: we miss
                # nothing of what we send to others.
                missed |= verdict is Verdict.AFTER_GAP and instance != me
                continue
            if missed or verdict is Verdict.AFTER_GAP:
                batch.append(GAP)
                missed, gaps = False, gaps + 1
            batch.append(body)
        if missed:
            batch.append(GAP)
            gaps += 1
        if batch:
            self._distribute(batch, gaps)

    def gap(self) -> None:
        """Tell the subscribers that they may have missed something here."""
        self.heard.forgive()
        self._distribute([GAP], 1)

    def _distribute(self, batch: list[Any], gaps: int) -> None:
        first, *others = self.subscriptions
        # The copies are made before any handler can have changed a message.
        for subscription in others:
            subscription.put([self._copy(message) for message in batch], gaps)
        first.put(batch, gaps)

    def _copy(self, message: Any) -> Any:
        if message is GAP or type(message) in _IMMUTABLE:
            return message
        serializer = self._context.serializer
        try:
            return serializer.decode(serializer.encode(message))
        except SerializationError:
            # An extension that reads what it does not write.
            return message

    def _complain(self, error: Exception) -> None:
        if isinstance(error, TypeError):
            error = SerializationError("a field of the envelope is of a wrong type")
        if self._bad_log.passes():
            logger.warning(
                "channel %s: a message could not be read (%d more before it): %s",
                self.full_name,
                self._bad_log.held_back,
                error,
            )
