"""The table of an App's lifecycle, on openings and closings that the test decides."""

from __future__ import annotations

import asyncio

import pytest

from corekit.app_lifecycle import AppLifecycle, State
from corekit.errors import NotOpenError, WrongLoop
from corekit.lifecycle import Gate


class Thing:
    """What is opened and closed: it waits, and fails, as the test says."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.may_open = asyncio.Event()
        self.may_undo = asyncio.Event()
        self.may_undo.set()
        self.may_close = asyncio.Event()
        self.failure: Exception | None = None
        self.gate = Gate("thing")
        self.lifecycle = AppLifecycle("thing", self.gate, self._open, self._undo, self._close, 7.0)

    async def _undo(self) -> None:
        self.log.append("undoing")
        await self.may_undo.wait()
        self.log.append("undone")

    async def _open(self) -> None:
        self.log.append("opening")
        await self.may_open.wait()
        if self.failure is not None:
            raise self.failure
        self.log.append("opened")

    async def _close(self, grace: float) -> None:
        self.log.append(f"closing in {grace:g}")
        await self.may_close.wait()
        if self.failure is not None:
            raise self.failure
        self.log.append("closed")


async def turns() -> None:
    """Let every task come as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def shown(thing: Thing) -> tuple[State, bool]:
    """Return the state, and whether the gate is open."""
    return thing.lifecycle.state, thing.gate.is_open


async def started() -> Thing:
    """Return a thing that is started."""
    thing = Thing()
    thing.may_open.set()
    await thing.lifecycle.start()
    thing.log.clear()
    return thing


async def test_it_passes_through_all_states() -> None:
    """The gate is open exactly between the two transitions; the grace is the default one."""
    thing = Thing()
    assert shown(thing) == (State.STOPPED, False)
    starting = asyncio.create_task(thing.lifecycle.start())
    await turns()
    assert shown(thing) == (State.STARTING, False)
    thing.may_open.set()
    await starting
    assert shown(thing) == (State.STARTED, True)
    stopping = asyncio.create_task(thing.lifecycle.stop())
    await turns()
    assert shown(thing) == (State.STOPPING, True)
    thing.may_close.set()
    await stopping
    assert shown(thing) == (State.STOPPED, False)
    assert thing.log == ["opening", "opened", "closing in 7", "closed"]


async def test_a_failed_start_is_stopped_and_may_be_tried_again() -> None:
    """Every caller gets the error; the next start begins anew."""
    thing = Thing()
    thing.failure = OSError("no")
    starts = [asyncio.create_task(thing.lifecycle.start()) for _ in range(3)]
    await turns()
    thing.may_open.set()
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert results == [thing.failure] * 3
    assert shown(thing) == (State.STOPPED, False)
    thing.failure = None
    await thing.lifecycle.start()
    assert thing.log == ["opening", "undoing", "undone", "opening", "opened"]


@pytest.mark.parametrize("by", ["a stop", "a signal", "its callers"])
async def test_nothing_ends_the_undoing(by: str) -> None:
    """Who asks for an end while a failed start is undone waits; the error is told as it was."""
    thing = Thing()
    thing.failure = OSError("no")
    thing.may_undo.clear()
    start = asyncio.create_task(thing.lifecycle.start())
    await turns()
    thing.may_open.set()
    await turns()
    assert thing.log == ["opening", "undoing"]
    ends = []
    if by == "a stop":
        ends.append(asyncio.create_task(thing.lifecycle.stop()))
    elif by == "a signal":
        thing.lifecycle.end()
    else:
        start.cancel()
    await turns()
    assert thing.log == ["opening", "undoing"]
    assert thing.lifecycle.state is State.STARTING
    thing.may_undo.set()
    await asyncio.gather(*ends)
    error = asyncio.CancelledError if by == "its callers" else OSError
    with pytest.raises(error):
        await start
    assert thing.log == ["opening", "undoing", "undone"]
    assert shown(thing) == (State.STOPPED, False)


async def test_a_failed_stop_is_stopped() -> None:
    """What *closing* raises comes out, and the gate is closed."""
    thing = await started()
    thing.failure = OSError("no")
    thing.may_close.set()
    with pytest.raises(OSError, match="no"):
        await thing.lifecycle.stop(1)
    assert shown(thing) == (State.STOPPED, False)


