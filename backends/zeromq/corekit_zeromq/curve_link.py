"""A link with keys: libzmq's CURVE, which encrypts and authenticates both sides."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from .link import FRAMES_PER_TURN, Stage, Take
from .settings import Keys

#: Frames that libzmq reads ahead.
_READ_AHEAD = 100

#: The server answers the connection, but not as a broker does, within so many milliseconds.
_HANDSHAKE = 3000

_WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

_FAILED = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
}

#: By process: a context does not survive a fork.
_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    # Not zmq.Context.instance(), which belongs to the application.
    context = _contexts.get(os.getpid())
    if context is None:
        context = _contexts[os.getpid()] = zmq.Context()
        context.max_sockets = 65535
    return context


class CurveLink:
    """A `Link` whose DEALER socket connects once, with keys."""

    def __init__(self, endpoint: str, keys: Keys, take: Take, lost: Callable[[], None]) -> None:
        self.endpoint = endpoint
        self.stage = Stage.CONNECTING
        self._take = take
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self.held_back = False
        self._socket = _make_socket(keys)
        self._monitor = self._socket.get_monitor_socket(_WATCHED)
        self._fds = self._socket.FD, self._monitor.FD
        self._loop.add_reader(self._fds[0], self._readable)
        self._loop.add_reader(self._fds[1], self._happened)

    def __repr__(self) -> str:
        state = "closed" if self._socket.closed else self.stage.name.lower()
        return f"<CurveLink {self.endpoint} {state}>"

    async def open(self) -> None:
        self._socket.connect(self.endpoint)
        # Descriptors tell changes only: what happened up to here has to be looked at.
        self._loop.call_soon(self._happened)
        self._again = self._loop.call_soon(self._readable)

    def send(self, frame: bytes) -> None:
        self._socket.send(frame, zmq.NOBLOCK)
        # The descriptor is edge-triggered, and sending may have consumed the edge.
        if self._again is None and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._again = self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self.held_back:
            return
        for _ in range(FRAMES_PER_TURN):
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.held_back = not self._take(frame)
            if self.held_back or self._socket.closed:
                return
        if self._again is None:
            self._again = self._loop.call_soon(self._readable)

    def read_on(self) -> None:
        self.held_back = False
        if not self._socket.closed:
            self._readable()

    def _happened(self) -> None:
        while not self._socket.closed:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            except zmq.Again:
                return
            if event == zmq.EVENT_CONNECTED:
                self.stage = Stage.CONNECTED
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.stage = Stage.SPEAKING
            elif event in _FAILED:
                self.stage = Stage.REFUSED
            else:
                self._ended()

    def _ended(self) -> None:
        # What arrived before the end counts.
        while not self._socket.closed:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._take(frame)
        if not self._socket.closed:
            self._lost()

    def close(self) -> None:
        self._close(linger=0)

    async def finish(self, timeout: float) -> None:
        # In the background, by libzmq's thread.
        self._close(linger=int(timeout * 1000))

    def _close(self, linger: int) -> None:
        if self._socket.closed:
            return
        if self._again is not None:
            self._again.cancel()
        for fd in self._fds:
            self._loop.remove_reader(fd)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger)


def _make_socket(keys: Keys) -> zmq.Socket[bytes]:
    socket = _context().socket(zmq.DEALER)
    socket.linger = 0
    # The session bounds what is under way: libzmq must not refuse it.
    socket.sndhwm = 0
    socket.rcvhwm = _READ_AHEAD
    # It would come back under another routing id, in the middle of our session.
    socket.reconnect_ivl = -1
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, _HANDSHAKE)
    socket.setsockopt(zmq.IPV6, 1)
    socket.curve_serverkey = keys.server
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
    return socket
