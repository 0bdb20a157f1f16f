"""aio-pika: a fanout exchange for pub/sub, a quorum queue with confirms for work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue

from ..contracts import Offer, Peer
from ..settings import Settings


class _PubSub:
    def __init__(self, channel: AbstractChannel, exchange: AbstractExchange, channels: int) -> None:
        self._channel = channel
        self._exchange = exchange
        self.channels = [f"channel-{number}" for number in range(channels)]

    async def publish(self, channel: str, body: bytes) -> None:
        await self._exchange.publish(aio_pika.Message(body), routing_key=channel)

    async def flush(self) -> None:
        # The broker answers a channel's requests in order.
        await self._channel.get_exchange(self._exchange.name)

    async def subscribe(self, handle: Callable[[bytes], None]) -> None:
        async def callback(message: AbstractIncomingMessage) -> None:
            handle(message.body)

        queue = await self._channel.declare_queue(exclusive=True)
        await asyncio.gather(*(queue.bind(self._exchange, each) for each in self.channels))
        await queue.consume(callback, no_ack=True)


@asynccontextmanager
async def _pub_sub(url: str, name: str, settings: Settings) -> AsyncIterator[_PubSub]:
    connection = await aio_pika.connect_robust(url)
    async with connection:
        # A publish that nobody has to keep needs no confirmation.
        channel = await connection.channel(publisher_confirms=False)
        kinds = aio_pika.ExchangeType
        kind = kinds.FANOUT if settings.channels == 1 else kinds.DIRECT
        exchange = await channel.declare_exchange(name, kind, auto_delete=True)
        yield _PubSub(channel, exchange, settings.channels)


class _Queue:
    def __init__(self, channel: AbstractChannel, queue: AbstractQueue) -> None:
        self._channel = channel
        self._queue = queue

    async def publish(self, body: bytes) -> None:
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self._channel.default_exchange.publish(message, routing_key=self._queue.name)

    async def consume(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        async def callback(message: AbstractIncomingMessage) -> None:
            async with message.process():
                await handle(message.body)

        await self._queue.consume(callback)

    async def settled(self) -> None:
        # The acknowledgements of all handlers that have ended are sent before the request is.
        await asyncio.sleep(0)
        await self._channel.declare_queue(self._queue.name, passive=True)

    async def purge(self) -> None:
        await self._queue.delete(if_unused=False, if_empty=False)


@asynccontextmanager
async def _queue(url: str, name: str, settings: Settings) -> AsyncIterator[_Queue]:
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=settings.in_flight)
        queue = await channel.declare_queue(
            name, durable=True, arguments={"x-queue-type": "quorum"}
        )
        yield _Queue(channel, queue)


PEER = Peer(
    distributions=("aio-pika", "aiormq"),
    statement="import aio_pika",
    offers=(
        Offer("aio-pika", "pub_sub", _pub_sub, "at most once", server="rabbitmq"),
        Offer(
            "aio-pika quorum",
            "event_queue",
            _queue,
            "durable; redelivered when the connection ends",
            server="rabbitmq",
            durable=True,
        ),
    ),
)
