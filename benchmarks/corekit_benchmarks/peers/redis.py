"""redis-py: cache, pub/sub, streams with a consumer group, and its lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis
from redis.exceptions import ResponseError

from ..contracts import Offer, Peer
from ..settings import Settings

#: After this long a message of a consumer that has gone is claimed by another, in milliseconds;
#: how often that is tried, in seconds.
_CLAIM_AFTER = 30_000
_CLAIM_INTERVAL = 1.0

#: How long one read waits, in milliseconds.
_BLOCK = 1_000

_LEASE = 10
_GROUP = "workers"


class _Cache:
    def __init__(self, client: redis.Redis) -> None:
        self.get = client.get
        self.set = client.set
        self.delete = client.delete

    def cached(
        self, fn: Callable[[int], Awaitable[bytes]], *, once: bool
    ) -> Callable[[int], Awaitable[object]]:
        raise NotImplementedError("it does not cache functions")


def _connected(url: str, settings: Settings) -> redis.Redis:
    # Each call under way takes a connection, and the pool's own limit is an error, not a queue.
    return redis.Redis.from_url(url, max_connections=2 * settings.in_flight + 10)


@asynccontextmanager
async def _cache(url: str, name: str, settings: Settings) -> AsyncIterator[_Cache]:
    async with _connected(url, settings) as client:
        yield _Cache(client)


class _PubSub:
    def __init__(self, client: redis.Redis, channels: list[str], tasks: asyncio.TaskGroup) -> None:
        self._client = client
        self._tasks = tasks
        self.channels = channels
        self.publish = client.publish
        self.reading: asyncio.Task[None] | None = None

    async def flush(self) -> None:
        pass  # each publish waits for the reply

    async def subscribe(self, handle: Callable[[bytes], None]) -> None:
        subscribed = asyncio.Event()

        async def read() -> None:
            async with self._client.pubsub() as channel:
                await channel.subscribe(*self.channels)
                async for message in channel.listen():
                    if message["type"] == "message":
                        handle(message["data"])
                    elif message["data"] == len(self.channels):
                        subscribed.set()

        self.reading = self._tasks.create_task(read())
        await subscribed.wait()


@asynccontextmanager
async def _pub_sub(url: str, name: str, settings: Settings) -> AsyncIterator[_PubSub]:
    async with _connected(url, settings) as client, asyncio.TaskGroup() as tasks:
        channels = [f"{name}:{number}" for number in range(settings.channels)]
        pub_sub = _PubSub(client, channels, tasks)
        try:
            yield pub_sub
        finally:
            if pub_sub.reading is not None:
                pub_sub.reading.cancel()


class _Stream:
    def __init__(
        self, client: redis.Redis, name: str, batch: int, tasks: asyncio.TaskGroup
    ) -> None:
        self._client = client
        self._name = name
        self._batch = batch
        self._tasks = tasks
        self._consumer = f"consumer-{id(self)}"
        self.running: list[asyncio.Task[None]] = []

    async def publish(self, body: bytes) -> None:
        await self._client.xadd(self._name, {"body": body})

    async def consume(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        self.running = [
            self._tasks.create_task(self._read(handle)),
            self._tasks.create_task(self._claim(handle)),
        ]

    async def settled(self) -> None:
        while (await self._client.xpending(self._name, _GROUP))["pending"]:
            await asyncio.sleep(0.005)

    async def purge(self) -> None:
        await self._client.delete(self._name)

    async def _read(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            answer = await self._client.xreadgroup(
                _GROUP, self._consumer, {self._name: ">"}, count=self._batch, block=_BLOCK
            )
            for _, messages in answer or ():
                await self._handle(messages, handle)

    async def _claim(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(_CLAIM_INTERVAL)
            _, messages, _ = await self._client.xautoclaim(
                self._name, _GROUP, self._consumer, _CLAIM_AFTER, count=self._batch
            )
            await self._handle(messages, handle)

    async def _handle(
        self, messages: list[Any], handle: Callable[[bytes], Awaitable[None]]
    ) -> None:
        if messages:
            await asyncio.gather(*(handle(fields[b"body"]) for _, fields in messages))
            await self._client.xack(self._name, _GROUP, *(number for number, _ in messages))


@asynccontextmanager
async def _stream(url: str, name: str, settings: Settings) -> AsyncIterator[_Stream]:
    async with _connected(url, settings) as client, asyncio.TaskGroup() as tasks:
        try:
            await client.xgroup_create(name, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        stream = _Stream(client, name, settings.in_flight, tasks)
        try:
            yield stream
        finally:
            for task in stream.running:
                task.cancel()


class _Lock:
    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    async def turns(self, key: str, count: int) -> None:
        for _ in range(count):
            lock = self._client.lock(key, timeout=_LEASE)
            await lock.acquire()
            await lock.release()

    async def section(self, key: str, inside: Callable[[], Awaitable[None]]) -> None:
        async with self._client.lock(key, timeout=_LEASE):
            await inside()


@asynccontextmanager
async def _lock(url: str, name: str, settings: Settings) -> AsyncIterator[_Lock]:
    async with _connected(url, settings) as client:
        yield _Lock(client)


PEER = Peer(
    distributions=("redis", "hiredis"),
    statement="import redis.asyncio",
    offers=(
        Offer("redis-py", "cache", _cache, "shared, not on disk", server="redis"),
        Offer("redis-py", "pub_sub", _pub_sub, "at most once, no replay", server="redis"),
        Offer(
            "Redis Streams",
            "event_queue",
            _stream,
            "on disk within a second; claimed after 30 s",
            server="redis, AOF",
        ),
        Offer(
            "Redis Streams, fsync",
            "event_queue",
            _stream,
            "durable; claimed after 30 s",
            server="redis, AOF, fsync",
            durable=True,
        ),
        Offer(
            "redis-py lock",
            "lock",
            _lock,
            "no fencing, no order: waiters poll each 0.1 s; not renewed",
            server="redis",
        ),
    ),
)
