"""The memory adapter of pub/sub: the suite, and what only it can be asked."""

from __future__ import annotations

import asyncio
import threading

import pytest

from corekit.config import BackendURL
from corekit.errors import ConfigurationError
from corekit.memory.pub_sub import Exchange, MemoryPubSub, memory_pub_sub
from corekit.testing import eventually
from corekit.testing.contexts import make_context
from corekit.testing.pub_sub import PubSubSuite
from corekit.testing.pub_sub_process import Process


class TestMemoryPubSub(PubSubSuite):
    """Memory passes the suite."""

    virtual = True

    def make_adapter(self):
        return memory_pub_sub(BackendURL.parse("memory://suite"), make_context(clock=self.clock))


def made(url="memory://", app="shop"):
    """Return an adapter and its receiver."""
    return Process(memory_pub_sub(BackendURL.parse(url), make_context(app=app)))


async def test_apps_with_one_url_meet():
    """Adapters meet by the URL's name, without one by the application's."""
    shop, twin, other, named = made(), made(), made(app="other"), made("memory://named")
    processes = (shop, twin, other, named)
    for process in processes:
        await process.adapter.open(process)
        await process.adapter.subscribe("c")
    await shop.adapter.publish("c", b"1")
    await eventually(lambda: twin.arrived)
    await asyncio.sleep(0.01)
    assert [bool(process.arrived) for process in processes] == [True, True, False, False]
    for process in processes:
        await process.adapter.close()


def test_options():
    """The options of the cache may stand in the URL, which may be for all components."""
    made("memory://x?max=5&copy=1")
    with pytest.raises(ConfigurationError, match="nonsense"):
        made("memory://x?nonsense=1")


async def test_what_nobody_uses_costs_nothing():
    """The exchange keeps nothing of channels that were left."""
    exchange = Exchange()
    processes = [Process(MemoryPubSub(exchange)) for _ in range(3)]
    for process in processes:
        await process.adapter.open(process)
        for n in range(100):
            await process.adapter.subscribe(str(n))
    assert repr(exchange) == "<Exchange channels=100>"
    for n in range(50):
        for process in processes:
            await process.adapter.unsubscribe(str(n))
    assert repr(exchange) == "<Exchange channels=50>"
    assert repr(processes[0].adapter) == "<MemoryPubSub open channels=50>"
    for process in processes:
        await process.adapter.close()
    assert repr(exchange) == "<Exchange channels=0>"
    assert repr(processes[0].adapter) == "<MemoryPubSub closed channels=0>"


class Elsewhere(Process):
    """An adapter that is open in a loop of its own, in another thread."""

    def __init__(self, exchange, channel="c"):
        super().__init__(MemoryPubSub(exchange))
        self.channel = channel
        self.ready = threading.Event()
        self.end = threading.Event()
        self.pause = threading.Event()
        self.pause.set()
        self.blocked = threading.Event()
        self._running = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def __aenter__(self):
        self._running.start()
        await asyncio.to_thread(self.ready.wait)
        return self

    async def __aexit__(self, *_):
        self.end.set()
        await asyncio.to_thread(self._running.join)

    async def _main(self):
        self.thread = threading.get_ident()
        await self.adapter.open(self)
        await self.adapter.subscribe(self.channel)
        self.ready.set()
        while not self.end.is_set():
            if not self.pause.is_set():
                # Blocks this thread's loop, as a bad application would.
                self.blocked.set()
                self.pause.wait()
            await asyncio.sleep(0.001)
        await self.adapter.close()


async def test_loops_in_other_threads():
    """Each adapter is given its messages in its own loop, in order, from whatever thread."""
    exchange = Exchange()
    here = Process(MemoryPubSub(exchange))
    await here.adapter.open(here)
    await here.adapter.subscribe("c")
    async with Elsewhere(exchange) as one, Elsewhere(exchange) as two:
        for n in range(5000):
            await here.adapter.publish("c", b"%d" % n)
        expected = [b"%d" % n for n in range(5000)]
        for process in (here, one, two):
            await eventually(lambda p=process: len(p.payloads("c")) == 5000)
            assert process.payloads("c") == expected
    await here.adapter.close()


async def test_publishers_in_several_threads():
    """Publishers in several threads lose nothing, and each one's order is kept."""
    exchange = Exchange()

    async def publishing(name):
        process = Process(MemoryPubSub(exchange))
        await process.adapter.open(process)
        for n in range(3000):
            await process.adapter.publish("c", b"%s %d" % (name, n))
        await process.adapter.close()

    async with Elsewhere(exchange) as listener:
        names = [b"a", b"b", b"c"]
        await asyncio.gather(
            *(asyncio.to_thread(lambda n=name: asyncio.run(publishing(n))) for name in names)
        )
        await eventually(lambda: len(listener.payloads("c")) == 9000)
        for name in names:
            mine = [p for p in listener.payloads("c") if p.startswith(name)]
            assert mine == [b"%s %d" % (name, n) for n in range(3000)]


async def test_a_publisher_that_never_pauses_lets_others_run(monkeypatch):
    """Publishing in a loop gives way before what waits overflows."""
    monkeypatch.setattr("corekit.memory.pub_sub._LIMIT", 300)
    here = Process(MemoryPubSub(Exchange()))
    await here.adapter.open(here)
    await here.adapter.subscribe("c")
    for n in range(5000):
        await here.adapter.publish("c", b"%d" % n)
    await eventually(lambda: b"4999" in here.payloads("c"))
    assert here.arrived["c"] == [b"%d" % n for n in range(5000)]
    await here.adapter.close()


async def test_a_loop_that_stands_still(monkeypatch):
    """What waits for a blocked loop is bounded: the oldest go, and the gap is told."""
    monkeypatch.setattr("corekit.memory.pub_sub._LIMIT", 1000)
    exchange = Exchange()
    here = Process(MemoryPubSub(exchange))
    await here.adapter.open(here)
    async with Elsewhere(exchange) as blocked:
        await here.adapter.publish("c", b"first")
        await eventually(lambda: blocked.arrived)
        blocked.pause.clear()
        await asyncio.to_thread(blocked.blocked.wait)
        for n in range(3000):
            await here.adapter.publish("c", b"%d" % n)
        blocked.pause.set()
        await eventually(lambda: b"2999" in blocked.payloads("c"))
        assert blocked.arrived["c"] == [b"first", None, *(b"%d" % n for n in range(2000, 3000))]
    await here.adapter.close()


async def test_a_loop_that_ended_without_closing():
    """Publishing to an adapter whose loop is gone is no error, and is forgotten in the end."""
    exchange = Exchange()

    async def leaving():
        process = Process(MemoryPubSub(exchange))
        await process.adapter.open(process)
        await process.adapter.subscribe("c")

    await asyncio.to_thread(lambda: asyncio.run(leaving()))
    here = Process(MemoryPubSub(exchange))
    await here.adapter.open(here)
    await here.adapter.subscribe("c")
    (gone, _) = exchange.subscribers["c"]
    for n in range(1000):
        await here.adapter.publish("c", b"%d" % n)
    await eventually(lambda: len(here.payloads("c")) == 1000)
    assert len(exchange.subscribers["c"]) == 1
    assert repr(gone.inbox) == "<Inbox waiting=0>"
    await here.adapter.close()
