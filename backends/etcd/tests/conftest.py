from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corekit.testing import missing

from .servers import Etcd, find_etcd


@pytest.fixture(scope="session", autouse=True)
def need_etcd() -> None:
    """Skip without a server; where CI is set, its absence is a failure."""
    if find_etcd() is None:
        missing("no etcd: pip install corekit-etcd[server], or install etcd-server")


def _run(cluster: Etcd) -> Iterator[Etcd]:
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """Return a server of this test."""
    yield from _run(Etcd(tmp_path / "etcd"))


@pytest.fixture
def etcd_cluster(tmp_path: Path) -> Iterator[Etcd]:
    """Return three servers of this test."""
    yield from _run(Etcd(tmp_path / "etcd", 3))


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Return a server for all tests that do it no harm."""
    yield from _run(Etcd(tmp_path_factory.mktemp("shared") / "etcd"))


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Return three servers for all tests that do them no harm."""
    yield from _run(Etcd(tmp_path_factory.mktemp("shared") / "etcd", 3))
