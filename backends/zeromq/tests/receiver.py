"""What stands behind a pub/sub adapter in tests."""

from __future__ import annotations


class Receiver:
    """Keeps what arrives; None stands for a gap."""

    def __init__(self) -> None:
        self.arrived: list[bytes | None] = []

    def messages(self, channel: str, payloads: list[bytes]) -> None:
        """Take messages."""
        self.arrived += payloads

    def gap(self, channel: str) -> None:
        """Take a gap."""
        self.arrived.append(None)
