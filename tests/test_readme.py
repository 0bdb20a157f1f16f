"""The README keeps its word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corekit import memory
from corekit.config import BackendURL
from corekit.plugins import COMPONENTS, build_adapter, discover
from corekit.testing import make_context

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

_ADDRESSES = {
    "memory": "memory://readme",
    "zmq": "zmq://127.0.0.1:7650",
    "zmq+ipc": "zmq+ipc:///tmp/corekit-readme",
    "zmq+local": "zmq+local://readme",
    "etcd": "etcd://127.0.0.1:2379",
    "etcds": "etcds://127.0.0.1:2379",
}


def _table() -> dict[tuple[str, str], str]:
    """Return the guarantees that the README tells, by scheme and component."""
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith("| ")]
    head = next(row for row in rows if "`memory://`" in row)
    told = {}
    for component, *cells in (row for row in rows if row[0] in COMPONENTS):
        for column, cell in zip(head, cells, strict=True):
            for scheme in re.findall(r"`([a-z+]+)://`", column):
                told[scheme, component] = cell.strip()
    return told


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("scheme", _ADDRESSES)
def test_the_table_of_guarantees_is_true(scheme: str, component: str) -> None:
    """What the README says of an adapter is what the adapter declares."""
    discovery = discover({"corekit": memory})
    registry = discovery.adapters()
    if not any(scheme in offered for offered in registry.schemes().values()):
        pytest.skip(f"no backend for {scheme}:// is installed")
    told = _table()[scheme, component]
    if registry.factory(component, scheme) is None:
        assert told == "-"
        return
    url = BackendURL.parse(_ADDRESSES[scheme])
    adapter = build_adapter(discovery, registry, component, url, make_context())
    assert told == (", ".join(sorted(adapter.guarantees)) or "-")


def test_the_two_commands_are_there() -> None:
    """The README's second command is the one that CI runs on the wheels."""
    command = "python -P -m pytest"
    ci = (Path(__file__).parent.parent / ".ci" / "run").read_text(encoding="utf-8")
    assert f".venv/bin/{command}" in README
    assert f'"$bin/python" {command.removeprefix("python ")}' in ci
