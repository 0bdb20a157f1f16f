"""After-commit bridges (to be completed)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Bridge(Protocol):
    """Knows one kind of transaction object."""

    def __call__(self, transaction: Any, callback: Callable[[], None]) -> bool:
        """Arrange for *callback* after the outermost commit; False if the object is not of its kind."""
        ...
