"""One running load of one key, for everyone who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextvars import Context, ContextVar, copy_context
from types import TracebackType
from typing import Any

from ..errors import NotOpenError
from .claim import Claim


class Flight:
    """A load that runs, and how it ended: with a value or with an error, the same for all.

    It knows who waits for whom: the code that runs in `context` is part of it, and what that code
    waits for, it waits for.
    """

    __slots__ = ("_awaited", "_error", "_traceback", "claim", "key", "task", "value", "waiters")

    task: asyncio.Task[None]

    def __init__(self, key: str) -> None:
        self.key = key
        #: Under which it stores what it loads; None while it has none.
        self.claim: Claim | None = None
        self.waiters = 0
        self.value: Any = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        #: The flights that this one waits for at the moment.
        self._awaited: list[Flight] = []

    def __repr__(self) -> str:
        state = "done" if self.task.done() else "running"
        return f"<Flight {self.key!r} {state} claim={self.claim!r} waiters={self.waiters}>"

    def context(self) -> Context:
        """Return a context for the code that is part of this load, child tasks included."""
        context = copy_context()
        context.run(_INSIDE.set, (*_INSIDE.get(), self))
        return context

    def waits_for_caller(self) -> bool:
        """Tell whether the running code is part of this load, or of one that this waits for."""
        return self._waits_for(_INSIDE.get())

    def fail(self, error: BaseException) -> None:
        """Let every waiter see *error*."""
        self._error = error
        self._traceback = error.__traceback__

    async def wait(self) -> Any:
        """Return the value, or raise the error, once the load has ended.

        A waiter that is cancelled leaves the load and the other waiters alone.
        """
        inside = _INSIDE.get()
        self.waiters += 1
        if inside:
            inside[-1]._awaited.append(self)
        try:
            await asyncio.wait((self.task,))
        finally:
            self.waiters -= 1
            if inside:
                inside[-1]._awaited.remove(self)
        if self._error is not None:
            # All waiters raise one object: without this each would add its own frames to it.
            raise self._error.with_traceback(self._traceback)
        if self.task.cancelled():
            raise NotOpenError("the App was stopped before the load ended")
        return self.value

    def _waits_for(self, others: Collection[Flight]) -> bool:
        return self in others or any(flight._waits_for(others) for flight in self._awaited)


#: The flights that the running code is part of, the innermost last.
_INSIDE: ContextVar[tuple[Flight, ...]] = ContextVar("corekit_loads", default=())
