"""Connections without keys: ZMTP over asyncio's transports.

libzmq would bound what waits of a connection by frames, not bytes, and cannot end a connection
whose peer breaks the rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from corekit.clock import SYSTEM_CLOCK, Clock

from ..buffers import BUFFER_SIZE, widen
from ..protocol import FRAME_ALLOWANCE
from ..zmtp import ForeignPeerError, OtherMechanismError, Router, framed
from .addresses import Endpoint, SocketFile, cannot_listen, for_this_user
from .limits import KIB, MIB, Limits
from .rate import RateLimit
from .transport import Arrival

#: What may wait of one connection, in bytes, frames counting these more: then it is not read.
_BACKLOG = MIB
_OVERHEAD = 256

#: What may be on its way to one connection before it counts as full, in bytes.
_FULL = MIB

#: The first frame is a HELLO: larger ones are taken only afterwards.
_FIRST = 64 * KIB

#: Seconds between two looks at the connections, and in how many of them one may be silent.
_SWEEP = 5.0
_SILENT = 3

#: A turn that ended so many seconds ago was the last of its load.
_REST = 0.001

#: How long what was sent may take to leave at the end, in seconds.
_FAREWELL = 0.5


class _Connection(asyncio.BufferedProtocol):
    """A client that has connected.

    `is_full`: no more should be sent for now. `backlog`: bytes that came and were not received yet.
    """

    def __init__(self, owner: PlainTransport, route: bytes) -> None:
        self.route = route
        self.is_full = False
        self._owner = owner
        self._router = Router(_FIRST)
        self.transport: asyncio.Transport
        self.backlog = 0
        self._silence = 0

    def __repr__(self) -> str:
        return f"<_Connection {self._router!r} backlog={self.backlog} silence={self._silence}>"

    def look(self) -> None:
        """End the connection if it was silent for long; called every few seconds."""
        if self.backlog < _BACKLOG:
            self._silence += 1
        if self._silence > _SILENT:
            self.transport.abort()

    def close(self) -> None:
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # -- what asyncio says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_FULL)
        widen(transport)
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        )
        if self._owner.admit(self):
            self.transport.write(Router.opening)
        else:
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        router = self._router
        try:
            frames = router.read(self._owner.buffer, nbytes)
        except (ForeignPeerError, OtherMechanismError) as error:
            self._owner.complain(error)
            self.transport.abort()
            return
        if router.answers:
            self.transport.write(router.take_answers())
        if router.is_ready:
            # Before, only to be quick helps.
            self._silence = 0
        if frames:
            owner = self._owner
            router.largest = owner.largest
            for frame in frames:
                self.backlog += len(frame) + _OVERHEAD
                owner.arrived.append((self, frame))
            if self.backlog > _BACKLOG:
                self.transport.pause_reading()
            owner.tell()

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self._owner.tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.forget(self)


class PlainTransport:
    """A `Transport`, for whoever reaches it."""

    def __init__(
        self,
        listen: Sequence[Endpoint],
        limits: Limits,
        complaints: RateLimit,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.addresses: list[str] = []
        self.largest = limits.max_message + FRAME_ALLOWANCE
        #: Where all connections read to, one after the other.
        self.buffer = memoryview(bytearray(BUFFER_SIZE))
        self._listen = listen
        self._most = limits.connections
        self._complaints = complaints
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._files: list[SocketFile] = []
        self._connections: dict[bytes, _Connection] = {}
        self._count = 0
        self.arrived: deque[tuple[_Connection, bytes]] = deque()
        self._due: Callable[[], None] | None = None
        self._telling: asyncio.Handle | None = None
        self._now = clock.monotonic
        self._told_at = self._looked_at = self._now()
        #: Resolved when the last connection has ended after `close`.
        self._emptied: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        return (
            f"<PlainTransport {self.addresses} connections={len(self._connections)} "
            f"arrived={len(self.arrived)}>"
        )

    # -- beginning and end

    async def open(self) -> None:
        for endpoint in self._listen:
            if endpoint.path is not None:
                file = SocketFile(endpoint.path)
                file.take()
                self._files.append(file)
                await self._open_path(str(endpoint.path))
                file.protect()
            for host in endpoint.hosts:
                await self._open_host(host, endpoint.port)

    async def _open_path(self, path: str) -> None:
        with _listener(socket.AF_UNIX, f"ipc://{path}") as listener:
            # Whose it was is settled by the file beside it.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            with for_this_user():
                listener.bind(path)
            listener.listen(1024)
        self._servers.append(await self._loop.create_unix_server(self._connect, sock=listener))
        self.addresses.append(f"ipc://{path}")

    async def _open_host(self, host: str, port: str) -> None:
        is_v6 = ":" in host
        shown = f"[{host}]" if is_v6 else host
        with _listener(
            socket.AF_INET6 if is_v6 else socket.AF_INET, f"tcp://{shown}:{port}"
        ) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_v6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, 0 if port == "*" else int(port)))
            listener.listen(1024)
        self._servers.append(await self._loop.create_server(self._connect, sock=listener))
        self.addresses.append(f"tcp://{shown}:{listener.getsockname()[1]}")

    async def close(self) -> None:
        self.ignore()
        for server in self._servers:
            server.close()
        for file in self._files:
            file.remove()
        for connection in list(self._connections.values()):
            connection.close()
        try:
            if self._connections:
                await asyncio.wait([self._emptied], timeout=_FAREWELL)
        finally:
            for connection in list(self._connections.values()):
                connection.abort()
            for file in self._files:
                file.release()
        for server in self._servers:
            await server.wait_closed()

    # -- what the broker asks for

    def attend(self, due: Callable[[], None]) -> None:
        self._due = due

    def ignore(self) -> None:
        self._due = None
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    def readable(self) -> bool:
        return bool(self.arrived)

    def receive(self, count: int, size: int) -> list[Arrival]:
        arrivals: list[Arrival] = []
        while self.arrived and len(arrivals) < count and size > 0:
            connection, data = self.arrived.popleft()
            before = connection.backlog
            connection.backlog = left = before - len(data) - _OVERHEAD
            if left <= _BACKLOG // 2 < before:
                connection.transport.resume_reading()
            arrivals.append((connection.route, data, ""))
            size -= len(data)
        return arrivals

    def send(self, route: bytes, data: bytes) -> bool | None:
        connection = self._connections.get(route)
        if connection is None:
            return None
        if connection.is_full:
            return False
        connection.transport.write(framed(data))
        return True

    def tick(self, now: float) -> None:
        if now - self._looked_at < _SWEEP:
            return
        self._looked_at = now
        for connection in list(self._connections.values()):
            connection.look()

    # -- what connections say

    def _connect(self) -> _Connection:
        self._count += 1
        return _Connection(self, self._count.to_bytes(8, "big"))

    def admit(self, connection: _Connection) -> bool:
        """Take a connection; return whether there is room for it."""
        self._connections[connection.route] = connection
        if len(self._connections) <= self._most:
            return True
        self._complaints.warning(b"stranger", "more than %d connections: refused", self._most)
        return False

    def forget(self, connection: _Connection) -> None:
        """Take note that a connection has ended; what it brought stays."""
        del self._connections[connection.route]
        if not self._connections and not self._emptied.done():
            self._emptied.set_result(None)

    def complain(self, error: Exception) -> None:
        """Log what a connection is ended for."""
        self._complaints.warning(b"stranger", "a connection does not speak ZMTP: %s", error)

    def tell(self) -> None:
        """Let a turn be taken.

        At rest at once. Under load in the loop's next round, together with what has come in from
        the others by then: all of it shares a commit.
        """
        if self._due is None or self._telling is not None:
            return
        if self._now() - self._told_at > _REST:
            self._due()
            self._told_at = self._now()
        else:
            self._telling = self._loop.call_soon(self._tell_now)

    def _tell_now(self) -> None:
        self._telling = None
        if self._due is not None:
            self._due()
            self._told_at = self._now()


@contextlib.contextmanager
def _listener(family: int, address: str) -> Iterator[socket.socket]:
    """Give a socket that is closed if what is done with it fails, as BrokerRefused."""
    # Named, the protocol lets asyncio see that it is TCP, and send small frames without delay.
    protocol = 0 if family == socket.AF_UNIX else socket.IPPROTO_TCP
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        yield listener
    except OSError as error:
        listener.close()
        raise cannot_listen(address, error, error.errno) from error
