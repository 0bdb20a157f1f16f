"""corekit.bridges.sqlalchemy: nothing leaves before the outermost commit has returned."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, Engine, NestedTransaction
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    SessionTransaction,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import NullPool

from corekit.errors import InvalidArgument, InvalidType
from corekit.transactions import AfterCommit

PARENT = text("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
CHILD = text(
    "CREATE TABLE child (id INTEGER PRIMARY KEY,"
    " parent INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)"
)
INSERT = text("INSERT INTO parent DEFAULT VALUES")
#: Accepted as a statement, refused at COMMIT: the foreign key is deferred.
INSERT_ORPHAN = text("INSERT INTO child (parent) VALUES (99)")
COUNT = text("SELECT count(*) FROM parent")


def real_transactions(engine: Engine) -> None:
    """Let SQLAlchemy, not the sqlite3 module, begin transactions: savepoints need it."""

    @event.listens_for(engine, "connect")
    def connect(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Return a database with two tables, in a file."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/test.db", poolclass=NullPool)
    real_transactions(engine)
    with engine.begin() as connection:
        connection.execute(PARENT)
        connection.execute(CHILD)
    yield engine
    engine.dispose()


class Sent:
    """What left, and how many rows another connection saw at that moment."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.after_commit = AfterCommit()
        self.messages: list[str] = []
        self.rows_seen: list[int] = []

    def message(self, transaction: object, text: str) -> None:
        """Send *text* after the commit of *transaction*."""

        def send() -> None:
            self.messages.append(text)
            with self.engine.connect() as other:
                self.rows_seen.append(other.execute(COUNT).scalar_one())

        self.after_commit(transaction, send)


@pytest.fixture
def sent(engine: Engine) -> Sent:
    """Return a recorder whose callbacks look at the database."""
    return Sent(engine)


# --- SQLAlchemy: Session ------------------------------------------------------------------------


def test_a_session_sends_after_its_commit_and_once(engine: Engine, sent: Sent) -> None:
    """A message leaves when the commit has returned, so others see the data; and only once."""
    with Session(engine) as session:
        session.execute(INSERT)
        sent.message(session, "a")
        assert sent.messages == []
        session.commit()
        assert sent.messages == ["a"]
        assert sent.rows_seen == [1]
        session.execute(INSERT)
        session.commit()
    assert sent.messages == ["a"]


@pytest.mark.parametrize("end", [Session.rollback, Session.close, Session.reset])
def test_a_session_that_does_not_commit_sends_nothing(
    engine: Engine, sent: Sent, end: Callable[[Session], None]
) -> None:
    """Rollback and close drop the messages; the next transaction of the session sends its own."""
    session = Session(engine)
    session.execute(INSERT)
    sent.message(session, "dropped")
    end(session)
    session.execute(INSERT)
    sent.message(session, "second")
    session.commit()
    session.close()
    assert sent.messages == ["second"]


def test_a_session_that_begins_with_the_message_sends_it(engine: Engine, sent: Sent) -> None:
    """A message begins the session's transaction as `add` does: commit sends, rollback drops."""
    with Session(engine) as session:
        sent.message(session, "dropped")
        session.rollback()
        sent.message(session, "dropped too")
        session.close()
        sent.message(session, "sent")
        session.commit()
    assert sent.messages == ["sent"]


def test_a_failed_commit_of_a_session_sends_nothing(engine: Engine, sent: Sent) -> None:
    """COMMIT fails in the database (a deferred foreign key): nothing leaves, then or later."""
    with Session(engine) as session:
        session.execute(INSERT_ORPHAN)
        sent.message(session, "dropped")
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.execute(INSERT)
        session.commit()
    assert sent.messages == []


def test_a_failed_flush_sends_nothing(engine: Engine, sent: Sent) -> None:
    """A flush that fails rolls its savepoint or transaction back, and with it the messages."""

    class Base(DeclarativeBase):
        pass

    class Parent(Base):
        __tablename__ = "parent"
        id: Mapped[int] = mapped_column(primary_key=True)

    with Session(engine) as session:
        session.execute(INSERT)
        sent.message(session, "sent")
        savepoint = session.begin_nested()
        session.add(Parent(id=1))
        sent.message(session, "dropped with the savepoint")
        with pytest.raises(IntegrityError):
            savepoint.commit()
        savepoint.rollback()
        session.commit()
        assert sent.messages == ["sent"]
        session.add(Parent(id=1))
        sent.message(session, "dropped with the transaction")
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.execute(INSERT)
        session.commit()
    assert sent.messages == ["sent"]


