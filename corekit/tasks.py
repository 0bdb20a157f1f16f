"""Background tasks that have an owner.

`asyncio.TaskGroup` lives inside one `async with`; an object that is opened by one call and closed
by another owns its tasks through a `TaskOwner`, which keeps the same promise: no task outlives
it, and none fails unseen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

logger = logging.getLogger("corekit.tasks")


def is_being_cancelled() -> bool:
    """Tell whether somebody has cancelled the running task.

    A CancelledError that is raised while nobody has is an error of the code that raised it.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class TaskOwner:
    """Owns background tasks, from `spawn` until they have ended.

    A task that ends with an exception is logged as an error: background tasks handle what they
    expect. `close` cancels what still runs and waits for it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<TaskOwner {self._name!r} tasks={len(self._tasks)}>"

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], *, name: str, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """Start *coroutine* as a task of this owner; *name* is what logs and debuggers show.

        It takes its first step later, also in a loop that begins tasks eagerly: whoever spawns it
        knows it by then.
        """
        task = asyncio.Task(
            coroutine,
            loop=asyncio.get_running_loop(),
            name=f"{self._name}: {name}",
            context=context,
        )
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            logger.error("task %r ended with an error", task.get_name(), exc_info=error)

    def cancel(self) -> None:
        """Cancel every task; the calling task itself is left out."""
        for task in self._others():
            task.cancel()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until all tasks but the calling one have ended, at most *timeout* seconds.

        Returns whether they have. Cancels nothing, also if this call is cancelled.
        """
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while tasks := self._others():
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                return False
            await asyncio.wait(tasks, timeout=left)
        return True

    async def close(self) -> None:
        """Cancel every task and wait until all have ended; the calling task itself is left out.

        Tasks that are started meanwhile are cancelled too. If this call is cancelled, the tasks
        have been cancelled all the same, and end by themselves.
        """
        while tasks := self._others():
            self.cancel()
            await asyncio.wait(tasks)

    def _others(self) -> set[asyncio.Task[Any]]:
        return self._tasks - {asyncio.current_task()}
