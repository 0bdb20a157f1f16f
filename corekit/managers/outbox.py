"""What leaves after a commit: sent in order, and again for a while if the backend is away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import BackendUnavailable
from ..lifecycle import Gate
from ..tasks import TaskOwner
from .context import ManagerContext

#: Seconds after the commit until an unavailable backend is given up.
_PATIENCE = 30.0

#: Seconds between two attempts: at first, and at most.
_FIRST_RETRY = 0.1
_LAST_RETRY = 5.0

#: How many messages may wait, so that an absent backend does not fill the memory.
_LIMIT = 10_000


@dataclass(slots=True)
class _Entry:
    """What was committed, and until when sending it is tried."""

    what: str
    send: Callable[[], Awaitable[object]]
    deadline: float


class Outbox:
    """Sends, after transactions have committed, what was deferred until then.

    Messages of pub/sub and of the event queue, and writes to a cache. They are kept in memory: a
    process that dies between commit and send loses them. What cannot be sent is an error in the log
    that names it.
    """

    def __init__(
        self, context: ManagerContext, gate: Gate, tasks: TaskOwner, logger: logging.Logger
    ) -> None:
        self._context = context
        self._gate = gate
        self._tasks = tasks
        self._logger = logger
        self._entries: deque[_Entry] = deque()
        self._sending = False

    def __repr__(self) -> str:
        return f"<Outbox waiting={len(self._entries)}{' sending' if self._sending else ''}>"

    def defer(self, transaction: Any, send: Callable[[], Awaitable[object]], *, what: str) -> None:
        """Await `send()` once *transaction* has committed; never if it is rolled back.

        What was committed first is sent first. While *send* raises BackendUnavailable it is tried
        again, for half a minute. *what* is its name in the log. Raises InvalidType for an
        object that is no transaction.
        """
        loop = asyncio.get_running_loop()
        self._context.after_commit(transaction, partial(self._committed, loop, what, send))

    def _committed(
        self, loop: asyncio.AbstractEventLoop, what: str, send: Callable[[], Awaitable[object]]
    ) -> None:
        try:
            # Whatever thread the transaction ended in.
            loop.call_soon_threadsafe(self._add, what, send)
        except RuntimeError:
            self._lost(what, "its event loop has ended")

    def _add(self, what: str, send: Callable[[], Awaitable[object]]) -> None:
        if self._gate.loop is not asyncio.get_running_loop():
            self._lost(what, "the App was stopped before the commit")
            return
        if len(self._entries) >= _LIMIT:
            self._lost(what, f"{_LIMIT} messages wait already")
            return
        deadline = self._context.clock.monotonic() + _PATIENCE
        self._entries.append(_Entry(what, send, deadline))
        if not self._sending:
            self._sending = True
            self._tasks.spawn(self._send_all(), name="outbox")

    async def _send_all(self) -> None:
        try:
            while self._entries:
                await self._send(self._entries[0])
                self._entries.popleft()
        finally:
            self._sending = False
            for entry in self._entries:
                self._lost(entry.what, "the App was stopped")
            self._entries.clear()

    async def _send(self, entry: _Entry) -> None:
        delay = _FIRST_RETRY
        last: BackendUnavailable | None = None
        try:
            async with asyncio.timeout_at(entry.deadline):
                while True:
                    try:
                        await entry.send()
                    except BackendUnavailable as error:
                        last = error
                    else:
                        return
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, _LAST_RETRY)
        except Exception as error:  # noqa: BLE001 - there is no caller any more to raise it to
            self._lost(entry.what, last or error)

    def _lost(self, what: str, reason: object) -> None:
        if isinstance(reason, Exception):
            reason = f"{type(reason).__name__}: {reason}"
        self._logger.error("%s: committed, but not sent: %s", what, reason)
