"""Tools for testing adapters, and applications that use corekit. Needs pytest.

Load it with `-p corekit.testing` (in pytest's `addopts`). It runs async tests, each on a fresh
event loop; a test that asks for the fixture `clock` runs on a `VirtualClock`, where hours take no
time.

For adapters there is a suite for each contract. It is a plain class, and each of its tests is one
clause of the contract, which its docstring states. Inherit it and say how to make your adapter:

    class TestMyLock(LockSuite):
        def make_adapter(self) -> LockAdapter:
            return my_lock(BackendURL.parse("mine://localhost"), make_context(clock=self.clock))

- `make_adapter` returns a new, unopened adapter. Several of them play several processes, so all of
  one test must meet in one backend, which tests may share: each uses names of its own.
- Clauses that prove a guarantee run where the adapter declares it in `guarantees`, and are skipped,
  with the reason, elsewhere. So are those that need a method which only you can write, such as
  `restart`, `kill`, `cut` or `interrupt`: override it. A `Proxy` before the server cuts and
  interrupts connections without its help, and holds, halves, loses or delays what passes.
- Attributes such as `ttl`, `tick` and `late` say how quick the backend is; lengthen them for a slow
  one. Adapters that live in this process and go by `self.clock` only set `virtual = True`.
- A lock adapter that keeps members passes the `MembershipSuite` beside the `LockSuite`.

For applications: `memory://` needs nothing installed, two Apps with one URL play two instances,
`drop_memory` forgets between tests what they left there, and `eventually` waits for a condition.
`missing` skips a test whose server is not installed, but fails it in CI; `free_port` finds a port
for one that the test starts, and may start again.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from ..memory.hub import drop as drop_memory
from .absence import missing
from .cache import CacheSuite
from .clock import VirtualClock
from .contexts import make_context
from .event_queue import EventQueueSuite
from .lock import LockSuite
from .membership import MembershipSuite
from .ports import free_port
from .proxy import Proxy
from .pub_sub import PubSubSuite
from .waiting import eventually

__all__ = [
    "CacheSuite",
    "EventQueueSuite",
    "LockSuite",
    "MembershipSuite",
    "Proxy",
    "PubSubSuite",
    "VirtualClock",
    "drop_memory",
    "eventually",
    "free_port",
    "make_context",
    "missing",
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
