"""Bare pyzmq through a proxy: the limit of what ZeroMQ can do message by message."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import zmq

from ..contracts import Offer, Peer
from ..settings import Settings

_POLL = 0.005


class _PubSub:
    """Sockets that are written and read at once, and waited for by their file descriptor."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], url: str, channels: int) -> None:
        self.channels = [f"channel-{number}".encode() for number in range(channels)]
        host, _, port = url.rpartition(":")
        # Unlike PUB it is told of subscriptions, and can wait for them.
        self._publisher = _socket(context, zmq.XPUB, url)
        self._subscriber = _socket(context, zmq.SUB, f"{host}:{int(port) + 1}")
        self._loop = asyncio.get_running_loop()
        self._awaited = set(self.channels)

    async def publish(self, channel: bytes, body: bytes) -> None:
        while self._awaited:
            while self._publisher.poll(0):
                self._awaited.discard(self._publisher.recv()[1:])
            await asyncio.sleep(_POLL if self._awaited else 0)
        self._publisher.send_multipart((channel, body))

    async def flush(self) -> None:
        pass  # its thread sends by itself; closing waits for it

    async def subscribe(self, handle: Callable[[bytes], None]) -> None:
        for channel in self.channels:
            self._subscriber.subscribe(channel)
        # Nothing tells that a subscription has arrived, but a message that comes back: of a
        # channel of its own, which is subscribed after the others.
        probe = os.urandom(8)
        self._subscriber.subscribe(probe)
        while not self._subscriber.poll(0):
            self._publisher.send_multipart((probe, b""))
            await asyncio.sleep(_POLL)
        self._subscriber.unsubscribe(probe)
        self._loop.add_reader(self._subscriber.fileno(), self._read, handle, probe)
        self._read(handle, probe)

    def _read(self, handle: Callable[[bytes], None], probe: bytes) -> None:
        # The descriptor tells only of changes: read until nothing is left.
        while self._subscriber.poll(0):
            channel, body = self._subscriber.recv_multipart()
            if channel != probe:
                handle(body)

    def close(self) -> None:
        self._loop.remove_reader(self._subscriber.fileno())
        self._subscriber.close(linger=0)
        self._publisher.close(linger=5000)


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    # The workload's window bounds what is on its way.
    socket.set_hwm(0)
    socket.connect(address)
    return socket


@asynccontextmanager
async def _open(url: str, name: str, settings: Settings) -> AsyncIterator[_PubSub]:
    with zmq.Context() as context:
        pub_sub = _PubSub(context, url, settings.channels)
        try:
            yield pub_sub
        finally:
            pub_sub.close()


PEER = Peer(
    distributions=("pyzmq",),
    statement="import zmq",
    offers=(
        Offer(
            "bare pyzmq",
            "pub_sub",
            _open,
            "at most once, bytes only, nothing is checked",
            server="zmq proxy",
        ),
    ),
)
