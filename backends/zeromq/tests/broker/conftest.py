from pathlib import Path

import pytest

from .peer import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return an engine on a new journal, with a clock that stands still."""
    return Bench(tmp_path)
