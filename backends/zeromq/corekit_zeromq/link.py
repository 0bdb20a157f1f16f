"""What every kind of connection to a broker can do, as long as it holds."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

#: Gets a frame that arrived; returns whether it can take another in this turn of the loop.
Take = Callable[[bytes], bool]

#: Frames that are handed on in one turn of the loop, so that a flood starves nobody else in it.
FRAMES_PER_TURN = 16


class Stage(Enum):
    """How far a link came; each value completes the sentence "... at ADDRESS"."""

    CONNECTING = "nothing answers"
    CONNECTED = "something that is not a corekit broker, or refuses the connection, answers"
    REFUSED = "the broker does not accept the keys"
    NEEDS_KEYS = "the broker demands keys (server_key and key_file)"
    SPEAKING = "something that is not a corekit broker, or hangs, answers"


class Link(Protocol):
    """One connection to a broker, which does not come back.

    It is made with *take*, which gets each frame that arrives, and *lost*, which is called once,
    when the connection has ended, after what arrived before the end was handed to *take*. If *take*
    can take no more, nothing is read until `read_on`. Neither is called after `close`.
    """

    endpoint: str

    stage: Stage

    held_back: bool
    """Whether reading waits for `read_on`."""

    async def open(self) -> None:
        """Connect; raises OSError if that cannot be done.

        If it is cancelled, the link has to be closed as well.
        """
        ...

    def send(self, frame: bytes) -> None:
        """Send *frame*; it arrives if the link holds. Only after `open`."""
        ...

    def read_on(self) -> None:
        """Go on reading."""
        ...

    def close(self) -> None:
        """End the connection at once."""
        ...

    async def finish(self, timeout: float) -> None:
        """End the connection when what was sent has left, or after *timeout* seconds."""
        ...
