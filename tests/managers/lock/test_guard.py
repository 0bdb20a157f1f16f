"""Guards: a write of a holder that was overtaken is refused where it happens."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from corekit.errors import InvalidArgument, InvalidType, LockLost
from corekit.managers.guard import FENCE_TABLE


@pytest.fixture
def database(tmp_path):
    """Return a database with an account and the table of tokens."""
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.execute(FENCE_TABLE)
    connection.execute("CREATE TABLE account (balance INTEGER)")
    connection.execute("INSERT INTO account VALUES (0)")
    connection.commit()
    yield connection
    connection.close()


def write(database, lease, style="named"):
    """Add 1 to the balance, if the guard lets the lease pass."""
    with database:
        changed = database.execute(*lease.guard.sql(style)).rowcount
        database.execute("UPDATE account SET balance = balance + 1")
        lease.guard.passed(changed)


def balance(database):
    """Return the balance."""
    return database.execute("SELECT balance FROM account").fetchone()[0]


@pytest.mark.parametrize("style", ["named", "qmark"])
async def test_a_paused_holder_is_refused(locks, clock, database, style):
    """A holder that was paused past its lease cannot write once the next one has written."""
    async with locks.running("shop", "shop") as (a, b):
        old = await a.acquire("account", 10)
        write(database, old, style)
        write(database, old, style)
        clock.jump(15)
        new = await b.acquire("account", 10)
        write(database, new, style)
        with pytest.raises(LockLost, match="later holder"):
            write(database, old, style)
        assert balance(database) == 3
        write(database, new, style)
        assert balance(database) == 4


async def test_locks_and_applications_are_apart(locks, database):
    """Tokens of other keys, and of other applications, do not matter."""
    async with locks.running("shop", "other") as (a, b):
        first = await a.acquire("x")
        for lease in (await a.acquire("y"), await b.acquire("x"), first):
            write(database, lease)
        assert balance(database) == 3


async def test_with_sqlalchemy(locks, tmp_path):
    """The statement and its parameters fit SQLAlchemy's text()."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    async with engine.begin() as connection:
        await connection.execute(text(FENCE_TABLE))
    async with locks.running("shop") as (a,):
        old = await a.acquire("x")
        await old.release()
        new = await a.acquire("x")
        for lease in (new, old):
            async with engine.connect() as connection:
                statement, parameters = lease.guard.sql()
                result = await connection.execute(text(statement), parameters)
                if lease is old:
                    with pytest.raises(LockLost):
                        lease.guard.passed(result.rowcount)
                else:
                    lease.guard.passed(result.rowcount)
                    await connection.commit()
    await engine.dispose()


async def test_the_styles_of_drivers(locks):
    """Each driver gets placeholders and parameters as it wants them; others are refused."""
    async with locks.running("shop") as (a,):
        guard = (await a.acquire("x")).guard
        named = {"name": "shop/lock/x", "token": guard.token}
        assert "(%(name)s, %(token)s)" in guard.sql("pyformat")[0]
        assert guard.sql("pyformat")[1] == guard.sql()[1] == named
        assert "($1, $2)" in guard.sql("dollar")[0]
        assert guard.sql("dollar")[1] == ("shop/lock/x", guard.token)
        with pytest.raises(InvalidArgument, match="named, pyformat"):
            guard.sql("format")


async def test_comparing_tokens(locks):
    """A newer token is LockLost; an older one, the same, and none are fine; others are refused."""
    async with locks.running("shop") as (a,):
        guard = (await a.acquire("x")).guard
        for newest in (None, 0, guard.token - 1, guard.token):
            guard.check(newest)
        with pytest.raises(LockLost):
            guard.check(guard.token + 1)
        for nonsense in ("1", 1.0, True, b"1"):
            with pytest.raises(InvalidType):
                guard.check(nonsense)
            with pytest.raises(InvalidType):
                guard.passed(nonsense)
