"""How applications use corekit, for the type checker: it is checked by mypy strict, never run.

`assert_type` fails the check if an annotation of the public interface says less, or something else,
than users need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, assert_type

from sqlalchemy.ext.asyncio import AsyncSession

from corekit import (
    App,
    BackendUnavailable,
    Cache,
    Counter,
    DeadLetter,
    DeliveryContext,
    Lease,
    LockTimeout,
    OutcomeUnknown,
    Plugin,
    QueueStats,
    hookimpl,
)
from corekit.adapters import AdapterContext, LockAdapter
from corekit.config import BackendURL
from corekit.plugins import AdapterRegistry
from corekit.transactions import AfterCommit, Bridge


class Reports(Plugin):
    """A plugin with state in memory that all instances keep in step."""

    name = "reports"
    sync_debounce = 0.5
    sync_max_wait = timedelta(seconds=5)

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.cache: Cache | None = None

    async def before_load(self) -> None:
        """Subscribe."""
        await self.app.pub_sub_manager.subscribe("cancel", self.cancel, debounce=0.1, max_wait=1)
        self.app.event_queue.subscribe(
            "render", self.render, concurrency=4, idle=lambda: True, topic="reports"
        )

    async def load(self) -> None:
        """Create what needs a connection."""
        self.cache = await self.app.cache_manager.create_cache("reports", ttl=60, max=100)
        await self.resync()

    async def resync(self) -> None:
        """Read the state anew."""
        self.settings = await self.app.cache.get("settings", {})

    async def handle_sync_message(self, message: Any) -> None:
        """Apply a change of another instance."""
        self.settings.update(message)

    async def change(self, session: AsyncSession, name: str, value: str) -> None:
        """Change a setting; the others hear of it if the transaction commits."""
        self.settings[name] = value
        await self.send_sync_message({name: value}, transaction=session)

    async def cancel(self, message: Any) -> None:
        """Take a message of pub/sub."""

    async def render(self, message: Any, context: DeliveryContext) -> None:
        """Take a job of the queue."""
        assert_type(context.id, str)
        assert_type(context.attempt, int)
        assert_type(context.published_at, float)
        assert_type(context.deadline - context.published_at, float)


async def user(user_id: int) -> dict[str, int]:
    """Load a user."""
    return {"id": user_id}


async def caches(app: App) -> None:
    """Use every method of caches."""
    assert_type(app.cache, Cache)
    cache = app.cache_manager.get_cache("default")
    await cache.set("key", None, timedelta(minutes=1))
    assert_type(await cache.add("key", 1, ttl=2.5), bool)
    assert_type(await cache.delete("key"), bool)
    await cache.mset({"a": 1, "b": "two"}, ttl=60)
    assert_type(await cache.mget(["a", "b"], default=0), list[Any])
    assert_type(await cache.mdel(["a"]), int)
    assert_type(await cache.wrap("user:7", lambda: user(7), ttl=60, stale=30), dict[str, int])
    assert_type(await cache.wrap("seven", lambda: 7, coalesce="cluster"), int)
    assert_type(
        await cache.wrap_with_condition("user:8", lambda: user(8), is_cacheable=bool),
        dict[str, int],
    )
    assert_type(await cache.keys("user:*"), list[str])
    assert_type(await cache.ttl("key"), float | None)
    assert_type(await cache.increment("hits", 2, ttl=60), int)
    await cache.set_value_in_object("object", "field", {1, 2})
    await cache.get_value_in_object("object", "field", default=None)
    await cache.delete_value_in_object("object", "field")
    await cache.reset()
    counter = await app.cache_manager.create_counter("requests")
    assert_type(counter, Counter)
    assert_type(await counter.incrby("today", 3, 60), int)


async def decorated(app: App) -> None:
    """Decorate functions, which keep their parameters and results."""

    @app.cache.cached("user:{user_id}", ttl=60, stale=10)
    async def cached_user(user_id: int) -> dict[str, int]:
        return await user(user_id)

    @app.cache.cached("square:{number}")
    def square(number: int) -> int:
        return number * number

    assert_type(await cached_user(7), dict[str, int])
    assert_type(await square(number=7), int)


async def queue(app: App) -> None:
    """Publish with all options, and look after what failed."""
    try:
        id = await app.event_queue.publish(  # noqa: A001 - it is called so everywhere
            "render",
            {"report": 7},
            timeout=60,
            max_retries=5,
            backoff=lambda attempt: attempt * 2.0,
            delay=timedelta(seconds=3),
            dedup_id="report-7",
        )
    except OutcomeUnknown as error:
        assert_type(error.message_id, str | None)
    except BackendUnavailable:
        return
    else:
        assert_type(id, str)
    stats = await app.event_queue.stats("render")
    assert_type(stats, QueueStats)
    assert_type(stats.ready + stats.delayed + stats.in_flight + stats.dead, int)
    for letter in await app.event_queue.dead_letters("render", limit=10):
        assert_type(letter, DeadLetter)
        await app.event_queue.requeue("render", letter.id)
    assert_type(await app.event_queue.purge("render"), int)
    app.event_queue.unsubscribe("render")


async def locks(app: App) -> None:
    """Take locks in all four ways."""
    try:
        async with app.lock_manager.lock("migrate", ttl=30, wait=timedelta(seconds=5)) as lease:
            assert_type(lease, Lease)
            assert_type(lease.token, int)
            assert_type(lease.lost, asyncio.Event)
    except LockTimeout:
        return
    assert_type(await app.lock_manager.run_exclusive("user", lambda: user(7)), dict[str, int])
    assert_type(await app.lock_manager.run_exclusive("seven", lambda: 7, renew=False), int)
    lease = await app.lock_manager.try_acquire("schema", 0.5, ttl=2)
    await lease.extend(10)
    await lease.release()
    async with await app.lock_manager.acquire("index") as lease:
        assert_type(lease.expires_at, float)


async def main(session: AsyncSession) -> None:
    """Build an App, with every argument, and publish within a transaction."""
    app = App(
        "shop",
        backend="zmq+local://shop",
        cache="memory://",
        pub_sub=None,
        event_queue=None,
        lock="etcd://10.0.0.1:2379,10.0.0.2:2379",
        plugins=[Reports, Reports(), "installed"],
        worker_mode="!,reports",
        instance_id="one",
        grace=timedelta(seconds=20),
        max_message=1024 * 1024,
    )
    async with app as opened:
        assert_type(opened, App)
        assert_type(app.serving("reports"), bool)
        assert_type(app.plugins["reports"], Plugin)
        await app.pub_sub_manager.publish("cancel", 7, skip_self=False, transaction=session)
        await app.sync_message_manager.publish("settings", {"word": "x"}, transaction=session)
        await app.cache.set("key", 1, transaction=session)
        await asyncio.gather(caches(app), decorated(app), queue(app), locks(app))
    await app.stop(grace=0)
    App.from_env("shop", backend="memory://").run()


# --- what authors of adapters and bridges write ---


def lock_factory(url: BackendURL, context: AdapterContext) -> LockAdapter:
    """Build an adapter."""
    raise NotImplementedError


def unit_of_work(transaction: Any, callback: Callable[[], None]) -> bool:
    """Teach another kind of transaction."""
    return False


@hookimpl
def corekit_register_adapters(registry: AdapterRegistry) -> None:
    """Offer an adapter and a serializer."""
    registry.add_lock("mine", lock_factory)
    registry.add_serializer(complex, 64, lambda value: str(value).encode(), lambda data: data)


@hookimpl
def corekit_register_bridges(bridges: list[Bridge]) -> None:
    """Offer a bridge."""
    bridges.append(unit_of_work)
    AfterCommit(bridges)(object(), lambda: None)