STEPS = st.lists(
    st.sampled_from(
        ["write", "write", "begin", "begin", "release", "roll back", "commit", "abort"]
    ),
    min_size=5,
    max_size=25,
)


@pytest.mark.parametrize("kind", ["session", "connection"])
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_messages_leave_exactly_with_their_rows(
    engine: Engine, kind: str, steps: list[str]
) -> None:
    """Whatever is nested, released and rolled back: a message leaves if its row is committed."""
    after_commit = AfterCommit()
    left: list[int] = []
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM parent"))
    savepoints: list[SessionTransaction | NestedTransaction] = []
    with Session(engine) if kind == "session" else engine.connect() as transaction:
        for number, step in enumerate(steps):
            if step == "write":
                transaction.execute(text("INSERT INTO parent VALUES (:id)"), {"id": number})
                after_commit(transaction, lambda number=number: left.append(number))  # type: ignore[misc]
            elif step == "begin":
                savepoints.append(transaction.begin_nested())
            elif step in {"release", "roll back"} and savepoints:
                savepoint = savepoints.pop()
                savepoint.commit() if step == "release" else savepoint.rollback()
            elif step in {"commit", "abort"}:
                transaction.commit() if step == "commit" else transaction.rollback()
                savepoints.clear()
        transaction.commit()
    with engine.connect() as reader:
        assert left == [*reader.execute(text("SELECT id FROM parent ORDER BY id")).scalars()]


def test_a_savepoint_of_a_session_drops_its_own_messages(engine: Engine, sent: Sent) -> None:
    """A savepoint that is rolled back takes its messages with it, also released inner ones."""
    with Session(engine) as session, session.begin():
        sent.message(session, "1")
        with session.begin_nested():
            sent.message(session, "2")
            rolled_back = session.begin_nested()
            sent.message(session, "dropped")
            with session.begin_nested():
                sent.message(session, "dropped: its outer savepoint is rolled back")
            rolled_back.rollback()
            sent.message(session, "3")
        sent.message(session, "4")
        assert sent.messages == []
    assert sent.messages == ["1", "2", "3", "4"]


def test_savepoints_that_began_before_the_first_message_count(engine: Engine, sent: Sent) -> None:
    """The first message may come deep inside: each of its savepoints can still drop it."""
    with Session(engine) as session, session.begin():
        outer = session.begin_nested()
        inner = session.begin_nested()
        sent.message(session, "dropped with the outer")
        inner.commit()
        outer.rollback()
        outer = session.begin_nested()
        with session.begin_nested():
            sent.message(session, "kept")
        outer.commit()
    assert sent.messages == ["kept"]


def test_a_commit_inside_savepoints_sends_all(engine: Engine, sent: Sent) -> None:
    """`Session.commit` commits the outermost transaction, whatever savepoints are open."""
    with Session(engine) as session:
        session.begin()
        sent.message(session, "1")
        session.begin_nested()
        sent.message(session, "2")
        session.begin_nested()
        sent.message(session, "3")
        session.commit()
    assert sent.messages == ["1", "2", "3"]


def test_closing_inside_savepoints_sends_nothing(engine: Engine, sent: Sent) -> None:
    """A session closed with open savepoints drops everything, and starts afresh."""
    session = Session(engine)
    session.begin()
    sent.message(session, "dropped")
    session.begin_nested()
    sent.message(session, "dropped")
    session.close()
    with session.begin():
        sent.message(session, "sent")
    session.close()
    assert sent.messages == ["sent"]


