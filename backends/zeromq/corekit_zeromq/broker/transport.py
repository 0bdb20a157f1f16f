"""The ROUTER socket: frames in and out, without waiting."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import zmq

from ..protocol import FRAME_ALLOWANCE
from . import exits
from .addresses import Endpoint, SocketFile
from .exits import BrokerRefused
from .limits import Limits
from .security import Authenticator

logger = logging.getLogger("corekit.broker")

#: Parts of a foreign message that are thrown away in one turn.
_PARTS = 1000

#: As plain numbers: to combine flags of an Enum takes longer than to send a message.
_NOW = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)


class Transport:
    """One socket for all clients. `receive` and `send` never block."""

    def __init__(
        self, listen: Sequence[Endpoint], limits: Limits, authenticator: Authenticator | None
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._authenticator = authenticator
        self._skipping = False
        self._files: list[SocketFile] = []
        self.addresses: list[str] = []
        try:
            self._set_up(limits)
            if authenticator is not None:
                authenticator.protect(self._socket)
            for endpoint in listen:
                self._bind(endpoint)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Transport {self.addresses}>"

    def _set_up(self, limits: Limits) -> None:
        socket = self._socket
        socket.linger = 500
        # To an unknown connection: an error instead of silence.
        socket.router_mandatory = True
        socket.maxmsgsize = limits.max_message + FRAME_ALLOWANCE
        socket.handshake_ivl = 5_000
        socket.backlog = 1024
        socket.sndhwm = 1000
        socket.rcvhwm = 1000
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
            # No moment in which the socket's file is open to others.
            umask = os.umask(0o177)
            try:
                self._socket.bind(address)
            except zmq.ZMQError as error:
                status = exits.IN_USE if error.errno == zmq.EADDRINUSE else exits.UNAVAILABLE
                raise BrokerRefused(status, f"cannot listen on {address}: {error}") from error
            finally:
                os.umask(umask)
            bound = self._socket.getsockopt(zmq.LAST_ENDPOINT)
            self.addresses.append(bytes(bound).rstrip(b"\0").decode())
        if endpoint.path is not None:
            file.protect()

    async def probe(self) -> None:
        """Check that strangers do not get in; raises BrokerRefused if they do."""
        if self._authenticator is not None:
            for address in self.addresses:
                await self._authenticator.probe(address, self._context)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when something *changed*.

        It is edge-triggered: `readable` has to be asked after each use of the socket.
        """
        return int(self._socket.fd)

    def readable(self) -> bool:
        """Whether there is something to receive."""
        # Not the attribute `events`: it takes three times as long, and is asked each turn.
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & _READABLE)

    def receive(self) -> tuple[bytes, bytes, str] | None:
        """Return connection, frame and key of the next frame, None if there is none now."""
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
        user = "" if self._authenticator is None else str(frame.get("User-Id"))
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
        """Send a frame: True; False if the connection is full; None if it has gone."""
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

    def close(self) -> None:
        """Close the socket; what was sent leaves within half a second."""
        if self._socket.closed:
            return
        self._socket.close()
        if self._authenticator is not None:
            self._authenticator.close()
        self._context.term()
        for file in self._files:
            file.release()
