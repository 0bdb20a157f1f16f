from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .processes import Run


@pytest.fixture
def new_run(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Run]:
    """Return what makes the run of this test, which is entered in the test's loop."""
    return lambda: Run(request.node.name, tmp_path)