@pytest.mark.parametrize("mode", ["rollback_only", "create_savepoint", "conditional_savepoint"])
def test_a_session_inside_its_connections_transaction_waits_for_it(
    engine: Engine, sent: Sent, mode: str
) -> None:
    """A session that joined a connection's transaction has not committed until that one has."""
    with engine.connect() as connection:
        outer = connection.begin()
        session = Session(connection, join_transaction_mode=mode)  # type: ignore[arg-type]
        session.execute(INSERT)
        sent.message(session, "sent")
        session.commit()
        session.close()
        assert sent.messages == []
        outer.commit()
        assert sent.messages == ["sent"]
        with connection.begin() as outer:
            session = Session(connection, join_transaction_mode=mode)  # type: ignore[arg-type]
            sent.message(session, "dropped")
            session.commit()
            session.close()
            outer.rollback()
    assert sent.messages == ["sent"]
    assert sent.rows_seen == [1]


def test_scoped_sessions_and_subclasses_are_sessions(engine: Engine, sent: Sent) -> None:
    """What `sessionmaker` and `scoped_session` make is accepted."""
    maker = sessionmaker(engine)
    with maker.begin() as session:
        sent.message(session, "maker")
    registry = scoped_session(maker)
    sent.message(registry, "scoped")
    registry.commit()
    registry.remove()
    assert sent.messages == ["maker", "scoped"]


def test_a_two_phase_session_sends_after_the_second_phase(engine: Engine, sent: Sent) -> None:
    """With `twophase=True` PREPARE sends nothing; SQLite has none, so the dialect plays it."""
    steps: list[str] = []
    dialect = engine.dialect
    dialect.do_begin_twophase = lambda *_: None  # type: ignore[method-assign]
    dialect.do_prepare_twophase = lambda *_: steps.append("prepare")  # type: ignore[method-assign]
    dialect.do_commit_twophase = lambda *_: steps.append("commit")  # type: ignore[method-assign]
    after_commit = AfterCommit()
    with Session(engine, twophase=True) as session:
        session.execute(COUNT)
        after_commit(session, lambda: steps.append("session"))
        after_commit(session.connection(), lambda: steps.append("connection"))
        session.commit()
    assert steps == ["prepare", "commit", "connection", "session"]


# --- SQLAlchemy: Connection ---------------------------------------------------------------------


def test_a_connection_sends_when_the_drivers_commit_has_returned(
    engine: Engine, sent: Sent
) -> None:
    """SQLAlchemy's event comes before the driver's commit; the message only after it."""
    with engine.connect() as connection:
        connection.execute(INSERT)
        sent.message(connection, "a")
        assert sent.messages == []
        connection.commit()
        assert sent.messages == ["a"]
        connection.execute(INSERT)
        connection.commit()
    with engine.begin() as connection:
        connection.execute(INSERT)
        sent.message(connection, "b")
    assert sent.messages == ["a", "b"]
    assert sent.rows_seen == [1, 3]


@pytest.mark.parametrize("end", [Connection.rollback, Connection.close, Connection.invalidate])
def test_a_connection_that_does_not_commit_sends_nothing(
    engine: Engine, sent: Sent, end: Callable[[Connection], None]
) -> None:
    """Rollback, close and a lost connection drop the messages, for whoever comes next."""
    with engine.connect() as connection:
        connection.execute(INSERT)
        sent.message(connection, "dropped")
        end(connection)
        if not connection.closed:
            connection.rollback()
            connection.execute(INSERT)
            connection.commit()
    with engine.begin() as connection:
        connection.execute(INSERT)
    assert sent.messages == []


def test_a_failed_commit_of_a_connection_sends_nothing(engine: Engine, sent: Sent) -> None:
    """COMMIT fails in the database: nothing leaves, not with the next commit either."""
    with engine.connect() as connection:
        connection.execute(INSERT_ORPHAN)
        sent.message(connection, "dropped")
        with pytest.raises(IntegrityError):
            connection.commit()
        connection.rollback()
        # SQLAlchemy believes that a failed COMMIT ends the transaction; in SQLite it does not.
        connection.connection.rollback()
        connection.execute(INSERT)
        connection.commit()
    assert sent.messages == []


