"""What holders show, and the signals that wake who watches."""

from __future__ import annotations

import asyncio
import threading

import pytest

from corekit.memory.lock import LockHub, MemoryLock
from corekit.memory.membership import Announcements, covers
from corekit.memory.signal import Signal
from corekit.testing import eventually
from corekit.testing.contexts import make_context


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("a/b", True),
        ("a/b/c", True),
        ("a/b/", True),
        ("a/bc", False),
        ("a", False),
        ("x/a/b", False),
    ],
)
def test_a_prefix_ends_at_a_slash(name, covered):
    """A prefix covers itself and what is below it."""
    assert covers("a/b", name) is covered


async def test_nothing_is_kept():
    """Neither values nor watchers outlive the grants and the iterators."""
    hub = LockHub()
    adapter = MemoryLock(hub, make_context())
    states = adapter.watch("a")
    for number in range(100):
        grant = await adapter.acquire(f"a/{number}", 10, 0)
        await adapter.announce(grant, b"")
        await anext(states)
        await adapter.release(grant)
    await states.aclose()
    assert repr(hub._announcements) == "<Announcements values=0 watchers=0>"


async def test_abandoned_values_are_dropped(clock):
    """Values whose holders died do not pile up."""
    hub = LockHub()
    adapter = MemoryLock(hub, make_context(clock=clock))
    for number in range(1000):
        await adapter.announce(await adapter.acquire(f"a/{number}", 1, 0), b"")
        clock.jump(1)
    assert len(hub._announcements.values) <= 64


async def test_watching_from_another_thread():
    """A watcher in another thread's loop sees what is announced here."""
    hub = LockHub()
    seen = []

    async def watch():
        adapter = MemoryLock(hub, make_context())
        async for members in adapter.watch("a"):
            seen.append([member.value for member in members])
            if len(seen) == 2:
                break

    thread = threading.Thread(target=asyncio.run, args=(watch(),))
    thread.start()
    await eventually(lambda: seen == [[]])
    adapter = MemoryLock(hub, make_context())
    await adapter.announce(await adapter.acquire("a/x", 60, 0), b"value")
    await eventually(lambda: seen == [[], [b"value"]])
    thread.join()
    await adapter.close()


async def test_a_watcher_whose_loop_was_closed_is_dropped():
    """A watcher that can never be woken again is forgotten."""
    announcements = Announcements()
    kept = []

    async def watch():
        kept.append(announcements.watch("a"))

    await asyncio.to_thread(asyncio.run, watch())
    announcements.add("a", b"")
    assert repr(announcements) == "<Announcements values=1 watchers=0>"


async def test_a_signal_wakes_once(clock):
    """A wake-up before or during the sleep ends it; the time does so too."""
    signal = Signal()
    assert signal.wake()
    await signal.sleep(None)
    start = clock.monotonic()
    await signal.sleep(start + 5)
    assert clock.monotonic() - start == pytest.approx(5)
    sleeping = asyncio.create_task(signal.sleep(None))
    await asyncio.sleep(1)
    signal.wake()
    await sleeping
