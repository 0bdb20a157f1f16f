"""Whether a component may be used: opened, on this loop, in this process."""

from __future__ import annotations

import asyncio
import os
from asyncio import _get_running_loop

from .errors import ForkedProcess, NotOpenError, WrongLoop

#: Stands for "not open": unlike None, it is never the running loop.
_CLOSED = object()


class Gate:
    """Lets calls through while a component is open, and says why not otherwise.

    One comparison per call: asyncio reports no running loop of the parent in a forked child, so
    the loop alone tells all three cases apart.
    """

    __slots__ = ("_pid", "_reason", "_what", "loop")

    def __init__(self, what: str) -> None:
        self._what = what
        self._reason = "is not started: use 'async with app' or 'await app.start()'"
        self._pid = 0
        self.loop: object = _CLOSED

    def __repr__(self) -> str:
        return f"<Gate {self._what!r} {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether the component is open, in whichever loop."""
        return self.loop is not _CLOSED

    def open(self) -> None:
        """Let calls from the running loop through."""
        self.loop = asyncio.get_running_loop()
        self._pid = os.getpid()

    def close(self, reason: str = "is stopped") -> None:
        """Let no call through from now on; *reason* completes the sentence "*what* ..."."""
        self.loop = _CLOSED
        self._reason = reason

    def check(self) -> None:
        """Return if the component may be used here and now.

        Raises NotOpenError, WrongLoop or ForkedProcess.
        """
        if _get_running_loop() is not self.loop:
            raise self.refusal()

    def refusal(self) -> NotOpenError:
        """Return the error that tells why the component cannot be used here and now."""
        if self.loop is _CLOSED:
            return NotOpenError(f"{self._what} {self._reason}")
        if os.getpid() != self._pid:
            return ForkedProcess(
                f"{self._what} was started in process {self._pid}, before this one was forked: "
                "start an App in each process, after the fork"
            )
        return WrongLoop(
            f"{self._what} was started in another event loop: every call must come from that loop "
            "(from another thread: asyncio.run_coroutine_threadsafe)"
        )
