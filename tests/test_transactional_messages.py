"""Messages of every kind wait for a real commit: a database and the App together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from corekit import App, InvalidType, Plugin
from corekit.testing import eventually

INSERT = text("INSERT INTO setting DEFAULT VALUES")


class Watcher(Plugin):
    """Keeps what it hears."""

    name = "watcher"

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def handle_sync_message(self, message: Any) -> None:
        self.heard.append(message)


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[App, App, list[Any]]]:
    """Open two instances; the list is what the second one gets, by whatever way."""
    watcher = Watcher()
    async with App("shop", plugins=[Watcher]) as one, App("shop", plugins=[watcher]) as two:
        heard = watcher.heard

        async def handler(message: Any, *_: object) -> None:
            heard.append(message)

        await two.pub_sub_manager.subscribe("pub_sub", handler)
        await two.sync_message_manager.subscribe("sync", handler)
        two.event_queue.subscribe("jobs", handler)
        yield one, two, heard


SENDERS: dict[str, Callable[[App, str, Any], Awaitable[object]]] = {
    "pub_sub": lambda app, message, session: app.pub_sub_manager.publish(
        "pub_sub", message, transaction=session
    ),
    "sync": lambda app, message, session: app.sync_message_manager.publish(
        "sync", message, transaction=session
    ),
    "plugin": lambda app, message, session: app.plugins["watcher"].send_sync_message(
        message, transaction=session
    ),
    "jobs": lambda app, message, session: app.event_queue.publish(
        "jobs", message, transaction=session
    ),
}
every_sender = pytest.mark.parametrize("send", SENDERS.values(), ids=[*SENDERS])


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Return the path of a database with one table."""
    path = f"{tmp_path}/test.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE setting (id INTEGER PRIMARY KEY)"))
    engine.dispose()
    return path


@every_sender
async def test_a_message_leaves_after_the_commit_and_never_after_a_rollback(
    database: str, send: Callable[[App, str, Any], Awaitable[object]]
) -> None:
    """`publish` returns at once; others hear of it when they can read what was committed."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}", poolclass=NullPool)
    async with cluster() as (one, _, heard), AsyncSession(engine) as session:
        await session.execute(INSERT)
        await send(one, "rolled back", session)
        await session.rollback()
        await session.execute(INSERT)
        await send(one, "committed", session)
        await send(one, "at once", None)
        await eventually(lambda: heard)
        assert heard == ["at once"]
        await session.commit()
        await eventually(lambda: len(heard) == 2)
        assert heard == ["at once", "committed"]
    await engine.dispose()


@every_sender
async def test_a_commit_in_another_thread_sends(
    database: str, send: Callable[[App, str, Any], Awaitable[object]]
) -> None:
    """A sync Session is used and committed in a worker thread, while the App has its loop."""
    engine = sqlalchemy.create_engine(f"sqlite:///{database}", poolclass=NullPool)
    async with cluster() as (one, _, heard):
        loop = asyncio.get_running_loop()

        def view() -> None:
            with Session(engine) as session, session.begin():
                session.execute(INSERT)

                async def publish() -> None:
                    await send(one, "from a thread", session)

                asyncio.run_coroutine_threadsafe(publish(), loop).result(10)

        await asyncio.to_thread(view)
        await eventually(lambda: heard == ["from a thread"])


async def test_cache_writes_wait_too(database: str) -> None:
    """What a rolled-back transaction would have cached or deleted stays as it was."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}", poolclass=NullPool)
    async with App("shop") as app, AsyncSession(engine) as session:
        await app.cache.set("kept", "old")
        await session.execute(INSERT)
        await app.cache.set("key", "new", transaction=session)
        await app.cache.delete("kept", transaction=session)
        await session.rollback()
        assert await app.cache.mget(["key", "kept"]) == [None, "old"]
        await session.execute(INSERT)
        await app.cache.set("key", "new", transaction=session)
        await app.cache.delete("kept", transaction=session)
        assert await app.cache.mget(["key", "kept"]) == [None, "old"]
        await session.commit()
        seen: list[Any] = []
        async with asyncio.timeout(10):
            while seen != ["new", None]:
                seen = await app.cache.mget(["key", "kept"])
                await asyncio.sleep(0)
    await engine.dispose()


@every_sender
async def test_a_wrong_transaction_is_refused_before_anything_is_sent(
    send: Callable[[App, str, Any], Awaitable[object]],
) -> None:
    """InvalidType, at the call that was given it."""
    async with cluster() as (one, _, heard):
        with pytest.raises(InvalidType, match="transaction must be a SQLAlchemy Session"):
            await send(one, "refused", object())
        await send(one, "sent", None)
        await eventually(lambda: heard)
        assert heard == ["sent"]
