"""Publishers that wait: for a connection, or for room in the window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from corekit.errors import NotOpenError

T = TypeVar("T")


class _Waiting(NamedTuple):
    owner: object
    action: Callable[[], Any]
    done: asyncio.Future[Any]


class Admission:
    """Lets actions happen in the order in which they were asked for, as soon as there is room."""

    def __init__(self, has_room: Callable[[], bool]) -> None:
        self._has_room = has_room
        #: In the order of the calls. An attribute, because it is looked at for every publish.
        self.waiting: deque[_Waiting] = deque()

    def __repr__(self) -> str:
        return f"<Admission waiting={len(self.waiting)}>"

    async def wait(self, owner: object, action: Callable[[], T], timeout: float) -> T:
        """Do *action* when its turn has come, and return what it returns.

        Raises TimeoutError if that was not within *timeout* seconds, and NotOpenError if *owner*
        leaves; *action* is then never done. If cancelled, it is done or not.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.waiting.append(_Waiting(owner, action, done))
        try:
            async with asyncio.timeout(timeout):
                return await done
        except TimeoutError:
            # Its turn may have come in the very step in which its time was over.
            if done.cancelled() or not done.done():
                raise
            return done.result()
        finally:
            # All wait equally long: what waits for nothing any more stands before the others.
            while self.waiting and self.waiting[0].done.done():
                self.waiting.popleft()

    def admit(self) -> None:
        """Do what there is room for."""
        while self.waiting and self._has_room():
            _, action, done = self.waiting.popleft()
            # Done in its place, not when its caller runs again: others would overtake it.
            if not done.done():
                done.set_result(action())

    def leave(self, owner: object, error: Callable[[], NotOpenError]) -> None:
        """Let nothing of *owner* happen any more."""
        for waiting in self.waiting:
            if waiting.owner is owner and not waiting.done.done():
                waiting.done.set_exception(error())
