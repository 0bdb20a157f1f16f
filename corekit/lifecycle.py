"""Whether a component may be used: opened, on this loop, in this process."""

from __future__ import annotations

import asyncio
import os
from asyncio import _get_running_loop
from collections.abc import Callable
from threading import get_ident
from weakref import WeakSet

from .errors import ForkedProcess, NotOpenError, WrongLoop

#: Stands for "not open": unlike None, it is never the running loop.
_CLOSED = object()

#: Is no thread.
_NOWHERE = -1


class Gate:
    """Lets calls through while a component is open, and says why not otherwise.

    A check costs a tenth of a microsecond. `asyncio.get_running_loop` takes three times as long:
    it asks the system each time whether this process is a forked child.
    """

    __slots__ = ("__weakref__", "_is_running", "_pid", "_reason", "_thread", "_what", "loop")

    def __init__(self, what: str) -> None:
        self._what = what
        self._reason = "is not started: use 'async with app' or 'await app.start()'"
        self._pid = 0
        self.loop: object = _CLOSED
        #: Where calls pass as long as the loop runs: a thread has one running loop at most.
        self._thread = _NOWHERE
        self._is_running: Callable[[], bool] = bool  # False

    def __repr__(self) -> str:
        return f"<Gate {self._what!r} {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether the component is open, in whichever loop."""
        return self.loop is not _CLOSED

    def open(self) -> None:
        """Let calls from the running loop through."""
        loop = asyncio.get_running_loop()
        self.loop = loop
        self._is_running = loop.is_running
        self._pid = os.getpid()
        self._thread = get_ident()
        _open_gates.add(self)

    def close(self, reason: str = "is stopped") -> None:
        """Let no call through from now on; *reason* completes the sentence "*what* ..."."""
        self.loop = _CLOSED
        self._thread = _NOWHERE
        self._is_running = bool
        self._reason = reason
        _open_gates.discard(self)

    def check(self) -> None:
        """Return if the component may be used here and now.

        Raises NotOpenError, WrongLoop or ForkedProcess.
        """
        if self._thread != get_ident() or not self._is_running():
            self._look()

    def _look(self) -> None:
        if _get_running_loop() is not self.loop:
            raise self.refusal()
        # The loop goes on in another thread than it was in.
        self._thread = get_ident()

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


#: In a forked child the thread is the same, and the parent's loop seems to run.
_open_gates: WeakSet[Gate] = WeakSet()


def _leave_to_the_parent() -> None:
    for gate in list(_open_gates):
        gate._thread = _NOWHERE


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
