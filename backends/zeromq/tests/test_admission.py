"""The order in which publishers that wait get their turn."""

from __future__ import annotations

import asyncio
import time

import pytest
from corekit_zeromq.admission import Admission

from corekit.errors import NotOpenError


async def test_nobody_overtakes() -> None:
    """Actions happen in the order of the calls, in the moment in which there is room."""
    room = 0
    done: list[int] = []

    def act(number: int) -> int:
        nonlocal room
        room -= 1
        done.append(number)
        return number

    admission = Admission(lambda: room > 0)
    calls = [
        asyncio.create_task(admission.wait(None, lambda n=number: act(n), 5.0))  # type: ignore[misc]
        for number in range(5)
    ]
    await asyncio.sleep(0)
    room = 3
    admission.admit()
    assert done == [0, 1, 2]
    assert len(admission.waiting) == 2
    calls[3].cancel()
    await asyncio.sleep(0)
    room = 1
    admission.admit()
    assert done == [0, 1, 2, 4]
    assert await asyncio.gather(*calls[:3], calls[4]) == done


async def test_time_and_leaving_end_the_wait() -> None:
    """Whoever waited too long, or leaves, does nothing any more."""
    admission = Admission(lambda: False)
    with pytest.raises(TimeoutError):
        await admission.wait(None, pytest.fail, 0.01)
    me = object()
    waiting = asyncio.create_task(admission.wait(me, pytest.fail, 5.0))
    other = asyncio.create_task(admission.wait(None, lambda: 1, 5.0))
    await asyncio.sleep(0)
    admission.leave(me, lambda: NotOpenError("closed"))
    with pytest.raises(NotOpenError):
        await waiting
    admission._has_room = lambda: True
    admission.admit()
    assert await other == 1


async def test_what_was_done_is_told_though_its_time_was_over() -> None:
    """A turn that comes in the same step of the loop as the end of the time is no time-out."""
    room = False
    done: list[str] = []
    admission = Admission(lambda: room)

    def act() -> str:
        done.append("act")
        return "result"

    waiting = asyncio.create_task(admission.wait(None, act, 0.02))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    # Due before the time-out, so that it is run first in the step that finds both.
    loop.call_later(0.01, admission.admit)
    room = True
    time.sleep(0.05)  # noqa: ASYNC251 - a loop that is busy
    assert await waiting == "result"
    assert done == ["act"]


async def test_who_gave_up_leaves_nothing_behind() -> None:
    """Without room, too: after an hour of outage there is not an hour of messages."""
    admission = Admission(lambda: False)
    for _ in range(3):
        calls = [admission.wait(None, pytest.fail, 0.01) for _ in range(50)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(failure) for failure in failures} == {TimeoutError}
        assert not admission.waiting
