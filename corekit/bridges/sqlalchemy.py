"""The after-commit bridge to SQLAlchemy 2.

A Session tells when its commit has returned. A Connection tells only that it is about to commit, so
the driver's commit itself is followed, where the dialect calls it.

Neither tells which savepoint an event belongs to, and none is needed: savepoints are a stack.
Those that began before the first message was given hold nothing, and count as beginning at 0.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.pool import PoolProxiedConnection

from ..arguments import shown
from ..errors import InvalidArgument

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction


class _Waiting:
    """The callbacks that wait for one session's or connection's outermost commit."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        #: How many callbacks there were when each open savepoint began, the innermost last.
        self._savepoints: list[int] = []
        #: The session's innermost savepoint was released, and is about to end.
        self.released = False

    def __repr__(self) -> str:
        return f"<_Waiting {len(self._callbacks)} savepoints={self._savepoints}>"

    def add(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def begin_savepoint(self) -> None:
        self._savepoints.append(len(self._callbacks))

    def release_savepoint(self) -> None:
        if self._savepoints:
            self._savepoints.pop()

    def roll_back_savepoint(self) -> None:
        begin = self._savepoints.pop() if self._savepoints else 0
        del self._callbacks[begin:]

    def take(self) -> list[Callable[[], None]]:
        """Return the callbacks and wait for nothing any more."""
        callbacks = self._callbacks
        self._callbacks, self._savepoints, self.released = [], [], False
        return callbacks


#: Weak, so that what waits dies with its session or connection.
_SESSIONS: WeakKeyDictionary[Session, _Waiting] = WeakKeyDictionary()
_CONNECTIONS: WeakKeyDictionary[Connection, _Waiting] = WeakKeyDictionary()

#: What waits for the commit that the driver is about to be asked for, by the driver's connection.
_COMMITTING: WeakKeyDictionary[PoolProxiedConnection, _Waiting] = WeakKeyDictionary()

_FOLLOWED: WeakSet[Dialect] = WeakSet()
_FOLLOWING = threading.Lock()


def bridge(transaction: Any, callback: Callable[[], None]) -> bool:
    """Arrange for *callback* as `corekit.transactions.Bridge` says."""
    # Whoever holds such an object has loaded its module; the others need not be.
    orm = sys.modules.get("sqlalchemy.orm")
    extension = sys.modules.get("sqlalchemy.ext.asyncio")
    if orm and isinstance(transaction, orm.scoped_session):
        transaction = transaction()
    if extension and isinstance(transaction, extension.async_scoped_session):
        transaction = transaction()
    if extension and isinstance(transaction, extension.AsyncSession):
        transaction = transaction.sync_session
    if orm and isinstance(transaction, orm.Session):
        _wait_for_session(transaction, callback)
    elif extension and isinstance(transaction, extension.AsyncConnection):
        if transaction.sync_connection is None:
            raise InvalidArgument(f"transaction is not started: {shown(transaction)}")
        _wait_for_connection(transaction.sync_connection, callback, plain=False)
    elif isinstance(transaction, Connection):
        _wait_for_connection(transaction, callback, plain=True)
    else:
        return False
    return True


def _wait_for_session(session: Session, callback: Callable[[], None]) -> None:
    if not session.in_transaction():
        # As `session.add` would. Otherwise a rollback or close could not be told from nothing at
        # all, and the message would leave with some later transaction.
        session.begin()
    waiting = _SESSIONS.get(session)
    if waiting is None:
        # On the session, not on the class: other threads may be iterating over its listeners.
        event.listen(session, "after_transaction_create", _session_began)
        event.listen(session, "after_commit", _session_committed)
        event.listen(session, "after_transaction_end", _session_ended)
        waiting = _SESSIONS[session] = _Waiting()
    waiting.add(callback)


def _session_began(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        _SESSIONS[session].begin_savepoint()


def _session_committed(session: Session) -> None:
    # Not called when a commit fails. Called once every database of the session has committed.
    waiting = _SESSIONS[session]
    if session.in_nested_transaction():
        waiting.released = True
        return
    callbacks = waiting.take()
    outer = session.bind
    if isinstance(outer, Connection) and outer.in_transaction():
        # The session has joined a transaction of its connection, which is not committed yet.
        for callback in callbacks:
            _wait_for_connection(outer, callback, plain=True)
        return
    for callback in callbacks:
        callback()


def _session_ended(session: Session, transaction: SessionTransaction) -> None:
    waiting = _SESSIONS[session]
    if transaction.nested:
        if waiting.released:
            waiting.release_savepoint()
        else:
            waiting.roll_back_savepoint()
        waiting.released = False
    elif transaction.parent is None:
        waiting.take()


def _wait_for_connection(
    connection: Connection, callback: Callable[[], None], *, plain: bool
) -> None:
    """*plain*: the connection may be used here and now, which an AsyncConnection's may not."""
    if connection.closed:
        raise InvalidArgument(f"transaction is closed: {shown(connection)}")
    if _commits_itself(connection):
        callback()
        return
    if not connection.in_transaction():
        if not plain and connection.engine.dispatch.begin:
            raise InvalidArgument(
                "transaction has not begun: await the AsyncConnection's begin(), or execute "
                "something on it, before"
            )
        connection.begin()
    waiting = _CONNECTIONS.get(connection)
    if waiting is None:
        _follow_commits(connection.engine.dialect)
        event.listen(connection, "begin", _connection_began)
        event.listen(connection, "begin_twophase", _connection_began)
        event.listen(connection, "savepoint", _savepoint_began)
        event.listen(connection, "release_savepoint", _savepoint_released)
        event.listen(connection, "rollback_savepoint", _savepoint_rolled_back)
        event.listen(connection, "commit", _connection_commits)
        waiting = _CONNECTIONS[connection] = _Waiting()
    waiting.add(callback)


def _commits_itself(connection: Connection) -> bool:
    level = connection.get_execution_options().get("isolation_level")
    if level is None:
        # What `create_engine(isolation_level=...)` was given. To ask the driver would be I/O.
        level = getattr(connection.engine.dialect, "_on_connect_isolation_level", None)
    return level == "AUTOCOMMIT"


def _savepoint_began(connection: Connection, *_: object) -> None:
    _CONNECTIONS[connection].begin_savepoint()


def _savepoint_released(connection: Connection, *_: object) -> None:
    _CONNECTIONS[connection].release_savepoint()


def _savepoint_rolled_back(connection: Connection, *_: object) -> None:
    _CONNECTIONS[connection].roll_back_savepoint()


def _connection_began(connection: Connection, *_: object) -> None:
    # What still waits was rolled back, or its commit failed, which is not told.
    _CONNECTIONS[connection].take()


def _connection_commits(connection: Connection) -> None:
    if not connection.invalidated:
        _COMMITTING[connection.connection] = _CONNECTIONS[connection]


def _follow_commits(dialect: Dialect) -> None:
    """Call what waits for a connection when the driver's commit has returned."""
    with _FOLLOWING:
        if dialect in _FOLLOWED:
            return
        _FOLLOWED.add(dialect)
        do_commit, do_commit_twophase = dialect.do_commit, dialect.do_commit_twophase

        @wraps(do_commit)
        def commit(dbapi_connection: PoolProxiedConnection) -> None:
            waiting = None
            if isinstance(dbapi_connection, PoolProxiedConnection):
                waiting = _COMMITTING.pop(dbapi_connection, None)
            do_commit(dbapi_connection)
            for callback in waiting.take() if waiting else ():
                callback()

        @wraps(do_commit_twophase)
        def commit_twophase(connection: Connection, *arguments: Any, **options: Any) -> None:
            do_commit_twophase(connection, *arguments, **options)
            waiting = _CONNECTIONS.get(connection)
            for callback in waiting.take() if waiting else ():
                callback()

        # The dialect's methods are what SQLAlchemy lets others replace; there is no event.
        dialect.do_commit = commit  # type: ignore[method-assign]
        dialect.do_commit_twophase = commit_twophase  # type: ignore[method-assign]
