"""Pub/sub inside one process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ..adapters import AdapterContext, Guarantee, MessageReceiver
from ..config import BackendURL
from ..errors import NotOpenError
from .hub import OPTIONS, hub

#: How many payloads a subscriber is given in one turn of its loop, and may find waiting before
#: publishers let it have a turn: bursts do not overflow the buffers of handlers that keep up.
_BATCH = 256

#: How many payloads may wait for a subscriber whose loop does not turn.
_LIMIT = 65_536


class Exchange:
    """The channels of one hub. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Tuples, which are replaced whole: publishers read without taking the lock.
        self.subscribers: dict[str, tuple[Feed, ...]] = {}

    def __repr__(self) -> str:
        return f"<Exchange channels={len(self.subscribers)}>"

    def add(self, feed: Feed) -> None:
        """Let *feed* have what is published on its channel from now on."""
        with self._lock:
            self.subscribers[feed.channel] = (*self.subscribers.get(feed.channel, ()), feed)

    def remove(self, feed: Feed) -> None:
        """Let *feed* have nothing any more."""
        with self._lock:
            left = tuple(f for f in self.subscribers.get(feed.channel, ()) if f is not feed)
            if left:
                self.subscribers[feed.channel] = left
            else:
                self.subscribers.pop(feed.channel, None)


class Feed:
    """One adapter's subscription to one channel."""

    __slots__ = ("channel", "gap", "inbox", "open")

    def __init__(self, channel: str, inbox: Inbox) -> None:
        self.channel = channel
        self.inbox = inbox
        self.open = True
        #: Whether something was dropped since it was last told.
        self.gap = False

    def __repr__(self) -> str:
        return f"<Feed {self.channel!r} {'open' if self.open else 'closed'}>"


class Inbox:
    """What waits for one receiver, to be given to it in its own loop."""

    def __init__(self, receiver: MessageReceiver, leave: Callable[[], None]) -> None:
        self._receiver = receiver
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Feed, bytes]] = deque()
        self._scheduled = False

    def __repr__(self) -> str:
        return f"<Inbox waiting={len(self._waiting)}>"

    def put(self, feed: Feed, payload: bytes, loop: asyncio.AbstractEventLoop) -> bool:
        """Add *payload*, from the running *loop*; tell whether the receiver has plenty waiting."""
        waiting = self._waiting
        waiting.append((feed, payload))
        if len(waiting) > _LIMIT:
            waiting.popleft()[0].gap = True
        # Delivering unsets the mark before it looks: either it finds the payload, or we the mark
        # unset, whichever thread is first.
        if not self._scheduled:
            self._scheduled = True
            if loop is self._loop:
                loop.call_soon(self._deliver)
            else:
                self._call_other_loop()
        if len(waiting) < _BATCH:
            return False
        if self._loop.is_closed():
            # It ended without closing its adapter: nobody will ever take this.
            self._leave()
            waiting.clear()
        return True

    def _call_other_loop(self) -> None:
        # A closed loop is found out when much waits for it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        waiting = self._waiting
        batch: list[bytes] = []
        current: Feed | None = None
        for _ in range(min(len(waiting), _BATCH)):
            feed, payload = waiting.popleft()
            if feed is not current:
                self._hand_over(current, batch)
                current, batch = feed, []
            batch.append(payload)
        self._hand_over(current, batch)
        if waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _hand_over(self, feed: Feed | None, batch: list[bytes]) -> None:
        if feed is None or not feed.open:
            return
        if feed.gap:
            feed.gap = False
            self._receiver.gap(feed.channel)
        self._receiver.messages(feed.channel, batch)


class MemoryPubSub:
    """Publishes to all adapters of the process that share the exchange."""

    guarantees = frozenset({Guarantee.ORDERED})

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._inbox: Inbox | None = None
        self._feeds: dict[str, Feed] = {}

    def __repr__(self) -> str:
        state = "closed" if self._inbox is None else "open"
        return f"<MemoryPubSub {state} channels={len(self._feeds)}>"

    async def open(self, receiver: MessageReceiver) -> None:
        self._inbox = Inbox(receiver, self._leave)

    async def close(self) -> None:
        self._inbox = None
        self._leave()

    async def publish(self, channel: str, payload: bytes) -> None:
        self._opened()
        loop = asyncio.get_running_loop()
        plenty = False
        for feed in self._exchange.subscribers.get(channel, ()):
            plenty |= feed.inbox.put(feed, payload, loop)
        if plenty:
            await asyncio.sleep(0)

    async def subscribe(self, channel: str) -> None:
        inbox = self._opened()
        if channel not in self._feeds:
            feed = self._feeds[channel] = Feed(channel, inbox)
            self._exchange.add(feed)

    async def unsubscribe(self, channel: str) -> None:
        self._opened()
        self._drop(channel)

    def _opened(self) -> Inbox:
        if self._inbox is None:
            raise NotOpenError("memory pub/sub is not open")
        return self._inbox

    def _leave(self) -> None:
        for channel in list(self._feeds):
            self._drop(channel)

    def _drop(self, channel: str) -> None:
        feed = self._feeds.pop(channel, None)
        if feed is not None:
            feed.open = False
            self._exchange.remove(feed)


def memory_pub_sub(url: BackendURL, context: AdapterContext) -> MemoryPubSub:
    """Build the pub/sub of `memory://NAME`, between all Apps of this process with this URL."""
    url.refuse_other_options(*OPTIONS)
    return MemoryPubSub(hub(url, context, Exchange))
