"""A link without keys: ZMTP over an asyncio transport.

What is sent leaves, and what arrives is looked at, in the loop's own thread. libzmq's threads would
cost a message two changes of thread on its way through this process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from .buffers import BUFFER_SIZE, widen
from .link import FRAMES_PER_TURN, Stage, Take
from .zmtp import Dealer, ForeignPeerError, OtherMechanismError, framed

#: To look a member up in its Enum takes as long as a call.
_CONNECTED = Stage.CONNECTED

#: The largest frame that is taken, in bytes. The broker keeps limits of its own.
_LARGEST = 1 << 30


class PlainLink(asyncio.BufferedProtocol):
    """A `Link`, for connections that are neither encrypted nor authenticated."""

    def __init__(self, endpoint: str, take: Take, lost: Callable[[], None]) -> None:
        self.endpoint = endpoint
        self.stage = Stage.CONNECTING
        self.held_back = False
        self._take = take
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._dealer = Dealer(_LARGEST)
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._arrived: deque[bytes] = deque()
        #: Frames that wait for the end of the handshake.
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._again: asyncio.Handle | None = None
        self._is_paused = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else self.stage.name.lower()
        return f"<PlainLink {self.endpoint} {state} arrived={len(self._arrived)}>"

    async def open(self) -> None:
        scheme, _, place = self.endpoint.partition("://")
        if scheme == "ipc":
            await self._loop.create_unix_connection(lambda: self, place)
        else:
            host, _, port = place.rpartition(":")
            await self._loop.create_connection(lambda: self, host.strip("[]"), int(port))

    def send(self, frame: bytes) -> None:
        if self._transport is None:
            return
        if self._dealer.is_ready:
            self._transport.write(framed(frame))
        else:
            self._early.append(frame)

    def read_on(self) -> None:
        self.held_back = False
        if self._again is None:
            self._hand_on()

    def close(self) -> None:
        self._is_closed = True
        if self._again is not None:
            self._again.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def finish(self, timeout: float) -> None:
        self._is_closed = True
        if self._transport is None:
            return
        self._transport.close()
        try:
            await asyncio.wait([self._ended], timeout=timeout)
        finally:
            self.close()

    # -- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._is_closed:
            self._transport.abort()
            return
        self.stage = Stage.CONNECTED
        widen(transport)
        self._transport.write(Dealer.opening)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_closed or self._transport is None:
            return
        try:
            self._arrived += self._dealer.read(self._buffer, nbytes)
        except OtherMechanismError:
            self.stage = Stage.NEEDS_KEYS
            self._transport.abort()
            return
        except ForeignPeerError:
            self._transport.abort()
            return
        if self._dealer.answers:
            self._transport.write(self._dealer.take_answers())
        if self.stage is _CONNECTED and self._dealer.is_ready:
            self.stage = Stage.SPEAKING
            self._transport.writelines(framed(frame) for frame in self._early)
            self._early.clear()
        if self._again is None and not self.held_back:
            self._hand_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._ended.done():
            self._ended.set_result(None)
        # What arrived before the end counts.
        while self._arrived and not self._is_closed:
            self._take(self._arrived.popleft())
        if not self._is_closed:
            self._lost()

    def _hand_on(self) -> None:
        self._again = None
        for _ in range(FRAMES_PER_TURN):
            if not self._arrived:
                break
            self.held_back = not self._take(self._arrived.popleft())
            if self.held_back or self._is_closed:
                break
        if self._transport is None or self._is_closed:
            return
        if not self._arrived and not self.held_back:
            if self._is_paused:
                self._is_paused = False
                self._transport.resume_reading()
            return
        # The other side waits as well, once the system's buffers are full.
        self._is_paused = True
        self._transport.pause_reading()
        if not self.held_back:
            self._again = self._loop.call_soon(self._hand_on)
