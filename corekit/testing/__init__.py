"""Tools for testing adapters, and applications that use corekit.

Load it with `-p corekit.testing` (in pytest's `addopts`). A suite is a plain class: inherit it,
say how to make your adapter, and each of its tests is one clause of the contract.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from ..memory.hub import drop as drop_memory
from .cache import CacheSuite
from .clock import VirtualClock
from .contexts import make_context
from .event_queue import EventQueueSuite
from .lock import LockSuite
from .membership import MembershipSuite
from .pub_sub import PubSubSuite
from .waiting import eventually

__all__ = [
    "CacheSuite",
    "EventQueueSuite",
    "LockSuite",
    "MembershipSuite",
    "PubSubSuite",
    "VirtualClock",
    "drop_memory",
    "eventually",
    "make_context",
]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test in a loop of its own: on its `clock` fixture if it is a VirtualClock."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    clock: Any = pyfuncitem.funcargs.get("clock")
    factory = clock.loop if isinstance(clock, VirtualClock) else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(function(**arguments))
    return True


@pytest.fixture
def clock() -> VirtualClock:
    """Return a virtual clock; an async test that asks for it runs on its time."""
    return VirtualClock()
