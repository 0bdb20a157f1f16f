"""Instances of one application that share a store, and a store that does what a test tells it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from corekit.adapters import Guarantee
from corekit.config import BackendURL
from corekit.errors import ConfigurationError
from corekit.managers.cache_manager import CacheManager
from corekit.managers.context import ManagerContext
from corekit.memory.cache import MemoryCache
from corekit.serialization import Serializer
from corekit.testing.contexts import make_context
from corekit.transactions import AfterCommit

_numbers = itertools.count(1)


class Faults:
    """What happens to the calls that all instances make to the store."""

    def __init__(self):
        self.calls = Counter()
        self.failures = {}
        self.hangs = set()
        self.reached = Counter()
        self._released = asyncio.Event()

    def let_go(self):
        self.hangs.clear()
        self._released.set()
        self._released = asyncio.Event()

    async def point(self, method):
        self.calls[method] += 1
        if method in self.hangs:
            self.reached[method] += 1
            await self._released.wait()
        if method in self.failures:
            raise self.failures[method]


class RemoteSpace:
    """A space that is some turns of the loop away, and fails or hangs as a test wants."""

    def __init__(self, inner, faults):
        self.inner = inner
        self.faults = faults

    def __getattr__(self, name):
        method = getattr(self.inner, name)

        async def call(*args):
            await asyncio.sleep(0)
            await self.faults.point(name)
            result = await method(*args)
            await asyncio.sleep(0)
            return result

        return call


class RemoteCache(MemoryCache):
    """A store that several machines could share."""

    def __init__(self, url, context, faults):
        super().__init__(url, context)
        self.guarantees = frozenset({Guarantee.SHARED})
        self.faults = faults

    async def open(self):
        await asyncio.sleep(0)
        await self.faults.point("open")

    async def close(self):
        await self.faults.point("close")

    def space(self, name, **options):
        return RemoteSpace(super().space(name, **options), self.faults)


class Transaction:
    """A transaction whose end the test decides."""

    def __init__(self):
        self.callbacks = []

    def after_commit(self, callback):
        self.callbacks.append(callback)

    def commit(self):
        for callback in self.callbacks:
            callback()


class Shop:
    """An application of several instances; `kind` is reference, copy or remote."""

    Transaction = Transaction

    def __init__(self, clock, kind):
        self.clock = clock
        self.kind = kind
        self.hub = f"hub-{next(_numbers)}"
        self.faults = Faults()
        self.app = "shop"

    def adapter(self, url=None):
        if url is not None and not url.startswith("memory://"):
            raise ConfigurationError(f"no adapter for {url}")
        options = "" if self.kind == "reference" else "?copy=1"
        parsed = BackendURL.parse(url or f"memory://{self.hub}{options}")
        context = make_context(self.app, clock=self.clock)
        if self.kind == "remote":
            return RemoteCache(parsed, context, self.faults)
        return MemoryCache(parsed, context)

    def manager(self, instance="a", app="shop"):
        """Return a manager that is not opened."""
        context = ManagerContext(app, instance, self.clock, Serializer(), AfterCommit())
        return CacheManager(context, self.adapter)

    @asynccontextmanager
    async def running(self, *instances):
        """Open one manager for each of *instances*."""
        async with AsyncExitStack() as stack:
            managers = []
            for instance in instances:
                manager = self.manager(instance)
                await manager.open(self.adapter())
                stack.push_async_callback(manager.close)
                managers.append(manager)
            yield managers

    @asynccontextmanager
    async def cache(self):
        """Open one instance and give its default cache."""
        async with self.running("a") as (manager,):
            yield manager.default

    def space(self, name="shop/cache/default"):
        """Return the space behind a cache, past all faults."""
        return MemoryCache(
            BackendURL.parse(f"memory://{self.hub}"), make_context(clock=self.clock)
        ).space(name)


class Loader:
    """A function that loads: counts its calls, and can be held or made to fail."""

    def __init__(self, *values):
        self.values = list(values)
        self.calls = 0
        self.error = None
        self.held = False
        self._go_on = asyncio.Event()

    async def __call__(self):
        self.calls += 1
        value = self.values.pop(0) if self.values else self.calls
        if self.held:
            await self._go_on.wait()
        if self.error is not None:
            raise self.error
        return value

    def hold(self):
        self.held = True
        return self

    def release(self):
        self.held = False
        self._go_on.set()
        self._go_on = asyncio.Event()


@pytest.fixture(params=["reference", "copy", "remote"])
def shop(request, clock):
    """Return an application on each kind of store; the test runs in virtual time."""
    return Shop(clock, request.param)


@pytest.fixture
def local(clock):
    """Return an application whose store keeps references."""
    return Shop(clock, "reference")


@pytest.fixture(params=["copy", "remote"])
def shared(request, clock):
    """Return an application whose store keeps bytes."""
    return Shop(clock, request.param)


@pytest.fixture
def remote(clock):
    """Return an application whose store is away by some turns of the loop."""
    return Shop(clock, "remote")


@pytest.fixture
def loader():
    """Return the class of functions that load."""
    return Loader


@pytest.fixture(scope="session")
def shops():
    """Return the class of applications, for tests that need many."""
    return Shop
