"""What a factory is told about the App that it builds an adapter for."""

from __future__ import annotations

from dataclasses import dataclass

from ..clock import SYSTEM_CLOCK, Clock


@dataclass(frozen=True, slots=True)
class AdapterContext:
    """The App behind an adapter."""

    app: str
    """The App's name, the same for all its instances."""

    instance_id: str
    """This instance, unique among all instances of the App."""

    clock: Clock = SYSTEM_CLOCK
    """What time it is; every deadline of the adapter goes by it."""

    max_message: int = 64 * 1024 * 1024
    """The size in bytes that no payload of this App exceeds."""