async def test_a_start_ends_with_the_last_who_waits_for_it() -> None:
    """One of two callers may go; when the other goes too, the start is cancelled."""
    thing = Thing()
    first, second = (asyncio.create_task(thing.lifecycle.start()) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    assert first.cancelled()
    assert thing.lifecycle.state is State.STARTING
    second.cancel()
    await turns()
    assert second.cancelled()
    assert shown(thing) == (State.STOPPED, False)


async def test_a_stop_cancels_a_start() -> None:
    """Who waits for the start gets NotOpenError; nothing was opened, so nothing is closed."""
    for steps in (0, 10):
        thing = Thing()
        start = asyncio.create_task(thing.lifecycle.start())
        await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        await thing.lifecycle.stop()
        with pytest.raises(NotOpenError, match="stopped while it started"):
            await start
        assert shown(thing) == (State.STOPPED, False)
        assert "closing in 7" not in thing.log


async def test_an_opening_that_stops_itself_ends_there() -> None:
    """Also if it would await nothing more: it is cancelled in that call, and nothing is open."""
    thing = Thing()
    thing.may_open.wait = thing.lifecycle.stop  # type: ignore[method-assign, assignment]
    with pytest.raises(NotOpenError, match="stopped while it started"):
        await thing.lifecycle.start()
    assert shown(thing) == (State.STOPPED, False)
    assert thing.log == ["opening", "undoing", "undone"]


async def test_no_transition_waits_for_itself() -> None:
    """A start inside of one is refused; a stop inside of a closing or an undoing returns."""
    thing = Thing()
    thing.may_open.wait = thing.lifecycle.start  # type: ignore[method-assign, assignment]
    with pytest.raises(NotOpenError, match="thing is starting"):
        await thing.lifecycle.start()
    assert shown(thing) == (State.STOPPED, False)
    thing = Thing()
    thing.failure = OSError("no")
    thing.may_open.set()
    thing.may_undo.wait = thing.lifecycle.stop  # type: ignore[method-assign, assignment]
    with pytest.raises(OSError, match="no"):
        await thing.lifecycle.start()
    assert shown(thing) == (State.STOPPED, False)
    thing = await started()
    thing.may_close.wait = thing.lifecycle.start  # type: ignore[method-assign, assignment]
    with pytest.raises(NotOpenError, match="thing is stopping"):
        await thing.lifecycle.stop()
    thing = await started()
    thing.may_close.wait = thing.lifecycle.stop  # type: ignore[method-assign, assignment]
    await thing.lifecycle.stop()
    assert thing.log == ["closing in 7", "closed"]


async def test_a_transition_is_no_other_loops() -> None:
    """While it starts or stops, calls from another loop are refused, and disturb nothing."""
    thing = Thing()

    def elsewhere() -> None:
        for call in (thing.lifecycle.start, thing.lifecycle.stop):
            with pytest.raises(WrongLoop, match="in another event loop"):
                asyncio.run(call())

    starting = asyncio.create_task(thing.lifecycle.start())
    await turns()
    await asyncio.to_thread(elsewhere)
    thing.may_open.set()
    await starting
    stopping = asyncio.create_task(thing.lifecycle.stop())
    await turns()
    await asyncio.to_thread(elsewhere)
    thing.may_close.set()
    await stopping
    assert shown(thing) == (State.STOPPED, False)


async def test_a_caller_cancelled_too_late_stops_nothing() -> None:
    """Who was told that it has started may cancel another caller, and it stays started."""
    thing = Thing()

    async def first() -> None:
        await thing.lifecycle.start()
        second.cancel()

    starting = asyncio.create_task(first())
    await asyncio.sleep(0)
    second = asyncio.create_task(thing.lifecycle.start())
    await turns()
    thing.may_open.set()
    await starting
    with pytest.raises(asyncio.CancelledError):
        await second
    assert shown(thing) == (State.STARTED, True)


async def test_a_start_waits_for_a_stop() -> None:
    """What is stopping is stopped first, then started again."""
    thing = await started()
    stopping = asyncio.create_task(thing.lifecycle.stop(1))
    await turns()
    starting = asyncio.create_task(thing.lifecycle.start())
    await turns()
    assert thing.log == ["closing in 1"]
    thing.may_close.set()
    await asyncio.gather(starting, stopping)
    assert thing.log == ["closing in 1", "closed", "opening", "opened"]
    assert shown(thing) == (State.STARTED, True)


async def test_a_stop_without_waiting_only_begins() -> None:
    """It returns at once; the next stop waits for the same stopping."""
    thing = await started()
    await thing.lifecycle.stop(wait=False)
    assert thing.lifecycle.state is State.STOPPING
    thing.may_close.set()
    await thing.lifecycle.stop()
    assert thing.log == ["closing in 7", "closed"]


async def test_the_end_is_told() -> None:
    """`ending` returns when a stop begins, and when `end` asks for one; `end` ends a start."""
    thing = await started()
    ending = asyncio.create_task(thing.lifecycle.ending())
    await turns()
    assert not ending.done()
    thing.lifecycle.end()
    await ending
    assert thing.lifecycle.state is State.STARTED
    other = Thing()
    start = asyncio.create_task(other.lifecycle.start())
    await turns()
    other.lifecycle.end()
    with pytest.raises(NotOpenError):
        await start
    await other.lifecycle.ending()
    assert repr(other.lifecycle) == "<AppLifecycle thing closed>"
