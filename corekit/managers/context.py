"""What all managers of one App share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..clock import Clock
from ..serialization import Serializer


@dataclass(frozen=True, slots=True)
class ManagerContext:
    """The App, as its managers see it."""

    app: str
    """The App's name, which prefixes every key, channel, queue and lock."""

    instance_id: str
    """This instance, unique among all instances of the App."""

    clock: Clock

    serializer: Serializer

    after_commit: Callable[[Any, Callable[[], None]], None]
    """Calls a function, from whatever thread, once a transaction's outermost commit has returned.

    Raises InvalidType for an object that no bridge knows.
    """
