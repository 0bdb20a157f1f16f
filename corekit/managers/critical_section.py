"""Critical sections: blocks of work that run under a lock, and end with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any

from ..errors import LockLost
from .lease import Lease
from .renewal import Renewal

logger = logging.getLogger("corekit.lock")


class CriticalSection:
    """An async context manager: its block runs while a lease is held, and is cancelled with it.

    *acquire* gets the lease; if *renewed*, it is renewed to its ttl while the block runs.

    The cancellation follows the protocol of `asyncio.timeout`: it is told apart from one that
    comes from outside by the task's count of cancellations, and the outside one wins.
    """

    # Most blocks end before anything happens to their lease: the rest is set when it does.
    _lease: Lease | None = None
    _task: asyncio.Task[Any] | None = None
    _renewal: Renewal | None = None
    _cancelled = False
    _cancelling: asyncio.Handle | None = None
    _ended: asyncio.Future[None] | None = None

    _cancellations = 0
    """The task's count of cancellations when the block began."""

    def __init__(self, acquire: Callable[[], Awaitable[Lease]], *, renewed: bool) -> None:
        #: None once the block was entered.
        self._acquire: Callable[[], Awaitable[Lease]] | None = acquire
        self._renewed = renewed

    def __repr__(self) -> str:
        return f"<CriticalSection {self._lease or 'not entered'!r}>"

    async def __aenter__(self) -> Lease:
        acquire, self._acquire = self._acquire, None
        if acquire is None:
            raise RuntimeError("a critical section is entered once: call lock() for each")
        self._lease = lease = await acquire()
        # The loop is named, since to ask for it is a system call in Python 3.11.
        self._task = task = asyncio.current_task(lease.session.loop)
        if task is None:
            await lease.release()
            raise RuntimeError("a critical section must be entered in a task")
        self._cancellations = task.cancelling()
        lease.section = self
        if self._renewed:
            self._renewal = Renewal(lease, lease.session.renewals)
        else:
            lease.watch()
        return lease

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        lease, task = self._lease, self._task
        if lease is None or task is None:
            raise RuntimeError("a critical section is left that was not entered")
        # From here on nothing cancels the task on our behalf.
        lease.section = None
        if self._renewal is not None:
            self._renewal.stop()
        if self._cancelling is not None:
            self._cancelling.cancel()
        if self._ended is not None:
            self._ended.set_result(None)
        outside = self._cancelled and task.uncancel() > self._cancellations
        if lease.was_lost and self._is_superseded(error, outside):
            raise lease.loss() from error
        return lease.release()

    def _is_superseded(self, error: BaseException | None, outside: bool) -> bool:
        """Tell whether LockLost takes the place of *error*."""
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled and not outside
        return error is None or (isinstance(error, Exception) and not isinstance(error, LockLost))

    def expect_loss(self) -> asyncio.Future[None] | None:
        """Return a future for the end of the block, whose lease the caller is about to take away.

        If the caller is the block's own task it will not be cancelled, and None is returned:
        LockLost at its end is enough.
        """
        if asyncio.current_task() is self._task:
            if self._lease is not None:
                self._lease.section = None
            return None
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def interrupt(self) -> None:
        """Cancel the block, because its lease is lost."""
        logger.warning("%r: its work is cancelled", self._lease)
        if asyncio.current_task() is self._task:
            # While it runs, the task may leave the block without awaiting anything more, and the
            # cancellation would hit what comes after.
            self._cancelling = asyncio.get_running_loop().call_soon(self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()
