"""Instances of applications that share locks, and a backend that does what a test tells it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from corekit.adapters import Guarantee
from corekit.managers.context import ManagerContext
from corekit.managers.lock import LockManager
from corekit.memory.lock import LockHub, MemoryLock
from corekit.serialization import Serializer
from corekit.testing.contexts import make_context
from corekit.transactions import AfterCommit


class Backend(MemoryLock):
    """A lock adapter that hangs or fails where the test says so, and counts calls."""

    def __init__(self, hub, context):
        super().__init__(hub, context)
        self.calls = []
        self.failures = {}
        """By method: what it raises."""
        self.hanging = {}
        """By method: the event for which it waits first."""
        self.late = {}
        """By method: the event for which it waits before it returns what it has done."""
        self.late_failures = {}
        """By method: what it raises instead."""

    async def _point(self, method, *arguments):
        self.calls.append(method)
        if method in self.hanging:
            await self.hanging[method].wait()
        if method in self.failures:
            raise self.failures[method]
        result = await getattr(MemoryLock, method)(self, *arguments)
        if method in self.late:
            await self.late[method].wait()
        if method in self.late_failures:
            raise self.late_failures[method]
        return result

    async def open(self):
        await self._point("open")

    async def close(self):
        await self._point("close")

    async def acquire(self, name, ttl, wait):
        return await self._point("acquire", name, ttl, wait)

    async def extend(self, grant, ttl):
        return await self._point("extend", grant, ttl)

    async def release(self, grant):
        await self._point("release", grant)

    async def announce(self, grant, value):
        return await self._point("announce", grant, value)

    def hang(self, method):
        """Let *method* wait, from now on, before it does anything; return what lets it go."""
        self.hanging[method] = asyncio.Event()
        return self.hanging[method]

    def answer_late(self, method):
        """Let *method* wait, from now on, after it was done; return what lets it go."""
        self.late[method] = asyncio.Event()
        return self.late[method]

    async def take_away(self, lease):
        """Let the backend forget *lease*, as after a failure of its own."""
        await MemoryLock.release(self, lease.grant)


class RemoteBackend(Backend):
    """A backend in another process, whose clock is not ours."""

    guarantees = frozenset({Guarantee.FAIR, Guarantee.SHARED})
    least_ttl = 2.0


class Locks:
    """Makes instances whose locks meet in one hub."""

    def __init__(self, clock):
        self.clock = clock
        self.hub = LockHub()

    def context(self, app="shop", instance="a"):
        """Return the context of the managers of one instance."""
        return ManagerContext(app, instance, self.clock, Serializer(), AfterCommit())

    def manager(self, app="shop", instance="a"):
        """Return a manager that is not opened."""
        return LockManager(self.context(app, instance))

    def backend(self, kind=Backend):
        return kind(self.hub, make_context(clock=self.clock))

    @asynccontextmanager
    async def running(self, *apps):
        """Open one manager for each of *apps*."""
        managers = [self.manager(app, f"{app}-{number}") for number, app in enumerate(apps)]
        for manager in managers:
            await manager.open(self.backend())
        try:
            yield managers
        finally:
            for manager in managers:
                await manager.close()

    @asynccontextmanager
    async def on_backend(self, kind=Backend):
        """Open one manager on a backend that the test controls."""
        manager, backend = self.manager(), self.backend(kind)
        await manager.open(backend)
        try:
            yield manager, backend
        finally:
            backend.failures.clear()
            backend.hanging.clear()
            await manager.close()

    def free(self):
        """Tell whether nobody holds anything."""
        return repr(self.hub) == "<LockHub held=0 waiting=0>"


@pytest.fixture
def locks(clock):
    """Return a maker of instances; the test runs in virtual time."""
    return Locks(clock)
