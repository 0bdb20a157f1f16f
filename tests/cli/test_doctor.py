"""`corekit doctor`."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from click.testing import CliRunner

from corekit import memory
from corekit.cli import doctor as doctor_module
from corekit.cli.doctor import doctor
from corekit.plugins import discover


def _json(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(doctor, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_it_tells_what_is_installed() -> None:
    """Without URLs it lists adapters by component and scheme, and exits with 0."""
    code, report = _json()
    assert code == 0
    assert report["failures"] == {}
    for component in ("cache", "pub_sub", "event_queue", "lock"):
        assert report["adapters"][component]["memory"] == "corekit"


def test_it_measures_a_round_trip() -> None:
    """With a URL each component is opened and used once; guarantees and seconds are told."""
    code, report = _json("memory://doctor")
    assert code == 0
    assert [check["component"] for check in report["checks"]] == [
        "cache", "pub_sub", "event_queue", "lock",
    ]  # fmt: skip
    assert all(0 <= check["round_trip"] < 5 for check in report["checks"])
    assert "by_reference" in report["checks"][0]["guarantees"]


def test_an_unknown_backend_fails() -> None:
    """A URL that no installed adapter serves is told with what to install, and exits with 1."""
    code, report = _json("nats://user:hunter2@127.0.0.1:4222", "memory://doctor")
    assert code == 1
    assert "pip install corekit-nats" in report["checks"][0]["error"]
    assert "hunter2" not in json.dumps(report)
    assert report["checks"][1]["round_trip"] is not None


def test_a_broken_plugin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that fails to import is listed with its error; the rest works; exit code 1."""
    broken = EntryPoint("broken", "no_such_module_anywhere", "corekit")

    def found(builtins: dict[str, object]) -> Any:
        return discover(builtins, [broken])

    monkeypatch.setattr(doctor_module, "discover", found)
    result = CliRunner().invoke(doctor, ["memory://doctor"])
    assert result.exit_code == 1
    assert "broken failed: ModuleNotFoundError" in result.stdout
    assert memory.__name__ == "corekit.memory"
