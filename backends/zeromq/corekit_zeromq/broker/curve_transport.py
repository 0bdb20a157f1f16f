"""Connections with keys: one ROUTER socket of libzmq, which encrypts and authenticates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import zmq

from ..protocol import FRAME_ALLOWANCE
from .addresses import Endpoint, SocketFile, cannot_listen, for_this_user
from .limits import Limits
from .security import Authenticator
from .transport import Arrival

#: Parts of a foreign message that are thrown away in one turn.
_PARTS = 1000

#: As plain numbers: to combine flags of an Enum takes longer than to send a message.
_NOW = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)


class CurveTransport:
    """A `Transport`, for clients whose keys are on the list."""

    def __init__(
        self, listen: Sequence[Endpoint], limits: Limits, authenticator: Authenticator
    ) -> None:
        self._listen = listen
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._authenticator = authenticator
        self._skipping = False
        self._files: list[SocketFile] = []
        self.addresses: list[str] = []
        self._set_up(limits)

    def __repr__(self) -> str:
        return f"<CurveTransport {self.addresses}>"

    async def open(self) -> None:
        self._authenticator.protect(self._socket)
        for endpoint in self._listen:
            self._bind(endpoint)
        self._authenticator.start(self._loop)
        # Check that strangers do not get in.
        for address in self.addresses:
            await self._authenticator.probe(address, self._context)

    def _set_up(self, limits: Limits) -> None:
        socket = self._socket
        socket.linger = 500
        # To an unknown connection: an error instead of silence.
        socket.router_mandatory = True
        socket.maxmsgsize = limits.max_message + FRAME_ALLOWANCE
        socket.handshake_ivl = 5_000
        socket.backlog = 1024
        socket.sndhwm = 1000
        # A reader that libzmq has stopped, and whose connection then ends, may abort the process
        # (libzmq 4.3.5, issue 4841): whoever floods us has a key, and its session bounds it.
        socket.rcvhwm = 0
        socket.tcp_keepalive = 1
        # ZMTP's heartbeats end connections that are half open. A client without keys answers them
        # in its loop, which may be busy for longer than a session may be silent.
        socket.heartbeat_ivl = 2_000
        socket.heartbeat_timeout = 15_000

    def _bind(self, endpoint: Endpoint) -> None:
        if endpoint.path is not None:
            file = SocketFile(endpoint.path)
            file.take()
            self._files.append(file)
        for address in endpoint.zmq_addresses():
            # Applies to the next bind only. With it IPv4 addresses would be told in IPv6's way.
            self._socket.ipv6 = "[" in address
            try:
                with for_this_user():
                    self._socket.bind(address)
            except zmq.ZMQError as error:
                raise cannot_listen(address, error, error.errno) from error
            bound = self._socket.getsockopt(zmq.LAST_ENDPOINT)
            self.addresses.append(bytes(bound).rstrip(b"\0").decode())
        if endpoint.path is not None:
            file.protect()

    def attend(self, due: Callable[[], None]) -> None:
        # Edge-triggered: `readable` has to be asked after each use of the socket.
        self._loop.add_reader(int(self._socket.fd), due)

    def ignore(self) -> None:
        self._loop.remove_reader(int(self._socket.fd))

    def tick(self, now: float) -> None:
        self._authenticator.answer()

    def readable(self) -> bool:
        # Not the attribute `events`: it takes three times as long, and is asked each turn.
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & _READABLE)

    def receive(self, count: int, size: int) -> list[Arrival]:
        arrivals: list[Arrival] = []
        while len(arrivals) < count and size > 0:
            arrival = self._receive()
            if arrival is None:
                break
            arrivals.append(arrival)
            size -= len(arrival[1])
            # To ask is quicker than to fail.
            if not self.readable():
                break
        return arrivals

    def _receive(self) -> Arrival | None:
        socket = self._socket
        try:
            if self._skipping and not self._skip():
                return None
            route = socket.recv(_NOW)
            # Uncopied, it tells whether it is the last part, and whose key it came with. To ask
            # the socket takes longer.
            frame = socket.recv(_NOW, copy=False)
        except zmq.Again:
            return None
        user = str(frame.get("User-Id"))
        if frame.more:
            # Not ours. Its parts are taken one by one: a million of them must not stall the loop.
            self._skipping = True
            return route, b"", user
        return route, frame.bytes, user

    def _skip(self) -> bool:
        for _ in range(_PARTS):
            if not self._socket.rcvmore:
                self._skipping = False
                return True
            self._socket.recv(_NOW)
        return False

    def send(self, route: bytes, data: bytes) -> bool | None:
        try:
            self._socket.send(route, _MORE)
            self._socket.send(data, _NOW)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return None
            raise
        return True

    async def close(self) -> None:
        if self._socket.closed:
            return
        self.ignore()
        self._authenticator.stop(self._loop)
        self._socket.close()
        self._context.term()
        for file in self._files:
            file.release()