def test_a_refused_commit_of_a_connection_sends_nothing(engine: Engine, sent: Sent) -> None:
    """A listener of the application refuses the commit: nothing leaves, then or later."""
    with engine.connect() as connection:
        sent.message(connection, "dropped")
        refuse = True

        @event.listens_for(connection, "commit")
        def commit(_: Connection) -> None:
            if refuse:
                raise RuntimeError("refused")

        with pytest.raises(RuntimeError, match="refused"):
            connection.commit()
        connection.rollback()
        # SQLAlchemy believes that a failed COMMIT ends the transaction; in SQLite it does not.
        connection.connection.rollback()
        refuse = False
        connection.execute(INSERT)
        connection.commit()
    assert sent.messages == []


def test_a_connection_that_begins_with_the_message_sends_it(engine: Engine, sent: Sent) -> None:
    """A message begins the connection's transaction as a statement does."""
    with engine.connect() as connection:
        sent.message(connection, "dropped")
        connection.rollback()
        sent.message(connection, "sent")
        connection.commit()
    assert sent.messages == ["sent"]


def test_a_savepoint_of_a_connection_drops_its_own_messages(engine: Engine, sent: Sent) -> None:
    """Savepoints of a connection behave as those of a session do."""
    with engine.begin() as connection:
        early = connection.begin_nested()
        sent.message(connection, "1")
        early.commit()
        with connection.begin_nested():
            sent.message(connection, "2")
            rolled_back = connection.begin_nested()
            sent.message(connection, "dropped")
            with connection.begin_nested():
                sent.message(connection, "dropped: its outer savepoint is rolled back")
            rolled_back.rollback()
            sent.message(connection, "3")
        assert sent.messages == []
    assert sent.messages == ["1", "2", "3"]


@pytest.mark.parametrize("engine_wide", [True, False])
def test_a_connection_in_autocommit_sends_at_once(sent: Sent, *, engine_wide: bool) -> None:
    """Where every statement commits itself there is no commit to wait for."""
    level = {"isolation_level": "AUTOCOMMIT"}
    engine = sqlalchemy.create_engine("sqlite://", **(level if engine_wide else {}))
    with engine.connect() as connection:
        if not engine_wide:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        left: list[str] = []
        sent.after_commit(connection, lambda: left.append("now"))
        assert left == ["now"]
        connection.rollback()
    engine.dispose()


def test_a_closed_connection_is_refused(engine: Engine, sent: Sent) -> None:
    """What can never commit is an error, not a message that silently never leaves."""
    with engine.connect() as connection:
        pass
    with pytest.raises(InvalidArgument, match="transaction is closed"):
        sent.message(connection, "never")


def test_pooled_connections_do_not_inherit_messages(tmp_path: Path) -> None:
    """The driver's connection is reused by the pool; what waited for its last user is not."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/pool.db", pool_size=1, max_overflow=0)
    left: list[int] = []
    after_commit = AfterCommit()
    for number in range(4):
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            after_commit(connection, lambda number=number: left.append(number))  # type: ignore[misc]
            if number % 2:
                connection.commit()
    engine.dispose()
    assert left == [1, 3]


def test_two_engines_and_threads_keep_their_messages_apart(tmp_path: Path) -> None:
    """Connections of several threads commit at the same time, each sends its own."""
    left: list[tuple[int, int]] = []
    after_commit = AfterCommit()

    def work(worker: int) -> None:
        engine = engines[worker % 2]
        for turn in range(50):
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
                after_commit(connection, lambda turn=turn: left.append((worker, turn)))  # type: ignore[misc]
                if turn % 2:
                    connection.commit()
                else:
                    connection.rollback()

    engines = [
        sqlalchemy.create_engine(f"sqlite:///{tmp_path}/{name}.db", poolclass=NullPool)
        for name in ("one", "two")
    ]
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(left) == [(worker, turn) for worker in range(6) for turn in range(1, 50, 2)]


# --- SQLAlchemy: asyncio ------------------------------------------------------------------------


@asynccontextmanager
async def async_database(tmp_path: Path, *, begin: bool = True) -> AsyncIterator[AsyncEngine]:
    """Open a database for asyncio; with *begin*, SQLAlchemy and not the driver begins."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/async.db", poolclass=NullPool)
    if begin:
        real_transactions(engine.sync_engine)
    async with engine.begin() as connection:
        await connection.execute(PARENT)
        await connection.execute(CHILD)
    try:
        yield engine
    finally:
        await engine.dispose()


