"""Streams in both directions, opened anew, on whichever endpoint answers, when they break."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from grpc.aio import AioRpcError

from corekit.errors import BackendError, BackendRefused, BackendUnavailable
from corekit.tasks import TaskOwner

from .client import Client
from .connection import Connection
from .driver import Endpoint
from .failures import TokenExpired, translated

logger = logging.getLogger("corekit.etcd")

#: Seconds between two tries: the first, and what they grow to.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class StreamUser(Protocol):
    """Who speaks over a stream. Its calls return at once."""

    def opened(self) -> None:
        """Say everything again: this is a new stream."""
        ...

    def received(self, response: Any) -> None:
        """Take what the server said."""
        ...

    def refused(self, error: BackendRefused) -> None:
        """Take note that the server does not want this stream; it is tried again all the same."""
        ...


class Stream:
    """A stream of *user*, from the first `send` until `close`."""

    def __init__(
        self, client: Client, name: str, method: Callable[[Endpoint], Any], user: StreamUser
    ) -> None:
        self._client = client
        self._name = name
        self._method = method
        self._user = user
        self._tasks = TaskOwner(f"etcd {name}")
        self._outbox: asyncio.Queue[Any] | None = None
        self._call: Any = None
        self._token_expired = False
        self._endpoint: Endpoint | None = None

    def __repr__(self) -> str:
        return f"<Stream {self._name} {'open' if self.is_open else 'not open'}>"

    @property
    def is_open(self) -> bool:
        """Whether what is sent now goes to a server."""
        return self._outbox is not None

    def send(self, request: Any) -> None:
        """Send *request* if the stream is open; `StreamUser.opened` is called when it is later."""
        if self._outbox is not None:
            self._outbox.put_nowait(request)
        elif not self._tasks:
            self._tasks.spawn(self._stay_open(), name=self._name)

    def renew_login(self) -> None:
        """Break the stream, so that it is opened anew with another token."""
        self._token_expired = True
        if self._call is not None:
            self._call.cancel()

    def unanswered(self) -> None:
        """Take note that the server does not answer; another one is asked, if there is one."""
        if self._endpoint is not None:
            self._client.connection.failed(self._endpoint)

    def _moved(self) -> None:
        if self._call is not None:
            self._call.cancel()

    async def close(self) -> None:
        """End the stream."""
        await self._tasks.close()

    async def _stay_open(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            connection = self._client.connection
            endpoint = connection.endpoint
            began = asyncio.get_running_loop().time()
            try:
                await self._run(connection, endpoint)
            except TokenExpired:
                self._token_expired = True
            except BackendRefused as error:
                self._user.refused(error)
            except BackendUnavailable as error:
                logger.info("%s: the %s stream broke: %s", endpoint.text, self._name, error)
                connection.failed(endpoint)
            if self._token_expired:
                self._token_expired = False
                await self._log_in_again(connection)
            if asyncio.get_running_loop().time() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _run(self, connection: Connection, endpoint: Endpoint) -> None:
        if not endpoint.is_connected:
            await connection.reach(endpoint, connection.settings.timeout)
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        call = self._method(endpoint)(_each(outbox), metadata=connection.metadata)
        self._outbox, self._call, self._endpoint = outbox, call, endpoint
        connection.on_move.add(self._moved)
        self._user.opened()
        try:
            async for response in call:
                self._user.received(response)
        except AioRpcError as error:
            raise translated(error, endpoint.text) from error
        except asyncio.CancelledError:
            # The driver says it like this also when only the stream was cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        finally:
            connection.on_move.discard(self._moved)
            self._outbox = self._call = self._endpoint = None
            call.cancel()

    async def _log_in_again(self, connection: Connection) -> None:
        try:
            await connection.refresh_login()
        except BackendRefused as error:
            self._user.refused(error)
        except BackendError as error:
            logger.info("the %s stream cannot log in: %s", self._name, error)


async def _each(outbox: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while True:
        yield await outbox.get()
