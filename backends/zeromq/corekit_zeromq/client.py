"""The adapters of one App share one connection."""

from __future__ import annotations

import asyncio
import logging

from corekit.adapters import AdapterContext
from corekit.config import BackendURL
from corekit.errors import NotOpenError

from .connection import Component, Connection
from .settings import Settings

logger = logging.getLogger("corekit.zeromq")

_Key = tuple[Settings, str, asyncio.AbstractEventLoop]

#: Connections in use. Several only where one App has two adapters of one kind on one URL.
_connections: dict[_Key, list[Connection]] = {}


class Client:
    """One adapter's share in the connection of its App."""

    def __init__(self, url: BackendURL, context: AdapterContext, kind: str) -> None:
        self.settings = Settings.parse(url, context)
        self.context = context
        self._kind = kind
        self._connection: Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Client {self._kind} {self._connection or self.settings.text!r}>"

    @property
    def connection(self) -> Connection:
        """The connection; raises NotOpenError before `open` has returned and after `close`."""
        if self._connection is None:
            state = "closed" if self._closed else "not open"
            raise NotOpenError(f"{self.settings.text} is {state}")
        return self._connection

    async def open(self, component: Component) -> Connection:
        """Join the App's connection; whoever comes first makes it.

        Raises BackendUnavailable or BackendRefused; then, and when cancelled, nothing is left.
        """
        key = (self.settings, self.context.instance_id, asyncio.get_running_loop())
        shared = _connections.setdefault(key, [])
        connection = next((c for c in shared if self._kind not in c.components), None)
        if connection is None:
            connection = Connection(self.settings, self.context)
            shared.append(connection)
            connection.link.start()
        connection.components[self._kind] = component
        try:
            await connection.link.ready()
        except BaseException:
            await self._leave(key, connection)
            raise
        self._connection = connection
        if self._closed:
            await self.close()
        return self.connection

    async def close(self, *, linger: float = 0.0) -> None:
        """Leave the connection; whoever leaves last closes it. Pending calls get NotOpenError.

        What was sent has *linger* seconds to arrive before that. Cancelled, it leaves all the same.
        """
        try:
            if linger and self._connection is not None:
                await self._connection.arrived(linger)
        finally:
            await self._close()

    async def _close(self) -> None:
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            key = (self.settings, self.context.instance_id, connection.loop)
            await self._leave(key, connection)

    async def _leave(self, key: _Key, connection: Connection) -> None:
        connection.leave(connection.components.pop(self._kind))
        if connection.components:
            return
        shared = _connections[key]
        shared.remove(connection)
        if not shared:
            del _connections[key]
        await connection.close()
