"""The broker's durable queues."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from corekit.adapters import (
    AdapterContext,
    DeadMessage,
    DeliveryReceiver,
    Guarantee,
    QueueStats,
)
from corekit.config import BackendURL
from corekit.errors import ConfigurationError, MessageTooLarge

from .client import Client
from .consumer import Consumer
from .protocol import Op, Reply
from .session import Command

_GUARANTEES = frozenset(
    {
        Guarantee.SHARED,
        Guarantee.PERSISTENT,
        Guarantee.ORDERED,
        Guarantee.DELAYED,
        Guarantee.DEDUPLICATED,
        Guarantee.COUNTED,
    }
)


class EventQueue:
    """The event queue for `zmq://` URLs.

    What is declared in `guarantees` goes by the URL: DURABLE, unless it says
    `durability=relaxed`. A broker that promises less is refused when the queue is opened.
    """

    def __init__(self, url: BackendURL, context: AdapterContext) -> None:
        self._client = Client(url, context, "event_queue")
        self._consumers: dict[int, Consumer] = {}
        self._numbers = itertools.count(1)
        durable = self._client.settings.durability == "full"
        self.guarantees = _GUARANTEES | {Guarantee.DURABLE} if durable else _GUARANTEES

    def __repr__(self) -> str:
        return f"<EventQueue {self._client!r} consumers={len(self._consumers)}>"

    async def open(self) -> None:
        connection = await self._client.open(self)
        offered = connection.broker.get("durability")
        if offered != "full" and Guarantee.DURABLE in self.guarantees:
            await self._client.close()
            raise ConfigurationError(
                f"{self._client.settings.text}: this broker confirms before the disk does "
                f"(durability {offered!r}); if that is enough, say so: ?durability=relaxed"
            )
        connection.dispatcher.handlers[Reply.DELIVERIES] = self._on_deliveries
        connection.dispatcher.handlers[Reply.EXPIRED] = self._on_expired

    async def close(self) -> None:
        try:
            await asyncio.gather(*(consumer.close() for consumer in list(self._consumers.values())))
        finally:
            await self._client.close()

    async def publish(
        self,
        channel: str,
        id: str,  # noqa: A002 - as in the contract
        payload: bytes,
        *,
        delay: float = 0.0,
        dedup_id: str | None = None,
    ) -> str:
        connection = self._client.connection
        if len(payload) > connection.max_message:
            raise MessageTooLarge(
                f"queue {channel}: {len(payload)} bytes are more than the broker takes "
                f"({connection.max_message})"
            )
        is_plain = not delay and dedup_id is None
        message = [id, payload] if is_plain else [id, payload, delay, dedup_id]
        if connection.is_open:
            request, future = connection.enqueue(self, channel, message)
        else:
            request, future = await connection.admit(
                self, lambda: connection.enqueue(self, channel, message)
            )
        try:
            return await future
        except asyncio.CancelledError:
            connection.requests.abandon_message(request, future)
            raise

    def consume(self, channel: str, receiver: DeliveryReceiver) -> Consumer:
        number = next(self._numbers)
        consumer = Consumer(self._client.connection, number, channel, receiver, self._consumers.pop)
        self._consumers[number] = consumer
        return consumer

    async def stats(self, channel: str) -> QueueStats:
        return QueueStats(*await self._request(Op.QUEUE_STATS, channel))

    async def dead_letters(self, channel: str, limit: int) -> list[DeadMessage]:
        dead = await self._request(Op.DEAD_LETTERS, channel, limit)
        return [DeadMessage(*fields) for fields in dead]

    async def requeue(self, channel: str, id: str) -> None:  # noqa: A002 - as in the contract
        await self._request(Op.REQUEUE, channel, id)

    async def purge(self, channel: str) -> int:
        count: int = await self._request(Op.PURGE, channel)
        return count

    async def _request(self, op: Op, *arguments: Any) -> Any:
        connection = self._client.connection
        # What is published from now on comes after it.
        connection.part_publishes()
        return await connection.request(self, op, *arguments)

    def _on_deliveries(self, command: Command) -> int:
        _, number, batch = command
        consumer = self._consumers.get(number)
        if consumer is not None:
            consumer.deliver(batch)
        return len(batch)

    def _on_expired(self, command: Command) -> int:
        consumer = self._consumers.get(command[1])
        if consumer is not None:
            consumer.expired(command[2])
        return 0

    def restore(self, confirmed: int) -> None:
        consumers = self._consumers.values()
        for consumer in consumers:
            consumer.session_ended(confirmed)
        for consumer in consumers:
            consumer.restore()
