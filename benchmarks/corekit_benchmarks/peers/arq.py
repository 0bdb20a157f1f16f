"""arq: jobs in a Redis sorted set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

from ..contracts import Offer, Peer
from ..settings import Settings


class _Queue:
    def __init__(
        self, pool: ArqRedis, name: str, concurrency: int, tasks: asyncio.TaskGroup
    ) -> None:
        self._pool = pool
        self._name = name
        self._concurrency = concurrency
        self._tasks = tasks
        self.running: asyncio.Task[Any] | None = None

    async def publish(self, body: bytes) -> None:
        await self._pool.enqueue_job("work", body, _queue_name=self._name)

    async def consume(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        async def work(context: dict[Any, Any], body: bytes) -> None:
            await handle(body)

        worker = Worker(
            functions=[func(work, name="work", keep_result=0)],
            queue_name=self._name,
            redis_pool=self._pool,
            max_jobs=self._concurrency,
            handle_signals=False,
        )
        self.running = self._tasks.create_task(worker.async_run())

    async def settled(self) -> None:
        while await self._pool.zcard(self._name):
            await asyncio.sleep(0.005)

    async def purge(self) -> None:
        await self._pool.flushdb()


@asynccontextmanager
async def _open(url: str, name: str, settings: Settings) -> AsyncIterator[_Queue]:
    pool = await create_pool(RedisSettings.from_dsn(url))
    # Each call under way takes a connection, and the pool's own limit is an error, not a queue.
    pool.connection_pool.max_connections = 2 * settings.in_flight + 10
    try:
        async with asyncio.TaskGroup() as tasks:
            queue = _Queue(pool, name, settings.in_flight, tasks)
            try:
                yield queue
            finally:
                if queue.running is not None:
                    queue.running.cancel()
    finally:
        await pool.aclose()


PEER = Peer(
    distributions=("arq",),
    statement="import arq",
    offers=(
        Offer(
            "arq",
            "event_queue",
            _open,
            "on disk within a second; tried again after its timeout of 310 s",
            server="redis, AOF",
        ),
    ),
)
