"""dramatiq: actors over Redis. Its calls block, and its workers are threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from ..contracts import Offer, Peer
from ..settings import Settings

#: Threads of a worker process, if it is not told otherwise.
_THREADS = 8


class _Queue:
    def __init__(self, url: str, name: str) -> None:
        self._broker = RedisBroker(url=url)
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._handle: Callable[[bytes], Awaitable[None]] | None = None
        self._actor = dramatiq.actor(
            self._work, actor_name="work", queue_name=name, broker=self._broker
        )
        self._worker: dramatiq.Worker | None = None

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._broker.close()

    async def publish(self, body: bytes) -> None:
        self._actor.send(body.decode("latin-1"))

    async def consume(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        self._handle = handle
        self._worker = dramatiq.Worker(self._broker, worker_threads=_THREADS)
        self._worker.start()

    async def settled(self) -> None:
        await asyncio.to_thread(self._broker.join, self._name)

    async def purge(self) -> None:
        self._broker.flush(self._name)

    def _work(self, text: str) -> None:
        # Waited for: returning acknowledges. What the workload counts lives in the event loop.
        handled = self._run(text.encode("latin-1"))
        asyncio.run_coroutine_threadsafe(handled, self._loop).result()

    async def _run(self, body: bytes) -> None:
        if self._handle is not None:
            await self._handle(body)


@asynccontextmanager
async def _open(url: str, name: str, settings: Settings) -> AsyncIterator[_Queue]:
    queue = _Queue(url, name)
    try:
        yield queue
    finally:
        await asyncio.to_thread(queue.stop)


PEER = Peer(
    distributions=("dramatiq",),
    statement="import dramatiq, dramatiq.brokers.redis",
    offers=(
        Offer(
            "dramatiq, Redis",
            "event_queue",
            _open,
            "on disk within a second; requeued after 60 s without heartbeat",
            server="redis, AOF",
        ),
    ),
)
