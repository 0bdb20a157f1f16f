"""The adapters of one App share one connection; each ends its own calls when it closes."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from corekit.adapters import AdapterContext
from corekit.config import BackendURL
from corekit.errors import NotOpenError

from .connection import Connection
from .driver import Call
from .settings import Settings

_Key = tuple[Settings, str, asyncio.AbstractEventLoop]


class _Shared:
    """A connection, and by how many adapters it is used."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.opening = asyncio.create_task(connection.open())
        self.users = 0


_connections: dict[_Key, _Shared] = {}


class Client:
    """One adapter's share in the connection of its App."""

    def __init__(self, url: BackendURL, context: AdapterContext, kind: str) -> None:
        self.settings = Settings.parse(url)
        self.clock = context.clock
        self._instance = context.instance_id
        self._kind = kind
        self._connection: Connection | None = None
        self._closed = False
        self._pending: set[_Pending] = set()

    def __repr__(self) -> str:
        state = self._connection or ("closed" if self._closed else "not open")
        return f"<Client {self._kind} {state} pending={len(self._pending)}>"

    @property
    def connection(self) -> Connection:
        """The connection; raises NotOpenError before `open` has returned and after `close`."""
        if self._connection is None:
            raise self.refusal()
        return self._connection

    def refusal(self) -> NotOpenError:
        """Return the error of calls that are made too early or too late."""
        state = "closed" if self._closed else "not open"
        return NotOpenError(f"the {self._kind} of {self.settings.text} is {state}")

    async def open(self) -> Connection:
        """Join the App's connection; whoever comes first makes it.

        Raises BackendUnavailable or BackendRefused; then, and when cancelled, nothing is left.
        """
        key = (self.settings, self._instance, asyncio.get_running_loop())
        shared = _connections.get(key)
        if shared is None:
            shared = _connections[key] = _Shared(Connection(self.settings, self.clock))
        shared.users += 1
        try:
            await asyncio.shield(shared.opening)
        except BaseException:
            await _leave(key, shared)
            raise
        self._connection = shared.connection
        if self._closed:
            await self.close()
        return self.connection

    async def close(self) -> None:
        """Leave the connection; whoever leaves last closes it."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            key = (self.settings, self._instance, asyncio.get_running_loop())
            await _leave(key, _connections[key])

    def pending(self) -> _Pending:
        """Return a context for one call of the adapter: `end_pending` ends what is inside."""
        return _Pending(self, self._pending)

    async def end_pending(self) -> bool:
        """Let every pending call raise NotOpenError, and wait until they have; allow no others.

        Returns whether there is something to close: False if this was not open, or done before.
        """
        if self._closed or self._connection is None:
            self._closed = True
            return False
        self._closed = True
        me = asyncio.current_task()
        for pending in self._pending:
            pending.end()
        # None of them waits for anything on its way out.
        while any(pending.task is not me for pending in self._pending):  # noqa: ASYNC110 - they end in this turn or the next
            await asyncio.sleep(0)
        return True

    async def call(self, name: Call, request: Any, *, repeatable: bool = True) -> Any:
        """Return the answer of the cluster; see `Connection.call`."""
        return await self.connection.call(name, request, repeatable=repeatable)


async def _leave(key: _Key, shared: _Shared) -> None:
    shared.users -= 1
    if shared.users:
        return
    if _connections.get(key) is shared:
        del _connections[key]
    shared.opening.cancel()
    await asyncio.gather(shared.opening, return_exceptions=True)
    await shared.connection.close()


class _Pending:
    """One call of an adapter, which the adapter's close turns into NotOpenError."""

    __slots__ = ("_all", "_cancelling", "_client", "_ended", "task")

    def __init__(self, client: Client, all_pending: set[_Pending]) -> None:
        self._client = client
        self._all = all_pending
        self._ended = False
        self._cancelling = 0
        self.task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        if self._client._closed or self._client._connection is None:
            raise self._client.refusal()
        task = self.task = asyncio.current_task()
        if task is not None:
            self._cancelling = task.cancelling()
        self._all.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._all.discard(self)
        if not self._ended or self.task is None:
            return
        # As asyncio.timeout does: a cancellation from elsewhere stays one.
        if self.task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._client.refusal() from None

    def end(self) -> None:
        """Cancel the call; it raises NotOpenError."""
        if not self._ended and self.task is not None:
            self._ended = True
            self.task.cancel()
