"""The after-commit bridge to Django."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from django.utils.connection import ConnectionDoesNotExist, ConnectionProxy

from ..arguments import shown
from ..errors import InvalidArgument


def bridge(transaction: Any, callback: Callable[[], None]) -> bool:
    """Arrange for *callback* as `corekit.transactions.Bridge` says.

    An alias means this thread's connection, as everywhere in Django. To pass another thread's
    transaction, get the connection there: `django.db.connections[alias]`.
    """
    if isinstance(transaction, str):
        transaction = _connection(transaction)
    elif not isinstance(transaction, BaseDatabaseWrapper | ConnectionProxy):
        return False
    try:
        transaction.on_commit(callback)
    except TransactionManagementError as error:
        raise InvalidArgument(
            "transaction: the Django connection is in manual transaction management, which tells "
            "nobody of its commits; use transaction.atomic()"
        ) from error
    except SynchronousOnlyOperation as error:
        raise InvalidArgument(
            "transaction: no atomic block is open in the event loop's thread, and a Django alias "
            "means this thread's connection; pass django.db.connections[alias], taken in the "
            "thread of the atomic block"
        ) from error
    return True


def _connection(alias: str) -> Any:
    try:
        return connections[alias]
    except ConnectionDoesNotExist as error:
        raise InvalidArgument(
            f"transaction: Django has no connection {shown(alias)}; it has: "
            f"{', '.join(map(repr, connections))}"
        ) from error
    except ImproperlyConfigured as error:
        raise InvalidArgument(
            f"transaction: Django has no connection {shown(alias)}: its settings are not set up"
        ) from error