async def test_an_async_session_sends_after_its_commit(tmp_path: Path) -> None:
    """AsyncSession: after the commit, not after rollback, close, or a rolled-back savepoint."""
    left: list[str] = []
    after_commit = AfterCommit()
    async with async_database(tmp_path) as engine, AsyncSession(engine) as session:
        after_commit(session, lambda: left.append("dropped"))
        await session.rollback()
        await session.execute(INSERT)
        after_commit(session, lambda: left.append("1"))
        async with session.begin_nested():
            after_commit(session, lambda: left.append("2"))
        savepoint = await session.begin_nested()
        after_commit(session, lambda: left.append("dropped"))
        await savepoint.rollback()
        assert left == []
        await session.commit()
        assert left == ["1", "2"]
        await session.execute(INSERT)
        after_commit(session, lambda: left.append("dropped"))
        await session.close()
        await session.execute(INSERT_ORPHAN)
        after_commit(session, lambda: left.append("dropped"))
        with pytest.raises(IntegrityError):
            await session.commit()
        await session.rollback()
        async with session.begin():
            after_commit(session, lambda: left.append("3"))
    assert left == ["1", "2", "3"]


async def test_an_async_scoped_session_is_accepted(tmp_path: Path) -> None:
    """`async_scoped_session` stands for the session of this task."""
    left: list[str] = []
    async with async_database(tmp_path) as engine:
        registry = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        AfterCommit()(registry, lambda: left.append("scoped"))
        await registry.commit()
        await registry.remove()
    assert left == ["scoped"]


async def test_an_async_connection_sends_after_the_drivers_commit(tmp_path: Path) -> None:
    """AsyncConnection: another connection sees the data when the message leaves."""
    left: list[str] = []
    after_commit = AfterCommit()
    async with async_database(tmp_path) as engine, engine.connect() as connection:
        other = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/async.db", poolclass=NullPool)

        def look() -> None:
            with other.connect() as reader:
                left.append(f"rows: {reader.execute(COUNT).scalar_one()}")

        await connection.execute(INSERT)
        after_commit(connection, look)
        async with connection.begin_nested():
            after_commit(connection, lambda: left.append("kept"))
        savepoint = await connection.begin_nested()
        after_commit(connection, lambda: left.append("dropped"))
        await savepoint.rollback()
        assert left == []
        await connection.commit()
        assert left == ["rows: 1", "kept"]
        await connection.execute(INSERT)
        after_commit(connection, lambda: left.append("dropped"))
        await connection.rollback()
        await connection.execute(INSERT_ORPHAN)
        after_commit(connection, lambda: left.append("dropped"))
        with pytest.raises(IntegrityError):
            await connection.commit()
    assert left == ["rows: 1", "kept"]


async def test_async_commits_that_overlap_send_their_own(tmp_path: Path) -> None:
    """While one driver's commit is awaited, others begin and end: nothing is mixed up."""
    left: list[int] = []
    after_commit = AfterCommit()
    async with async_database(tmp_path, begin=False) as engine:

        async def work(number: int) -> None:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                after_commit(connection, lambda: left.append(number))
                await (connection.commit() if number % 2 else connection.rollback())

        await asyncio.gather(*(work(number) for number in range(20)))
    assert sorted(left) == list(range(1, 20, 2))


async def test_an_async_connection_without_transaction_begins_one(tmp_path: Path) -> None:
    """It begins as a statement would begin it: commit sends, rollback drops."""
    left: list[str] = []
    after_commit = AfterCommit()
    async with (
        async_database(tmp_path, begin=False) as engine,
        engine.connect() as connection,
    ):
        after_commit(connection, lambda: left.append("dropped"))
        await connection.rollback()
        after_commit(connection, lambda: left.append("sent"))
        await connection.commit()
    assert left == ["sent"]


