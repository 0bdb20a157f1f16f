"""corekit.transactions: what is a transaction, and what happens to a callback."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from corekit.errors import InvalidType
from corekit.transactions import AfterCommit


class Unit:
    """The smallest unit of work."""

    callback: Callable[[], None]

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Keep *callback* until the test commits."""
        self.callback = callback


def test_a_callback_is_called_once_whatever_the_object_does() -> None:
    """An object with `after_commit(callback)` may call twice, or from another thread."""
    left: list[str] = []
    unit = Unit()
    AfterCommit()(unit, lambda: left.append(threading.current_thread().name))
    assert left == []
    thread = threading.Thread(target=unit.callback, name="committer")
    thread.start()
    thread.join()
    unit.callback()
    assert left == ["committer"]


def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The commit has succeeded: whoever committed sees no error, the log does."""

    def fail() -> None:
        raise RuntimeError("backend away")

    unit = Unit()
    AfterCommit()(unit, fail)
    unit.callback()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("corekit.transactions", logging.ERROR)
    assert "backend away" in caplog.text


class AsyncUnit:
    """Its after_commit would have to be awaited, which nobody will do."""

    async def after_commit(self, callback: Callable[[], None]) -> None:
        """Do nothing."""


class UnitClass:
    """Passed as a class instead of an instance."""

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "transaction",
    [None, True, 7, "", "default", object(), [], UnitClass, AsyncUnit(), print],
    ids=repr,
)
def test_what_is_no_transaction_is_refused(
    transaction: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything else is InvalidType, and the text says what is accepted."""
    # A str is a Django alias where Django is loaded: this must not depend on other tests.
    monkeypatch.delitem(sys.modules, "django.db", raising=False)
    with pytest.raises(InvalidType, match=r"^transaction.*after_commit"):
        AfterCommit()(transaction, lambda: None)


def test_hooked_bridges_are_asked_after_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge teaches another kind of object; those that are known never reach it."""
    asked: list[object] = []

    def bridge(transaction: object, callback: Callable[[], None]) -> bool:
        asked.append(transaction)
        if transaction == "mine":
            callback()
        return transaction == "mine"

    monkeypatch.delitem(sys.modules, "django.db", raising=False)
    after_commit = AfterCommit([bridge])
    left: list[str] = []
    unit = Unit()
    after_commit(unit, lambda: left.append("unit"))
    unit.callback()
    assert asked == []
    after_commit("mine", lambda: left.append("mine"))
    with pytest.raises(InvalidType):
        after_commit("other", lambda: left.append("other"))
    assert asked == ["mine", "other"]
    assert left == ["unit", "mine"]


def test_no_library_is_imported_for_objects_that_are_not_its_own() -> None:
    """A program without SQLAlchemy and Django stays without them, whatever it passes."""
    program = """
import sys
from corekit.errors import InvalidType
from corekit.transactions import AfterCommit
class Unit:
    def after_commit(self, callback): callback()
AfterCommit()(Unit(), lambda: None)
for wrong in ("default", object()):
    try:
        AfterCommit()(wrong, lambda: None)
    except InvalidType:
        pass
print([name for name in ("sqlalchemy", "django") if name in sys.modules])
"""
    assert _output(program) == "[]"


def _output(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()
