from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .processes import BrokerProcess

#: Faster than in production, so that deaths are noticed soon.
LIMITS = {"heartbeat": 0.3, "session_timeout": 1.5, "reclaim": 1.0}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """Return a broker process of this test."""
    process = BrokerProcess(tmp_path / "broker", **LIMITS)
    process.start()
    yield process
    process.kill()


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """Return a broker process for all tests that do it no harm."""
    process = BrokerProcess(tmp_path_factory.mktemp("shared") / "broker", **LIMITS)
    process.start()
    yield process
    process.kill()