async def test_an_async_connection_that_cannot_begin_here_is_refused(tmp_path: Path) -> None:
    """Where beginning needs I/O (a `begin` listener) the error says what to do."""
    left: list[str] = []
    after_commit = AfterCommit()
    async with async_database(tmp_path) as engine:
        async with engine.connect() as connection:
            with pytest.raises(InvalidArgument, match=r"await the AsyncConnection's begin\(\)"):
                after_commit(connection, lambda: left.append("refused"))
            async with connection.begin():
                after_commit(connection, lambda: left.append("sent"))
        unstarted: AsyncConnection = engine.connect()
        with pytest.raises(InvalidArgument, match="not started"):
            after_commit(unstarted, lambda: left.append("refused"))
    assert left == ["sent"]


# --- lifetimes and errors -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["session", "connection"])
def test_callbacks_die_with_their_session(engine: Engine, kind: str) -> None:
    """A session or connection that is let go takes what waited with it; nothing is kept."""

    class Callback:
        def __call__(self) -> None:
            raise AssertionError("never committed")

    after_commit = AfterCommit()
    callback = Callback()
    transaction: Session | Connection = Session(engine) if kind == "session" else engine.connect()
    transaction.execute(INSERT)
    after_commit(transaction, callback)
    gone: list[weakref.ref[Any]] = [weakref.ref(callback), weakref.ref(transaction)]
    transaction.close()
    del callback, transaction
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_many_sessions_leave_nothing_behind(engine: Engine) -> None:
    """Neither our tables nor SQLAlchemy's registry of listeners grow with the sessions."""
    from sqlalchemy.event import registry

    from corekit.bridges import sqlalchemy as bridge

    after_commit = AfterCommit()

    def use() -> None:
        for _ in range(20):
            with Session(engine) as session, session.begin():
                after_commit(session, lambda: None)
            with engine.begin() as connection:
                after_commit(connection, lambda: None)
        gc.collect()

    def sizes() -> list[object]:
        return [
            engine.dialect.do_commit,
            len(bridge._SESSIONS),
            len(bridge._CONNECTIONS),
            len(bridge._COMMITTING),
            len(registry._key_to_collection),
        ]

    use()
    before = sizes()
    use()
    assert sizes() == before
    assert before[1:4] == [0, 0, 0]


def test_a_callback_that_fails_does_not_hurt_the_commit(
    engine: Engine, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged as an error, the commit stands, and the callbacks after it are called."""

    def fail() -> None:
        raise RuntimeError("backend away")

    for transaction in (Session(engine), engine.connect()):
        with transaction, transaction.begin():
            sent.after_commit(transaction, fail)
            sent.message(transaction, "after it")
            transaction.execute(INSERT)
    assert sent.messages == ["after it", "after it"]
    assert sent.rows_seen == [1, 2]
    errors = [record for record in caplog.records if record.name == "corekit.transactions"]
    assert [record.levelno for record in errors] == [logging.ERROR] * 2
    assert "backend away" in caplog.text


def test_sqlalchemy_objects_that_are_no_transaction_are_refused(engine: Engine) -> None:
    """An Engine, a sessionmaker or a class of sessions has no commit to wait for."""
    for wrong in (engine, sessionmaker(engine), Session, text("SELECT 1")):
        with pytest.raises(InvalidType):
            AfterCommit()(wrong, lambda: None)


def test_core_users_do_not_load_the_orm() -> None:
    """A Connection does not bring in `sqlalchemy.orm` or `sqlalchemy.ext.asyncio`."""
    program = """
import sys, sqlalchemy
from corekit.transactions import AfterCommit
with sqlalchemy.create_engine("sqlite://").begin() as connection:
    AfterCommit()(connection, lambda: print("sent", end=" "))
print([name for name in ("sqlalchemy.orm", "sqlalchemy.ext.asyncio") if name in sys.modules])
"""
    assert _output(program) == "sent []"


def test_an_operational_error_in_commit_keeps_its_type(engine: Engine, sent: Sent) -> None:
    """Following the driver's commit changes nothing about SQLAlchemy's errors."""
    with engine.connect() as reader, engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
        connection.rollback()
        reader.execute(COUNT)
        connection.execute(INSERT)
        sent.message(connection, "dropped")
        with pytest.raises(OperationalError, match="locked"):
            connection.commit()
    assert sent.messages == []


def _output(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()
