"""The adapters, against a broker process, do what the contracts say."""

from __future__ import annotations

from typing import Any

import pytest
from corekit_zeromq.cache import Cache
from corekit_zeromq.event_queue import EventQueue
from corekit_zeromq.lock import Lock
from corekit_zeromq.pub_sub import PubSub

from corekit.adapters import CacheAdapter, EventQueueAdapter, LockAdapter, PubSubAdapter
from corekit.config import BackendURL
from corekit.errors import BackendUnavailable
from corekit.testing.cache import CacheSuite
from corekit.testing.contexts import make_context
from corekit.testing.event_queue import EventQueueSuite
from corekit.testing.lock import LockSuite
from corekit.testing.pub_sub import PubSubSuite

from .processes import BrokerProcess


def connection_of(adapter: Any) -> Any:
    """Return the connection of *adapter*."""
    return adapter._client.connection


class _WithBroker:
    @pytest.fixture(autouse=True)
    def give_broker(self, shared_broker: BrokerProcess) -> None:
        """Let the suite find its broker."""
        self.broker = shared_broker

    @property
    def url(self) -> BackendURL:
        return BackendURL.parse(self.broker.url)

    async def kill(self, adapter: Any) -> None:
        link = connection_of(adapter).link
        await link._tasks.close()
        link._drop_link()

    async def cut(self, adapter: Any) -> None:
        connection_of(adapter).link.end(BackendUnavailable("cut by the test"))

    async def restart(self) -> None:
        self.broker.restart()


class TestCache(_WithBroker, CacheSuite):
    """The clauses of the cache."""

    def make_adapter(self) -> CacheAdapter:
        return Cache(self.url, make_context())


class TestEventQueue(_WithBroker, EventQueueSuite):
    """The clauses of the event queue."""

    def make_adapter(self) -> EventQueueAdapter:
        return EventQueue(self.url, make_context())


class TestLock(_WithBroker, LockSuite):
    """The clauses of the locks."""

    def make_adapter(self) -> LockAdapter:
        return Lock(self.url, make_context())


class TestPubSub(_WithBroker, PubSubSuite):
    """The clauses of the pub/sub."""

    def make_adapter(self) -> PubSubAdapter:
        adapter = PubSub(self.url, make_context())
        self.made = [*getattr(self, "made", ()), adapter]
        return adapter

    async def interrupt(self) -> None:
        for adapter in self.made:
            await self.cut(adapter)
