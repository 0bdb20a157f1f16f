from collections.abc import Iterator
from pathlib import Path

import pytest
from corekit_zeromq.broker import rows

from .peer import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return an engine on a new journal, with a clock that stands still."""
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    """Let a few messages already be a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_LEAST", 2)
        patch.setattr(rows, "_MOST", 4)
        patch.setattr(rows, "_MOST_BYTES", 100)
        yield
