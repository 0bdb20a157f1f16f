"""What carries frames between the broker and the connections of its clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

#: A frame that came in: the name of its connection, which no other one ever has, the frame, and the
#: key that the connection came with (empty without encryption).
Arrival = tuple[bytes, bytes, str]


class Transport(Protocol):
    """All connections. `receive` and `send` never wait."""

    addresses: list[str]
    """Where it listens, with the ports that the system has chosen."""

    async def open(self) -> None:
        """Listen; raises BrokerRefused, and must be closed then, too."""
        ...

    async def close(self) -> None:
        """Listen no more and end all connections; what was sent has half a second to leave."""
        ...

    def attend(self, due: Callable[[], None]) -> None:
        """Call *due* whenever there is something to receive, or room to send again."""
        ...

    def ignore(self) -> None:
        """Call nobody any more, until the next `attend`."""
        ...

    def readable(self) -> bool:
        """Whether there is something to receive."""
        ...

    def receive(self, count: int, size: int) -> list[Arrival]:
        """Return the next frames, at most *count*, and about *size* bytes; none if none is here."""
        ...

    def send(self, route: bytes, data: bytes) -> bool | None:
        """Send a frame: True; False if the connection is full; None if it has gone."""
        ...

    def tick(self, now: float) -> None:
        """Do what has to be done several times a second."""
        ...
