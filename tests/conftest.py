"""What all tests share: no state of one test reaches another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from corekit.testing import drop_memory


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    """Forget what memory:// adapters hold; it would live as long as the process."""
    yield
    drop_memory()
