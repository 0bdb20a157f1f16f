"""Pub/sub through the broker, which numbers what is published and replays what was missed."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from corekit.adapters import AdapterContext, Guarantee, MessageReceiver
from corekit.config import BackendURL
from corekit.errors import MessageTooLarge, SerializationError

from .client import Client
from .connection import Connection
from .protocol import Op, Reply
from .request import Request
from .session import Command, Session

logger = logging.getLogger("corekit.zeromq")


#: How long `close` waits for what was published to arrive, in seconds.
_CLOSING = 2.0


class _Subscription:
    __slots__ = ("epoch", "expected", "gap_is_told", "request", "taken", "waiting")

    def __init__(self) -> None:
        self.request: Request
        #: How many calls of `subscribe` wait for the broker's answer.
        self.waiting = 0
        #: Whether one of them has returned.
        self.taken = False
        #: The life of the broker in which it was answered, and the next message's number in it.
        self.epoch: int | None = None
        self.expected = 0
        #: Whether the GAP that the broker owes has been told already.
        self.gap_is_told = False

    @property
    def is_refused(self) -> bool:
        """Whether the broker has refused to take it up again."""
        answer = self.request.future
        return self.epoch is not None and answer.done() and answer.exception() is not None

    def begin(self, session: Session, expected: int) -> None:
        """Take the broker's answer."""
        self.epoch = session.epoch
        self.expected = expected


class PubSub:
    """Pub/sub for `zmq://` URLs."""

    guarantees = frozenset({Guarantee.SHARED, Guarantee.ORDERED, Guarantee.REPLAYED})

    def __init__(self, url: BackendURL, context: AdapterContext) -> None:
        self._client = Client(url, context, "pub_sub")
        self._subscriptions: dict[str, _Subscription] = {}
        self._receiver: MessageReceiver | None = None
        self._connection: Connection | None = None

    def __repr__(self) -> str:
        return f"<PubSub {self._client!r} channels={len(self._subscriptions)}>"

    async def open(self, receiver: MessageReceiver) -> None:
        connection = await self._client.open(self)
        connection.dispatcher.handlers[Reply.MESSAGES] = self._on_messages
        connection.dispatcher.handlers[Reply.GAP] = self._on_gap
        self._receiver = receiver
        self._connection = connection

    async def close(self) -> None:
        self._receiver = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave(self)
            # One that is being restored has no owner, and would be in the next session, too.
            for channel, subscription in list(self._subscriptions.items()):
                self._forget(connection, channel, subscription)
        await self._client.close(linger=_CLOSING if connection is not None else 0.0)

    async def publish(self, channel: str, payload: bytes) -> None:
        connection = self._connection or self._client.connection
        if len(payload) > connection.max_message:
            raise MessageTooLarge(
                f"channel {channel}: {len(payload)} bytes are more than the broker takes "
                f"({connection.max_message})"
            )
        session = connection.session
        if session.room < 0 or connection.admission.waiting or not connection.link.is_up:
            # No lambda: the variables that it holds would be slower in each call.
            action = partial(session.publish, channel, payload)
            filled = await connection.admit(self, action)
        else:
            filled = session.publish(channel, payload)
            if filled:
                connection.flush()
            elif not connection.flushing:
                connection.flush_soon()
        if filled:
            # A publisher that never waits must not keep the loop from what it sends.
            await asyncio.sleep(0)

    async def subscribe(self, channel: str) -> None:
        connection = self._client.connection
        subscription = self._subscriptions.get(channel)
        if subscription is not None and subscription.is_refused:
            # Since then nothing came, which was told as a gap: it begins anew.
            self._forget(connection, channel, subscription)
            subscription = None
        if subscription is None:
            subscription = self._subscriptions[channel] = _Subscription()
            begin = partial(subscription.begin, connection.session)
            subscription.request = connection.ask(self, Op.SUBSCRIBE, channel, None, 0, then=begin)
        elif subscription.epoch is not None:
            # It holds, or comes back by itself: what is missed until then is told as a gap.
            subscription.taken = True
            return
        subscription.waiting += 1
        try:
            # Several may wait for it: one that is cancelled leaves it to the others.
            await asyncio.shield(subscription.request.future)
        except BaseException:
            subscription.waiting -= 1
            if not subscription.taken and not subscription.waiting:
                self._forget(connection, channel, subscription)
            raise
        subscription.waiting -= 1
        subscription.taken = True

    async def unsubscribe(self, channel: str) -> None:
        connection = self._client.connection
        subscription = self._subscriptions.get(channel)
        if subscription is not None:
            self._forget(connection, channel, subscription)

    def _forget(self, connection: Connection, channel: str, subscription: _Subscription) -> None:
        if self._subscriptions.get(channel) is not subscription:
            return
        del self._subscriptions[channel]
        connection.requests.abandon(subscription.request)
        connection.session.add([Op.UNSUBSCRIBE, channel])
        connection.flush_soon()
        # Who waits for it has been overtaken.
        if not subscription.request.future.done():
            subscription.request.future.set_result(None)

    def _on_messages(self, command: Command) -> int:
        _, channel, first, payloads = command
        if type(first) is not int or type(payloads) is not list:
            raise SerializationError("these are no messages")
        subscription = self._subscriptions.get(channel)
        receiver = self._receiver
        # Before the answer: from an earlier subscription of the same channel.
        if subscription is None or subscription.epoch is None or receiver is None:
            return 0
        expected, following = subscription.expected, first + len(payloads)
        if following > expected:
            subscription.expected = following
        if first > expected:
            receiver.gap(channel)
        elif first < expected:
            payloads = payloads[expected - first :]
        if payloads:
            receiver.messages(channel, payloads)
        # Also to hand on a gap takes time.
        return len(payloads) or 1

    def _on_gap(self, command: Command) -> int:
        _, channel, following = command
        if type(following) is not int:
            raise SerializationError("the number of the next message is none")
        subscription = self._subscriptions.get(channel)
        if subscription is not None and subscription.epoch is not None:
            subscription.expected = following
            if self._receiver is not None and not subscription.gap_is_told:
                self._receiver.gap(channel)
            subscription.gap_is_told = False
        return 1

    def restore(self, confirmed: int) -> None:
        connection = self._client.connection
        for channel, subscription in self._subscriptions.items():
            # Those not answered yet are requests under way, which are repeated as such.
            if subscription.epoch is not None:
                connection.requests.abandon(subscription.request)
                subscription.request = connection.requests.begin(
                    None,
                    Op.SUBSCRIBE,
                    (channel, subscription.epoch, subscription.expected),
                    patient=True,
                    then=partial(self._resumed, channel, subscription, connection.session),
                )
                subscription.request.future.add_done_callback(partial(self._restored, channel))

    def _resumed(
        self, channel: str, subscription: _Subscription, session: Session, following: int
    ) -> None:
        """Take the broker's answer to a subscription that was there before."""
        # Told now: if the session is lost before GAP comes, the next one knows nothing of it.
        lost = (subscription.epoch, subscription.expected) != (session.epoch, following)
        subscription.gap_is_told = lost
        subscription.begin(session, following)
        if lost and self._receiver is not None:
            self._receiver.gap(channel)

    def _restored(self, channel: str, answer: asyncio.Future[Any]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if error is None:
            return
        logger.error("channel %s: the broker refuses the subscription: %s", channel, error)
        if self._receiver is not None:
            self._receiver.gap(channel)
