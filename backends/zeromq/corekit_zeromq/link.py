"""One connection to a broker, as long as it holds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from enum import Enum

import zmq
from zmq.utils.monitor import recv_monitor_message

from .settings import Keys

#: Frames that are handed on in one turn of the loop, so that a flood starves nobody else in it.
_FRAMES_PER_TURN = 16

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


class Stage(Enum):
    """How far a link came; each value completes the sentence "... at ADDRESS"."""

    CONNECTING = "nothing answers"
    # A broker that demands keys may close the connection before it has said so.
    CONNECTED = "something that is not a corekit broker, or wants server_key and key_file, answers"
    REFUSED = "the broker does not accept the keys"
    NEEDS_KEYS = "the broker demands keys (server_key and key_file)"
    SPEAKING = "something that is not a corekit broker, or hangs, answers"


class Link:
    """A DEALER socket that connects once and is closed when the connection ends.

    *take* gets each frame that arrives and returns whether it can take another; if not, nothing is
    read until `read_on`. *lost* is called once, when the connection could not be made or has ended.
    Neither is called after `close`.
    """

    def __init__(
        self,
        endpoint: str,
        keys: Keys | None,
        take: Callable[[bytes], bool],
        lost: Callable[[], None],
    ) -> None:
        self.endpoint = endpoint
        self.stage = Stage.CONNECTING
        self._take = take
        self._lost = lost
        self._keys = keys
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        #: Whether reading waits for `read_on`.
        self.held_back = False
        self._socket = self._make_socket()
        self._monitor = self._socket.get_monitor_socket(_WATCHED)
        self._fds = self._socket.FD, self._monitor.FD
        self._loop.add_reader(self._fds[0], self._readable)
        self._loop.add_reader(self._fds[1], self._happened)
        self._socket.connect(endpoint)
        # Descriptors tell changes only: what happened up to here has to be looked at.
        self._loop.call_soon(self._happened)
        self._again = self._loop.call_soon(self._readable)

    def _make_socket(self) -> zmq.Socket[bytes]:
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
        if self._keys is not None:
            socket.curve_serverkey = self._keys.server
            socket.curve_publickey = self._keys.public
            socket.curve_secretkey = self._keys.secret
        return socket

    def __repr__(self) -> str:
        state = "closed" if self._socket.closed else self.stage.name.lower()
        return f"<Link {self.endpoint} {state}>"

    def send(self, frame: bytes) -> None:
        """Send *frame*; it arrives if the link holds."""
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
        for _ in range(_FRAMES_PER_TURN):
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
        """Go on reading."""
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
                self._failed(event)
            else:
                self._ended()

    def _failed(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH or self._keys is not None:
            self.stage = Stage.REFUSED
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self.stage = Stage.NEEDS_KEYS

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

    def close(self, linger: float = 0.0) -> None:
        """Close the socket; what was sent has *linger* seconds to leave, in the background."""
        if self._socket.closed:
            return
        if self._again is not None:
            self._again.cancel()
        for fd in self._fds:
            self._loop.remove_reader(fd)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(int(linger * 1000))
