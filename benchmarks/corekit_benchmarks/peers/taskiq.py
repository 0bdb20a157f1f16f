"""taskiq: tasks over a Redis stream, the broker that its documentation advises for Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import redis.asyncio as redis
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from ..contracts import Offer, Peer
from ..settings import Settings


class _Queue:
    def __init__(self, url: str, name: str, concurrency: int, tasks: asyncio.TaskGroup) -> None:
        # "0": messages that were published before the first worker came are its own too.
        self._broker = RedisStreamBroker(url, queue_name=name, consumer_id="0")
        self._url = url
        self._name = name
        self._concurrency = concurrency
        self._tasks = tasks
        self._handle: Callable[[bytes], Awaitable[None]] | None = None

        async def work(text: str) -> None:
            if self._handle is not None:
                await self._handle(text.encode("latin-1"))

        self._work = self._broker.task(task_name="work")(work)
        self.receiving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._broker.startup()

    async def stop(self) -> None:
        if self.receiving is not None:
            self.receiving.cancel()
        await self._broker.shutdown()

    async def publish(self, body: bytes) -> None:
        await self._work.kiq(body.decode("latin-1"))

    async def consume(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        self._handle = handle
        self._broker.is_worker_process = True
        self.receiving = self._tasks.create_task(
            run_receiver_task(self._broker, max_async_tasks=self._concurrency, run_startup=True)
        )

    async def settled(self) -> None:
        async with redis.Redis.from_url(self._url) as client:
            while (await client.xpending(self._name, "taskiq"))["pending"]:
                await asyncio.sleep(0.005)

    async def purge(self) -> None:
        async with redis.Redis.from_url(self._url) as client:
            await client.delete(self._name)


@asynccontextmanager
async def _open(url: str, name: str, settings: Settings) -> AsyncIterator[_Queue]:
    async with asyncio.TaskGroup() as tasks:
        queue = _Queue(url, name, settings.in_flight, tasks)
        await queue.start()
        try:
            yield queue
        finally:
            await queue.stop()


PEER = Peer(
    distributions=("taskiq", "taskiq-redis"),
    statement="import taskiq, taskiq_redis",
    offers=(
        Offer(
            "taskiq, Redis stream",
            "event_queue",
            _open,
            "on disk within a second; claimed after 10 minutes",
            server="redis, AOF",
        ),
    ),
)
