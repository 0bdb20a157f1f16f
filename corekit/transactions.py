"""Messages that wait for a transaction: sent after its outermost commit, never after a rollback.

What `transaction=` takes is told apart here. How one library's commit is noticed is the business of
its bridge in `corekit.bridges`, which is imported when the first object of that library arrives.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .arguments import is_async, shown
from .errors import InvalidType

logger = logging.getLogger("corekit.transactions")


class Bridge(Protocol):
    """Knows one kind of transaction object."""

    def __call__(self, transaction: Any, callback: Callable[[], None]) -> bool:
        """Arrange for *callback* after the outermost commit; False if of another kind.

        *callback* takes no arguments, never raises and may be called from any thread; a second call
        does nothing. It is called when the commit has returned, at once if there is nothing to
        commit because every statement commits itself; after a rollback of the transaction or of
        the savepoint in which it was given, after a failed commit and after a close, never. A
        bridge does not keep the transaction object alive, and the callback only as long as it.

        Raises InvalidArgument if the object is of its kind but cannot commit any more.
        """
        ...


class AfterCommit:
    """Calls functions after commits; *bridges* are asked in order, after the built-in ones."""

    def __init__(self, bridges: Iterable[Bridge] = ()) -> None:
        self._bridges: tuple[Bridge, ...] = (_sqlalchemy, _django, _own_method, *bridges)

    def __repr__(self) -> str:
        return f"<AfterCommit bridges={len(self._bridges)}>"

    def __call__(self, transaction: Any, callback: Callable[[], None]) -> None:
        """Call *callback* once, from any thread, when *transaction*'s outermost commit returned.

        *transaction* is a SQLAlchemy `Session`, `AsyncSession`, `Connection` or `AsyncConnection`,
        a Django connection alias, an object with a method `after_commit(callback)`, or of a kind
        that a hooked bridge knows. An error in *callback* is logged: the commit has succeeded.
        If the transaction is rolled back, fails to commit, or is given up, *callback* is dropped.

        Raises InvalidType for any other object, and InvalidArgument for one that is closed or has
        no transaction that could be committed; *callback* will then not be called.
        """
        call = _once(callback)
        for bridge in self._bridges:
            if bridge(transaction, call):
                return
        raise InvalidType(
            "transaction must be a SQLAlchemy Session, AsyncSession, Connection or "
            "AsyncConnection, the alias of a Django connection, or an object with a method "
            f"after_commit(callback), not {shown(transaction)}"
        )


def _once(callback: Callable[[], None]) -> Callable[[], None]:
    waiting = [callback]

    def call() -> None:
        try:
            # `pop` is atomic: of two threads that call, one gets it.
            function = waiting.pop()
        except IndexError:
            return
        try:
            function()
        except Exception:
            logger.exception("the transaction was committed, but what should follow it failed")

    return call


def _sqlalchemy(transaction: Any, callback: Callable[[], None]) -> bool:
    if not _is_from("sqlalchemy", transaction):
        return False
    from .bridges.sqlalchemy import bridge

    return bridge(transaction, callback)


def _django(transaction: Any, callback: Callable[[], None]) -> bool:
    # A str is an alias only where Django's connections are in use.
    is_alias = isinstance(transaction, str) and "django.db" in sys.modules
    if not is_alias and not _is_from("django", transaction):
        return False
    from .bridges.django import bridge

    return bridge(transaction, callback)


def _own_method(transaction: Any, callback: Callable[[], None]) -> bool:
    after_commit = getattr(transaction, "after_commit", None)
    if isinstance(transaction, type) or not callable(after_commit):
        return False
    if is_async(after_commit):
        raise InvalidType(
            f"transaction: after_commit of {shown(transaction)} must be a plain method, not async"
        )
    after_commit(callback)
    return True


def _is_from(library: str, value: object) -> bool:
    """Tell whether *value*'s class comes from *library*, without importing it."""
    return any(cls.__module__.partition(".")[0] == library for cls in type(value).__mro__)
