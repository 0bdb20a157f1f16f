"""corekit.transactions with Django: aliases and connections, in atomic blocks and without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from django.db import IntegrityError, connections, transaction

from corekit.errors import InvalidArgument, InvalidType
from corekit.transactions import AfterCommit

if not settings.configured:
    settings.configure(
        DATABASES={
            name: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
            for name in ("default", "other")
        },
        USE_TZ=True,
    )
    django.setup()


@pytest.fixture(autouse=True)
def databases(tmp_path: Path) -> Iterator[None]:
    """Use database files of this test's own, with two tables."""
    for name in ("default", "other"):
        connection = connections[name]
        connection.close()
        connection.settings_dict["NAME"] = str(tmp_path / f"{name}.db")
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
            cursor.execute(
                "CREATE TABLE child (id INTEGER PRIMARY KEY,"
                " parent INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)"
            )
    yield
    connections.close_all()


@pytest.fixture
def left() -> list[str]:
    """Return the list into which messages leave."""
    return []


def message(left: list[str], text: str, using: Any = "default") -> None:
    """Let *text* leave after the commit of *using*."""
    AfterCommit()(using, lambda: left.append(text))


def execute(sql: str, using: str = "default") -> None:
    """Execute one statement."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql)


def test_an_alias_sends_after_the_outermost_atomic_block(left: list[str]) -> None:
    """Inner blocks are savepoints: only the outermost commit lets the messages leave."""
    with transaction.atomic():
        message(left, "1")
        with transaction.atomic():
            message(left, "2")
        with transaction.atomic(savepoint=False):
            message(left, "3")
        assert left == []
    assert left == ["1", "2", "3"]


def test_a_rolled_back_savepoint_drops_its_own(left: list[str]) -> None:
    """What was given inside a rolled-back block is dropped, released inner blocks included."""
    with transaction.atomic():
        message(left, "1")
        with suppress(RuntimeError), transaction.atomic():
            message(left, "dropped")
            with transaction.atomic():
                message(left, "dropped")
            raise RuntimeError
        message(left, "2")
    assert left == ["1", "2"]


def test_a_rollback_or_a_failed_commit_sends_nothing(left: list[str]) -> None:
    """An exception, set_rollback, and a COMMIT that the database refuses drop the messages."""
    with suppress(RuntimeError), transaction.atomic():
        message(left, "dropped")
        raise RuntimeError
    with transaction.atomic():
        message(left, "dropped")
        transaction.set_rollback(True)

    @transaction.atomic  # type: ignore[untyped-decorator]  # Django has no types
    def orphan() -> None:
        execute("INSERT INTO child (parent) VALUES (99)")
        message(left, "dropped")

    with pytest.raises(IntegrityError):
        orphan()
    with transaction.atomic():
        execute("INSERT INTO parent DEFAULT VALUES")
    assert left == []


def test_without_an_atomic_block_a_message_leaves_at_once(left: list[str]) -> None:
    """In autocommit every statement commits itself, as Django's own on_commit has it."""
    message(left, "now")
    assert left == ["now"]


def test_manual_transaction_management_is_refused(left: list[str]) -> None:
    """With autocommit off Django tells nobody of commits: an error, not a lost message."""
    transaction.set_autocommit(False)
    try:
        with pytest.raises(InvalidArgument, match="manual transaction management"):
            message(left, "refused")
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert left == []


def test_aliases_are_kept_apart(left: list[str]) -> None:
    """Each alias has its own transaction; an unknown one is named with those that exist."""
    with transaction.atomic(using="default"):
        with transaction.atomic(using="other"):
            message(left, "default", "default")
            message(left, "other", "other")
        assert left == ["other"]
    assert left == ["other", "default"]
    for wrong in ("third", ""):
        with pytest.raises(InvalidArgument, match=r"no connection '.*'; it has: 'default', 'oth"):
            message(left, "refused", wrong)


def test_a_callback_that_fails_does_not_hurt_the_commit(
    left: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Django would raise it out of the atomic block, and forget the callbacks after it."""

    def fail() -> None:
        raise RuntimeError("backend away")

    with transaction.atomic():
        AfterCommit()("default", fail)
        message(left, "after it")
        transaction.on_commit(lambda: left.append("the application's own"))
    assert left == ["after it", "the application's own"]
    assert "backend away" in caplog.text


async def test_an_alias_in_the_event_loop_is_refused(left: list[str]) -> None:
    """The loop's thread has no transaction; to send at once might be before another's commit."""
    with pytest.raises(InvalidArgument, match=r"pass django.db.connections\[alias\]"):
        message(left, "refused")
    assert left == []


async def test_a_connection_object_carries_another_threads_transaction(left: list[str]) -> None:
    """A sync view takes its thread's connection and passes it to code in the loop's thread."""
    taken = threading.Event()
    registered = threading.Event()
    connection: list[Any] = []

    def view() -> None:
        with transaction.atomic():
            connection.append(connections["default"])
            taken.set()
            registered.wait(10)
            left.append("end of block")
        connections.close_all()

    thread = threading.Thread(target=view)
    thread.start()
    try:
        assert taken.wait(10)
        message(left, "sent", connection[0])
    finally:
        registered.set()
        thread.join()
    assert left == ["end of block", "sent"]


def test_the_proxy_stands_for_the_default_connection(left: list[str]) -> None:
    """`django.db.connection` is accepted; what is no connection is not."""
    from django.db import connection

    with transaction.atomic():
        message(left, "sent", connection)
        assert left == []
    assert left == ["sent"]
    for wrong in (transaction.atomic(), settings, connections):
        with pytest.raises(InvalidType):
            message(left, "refused", wrong)
