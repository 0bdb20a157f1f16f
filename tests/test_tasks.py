"""Background tasks have an owner: none outlives it, none fails unseen."""

from __future__ import annotations

import asyncio
import contextvars
import logging

import pytest

from corekit.tasks import TaskOwner, is_being_cancelled
from corekit.testing import VirtualClock, eventually


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


class TestSpawn:
    """A spawned task belongs to its owner until it has ended."""

    async def test_runs(self):
        """The task runs, is named after its owner, and is forgotten when it has ended."""
        owner = TaskOwner("app")

        async def work() -> int:
            return 5

        task = owner.spawn(work(), name="work")
        assert task.get_name() == "app: work"
        assert (len(owner), repr(owner)) == (1, "<TaskOwner 'app' tasks=1>")
        assert await task == 5
        await eventually(lambda: len(owner) == 0)

    async def test_context(self):
        """The task runs in the context that is given, else in a copy of the caller's."""
        variable = contextvars.ContextVar("variable", default="none")
        empty = contextvars.copy_context()
        variable.set("caller's")

        async def read() -> str:
            return variable.get()

        owner = TaskOwner("app")
        assert await owner.spawn(read(), name="a") == "caller's"
        assert await owner.spawn(read(), name="b", context=empty) == "none"

    async def test_failure_is_logged(self, caplog):
        """A task that fails is logged with its name and its traceback; others go on."""
        owner = TaskOwner("app")

        async def fail() -> None:
            raise ValueError("broken")

        other = owner.spawn(forever(), name="other")
        owner.spawn(fail(), name="fail")
        await eventually(lambda: caplog.records)
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("corekit.tasks", logging.ERROR)
        assert "app: fail" in record.getMessage()
        assert "broken" in record.exc_text
        assert not other.done()
        await owner.close()

    async def test_cancelled_is_not_logged(self, caplog):
        """A task that somebody cancelled ends without a word."""
        owner = TaskOwner("app")
        task = owner.spawn(forever(), name="work")
        await asyncio.sleep(0)
        task.cancel()
        await eventually(lambda: len(owner) == 0)
        assert not caplog.records


class TestClose:
    """Closing cancels what runs and returns when all has ended."""

    async def test_empty(self):
        """An owner without tasks is closed at once, as often as one likes."""
        owner = TaskOwner("app")
        await owner.close()
        await owner.close()

    async def test_waits_for_the_end(self):
        """A task that needs time to end is waited for."""
        owner = TaskOwner("app")
        log: list[str] = []

        async def slow() -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(0.01)
                log.append("ended")

        owner.spawn(slow(), name="slow")
        await asyncio.sleep(0)
        await owner.close()
        assert log == ["ended"]
        assert len(owner) == 0

    async def test_tasks_that_never_ran(self):
        """A task that had no turn yet is cancelled too."""
        owner = TaskOwner("app")
        task = owner.spawn(forever(), name="new")
        await owner.close()
        assert task.cancelled()

    async def test_tasks_started_meanwhile(self):
        """Tasks that ending tasks start are cancelled as well."""
        owner = TaskOwner("app")
        started: list[asyncio.Task[None]] = []

        async def parting() -> None:
            try:
                await forever()
            finally:
                started.append(owner.spawn(forever(), name="late"))

        owner.spawn(parting(), name="parting")
        await asyncio.sleep(0)
        await owner.close()
        assert started[0].cancelled()

    async def test_called_by_one_of_them(self):
        """A task that closes its own owner is left out, and goes on."""
        owner = TaskOwner("app")
        other = owner.spawn(forever(), name="other")

        async def close() -> str:
            await owner.close()
            return "done"

        assert await owner.spawn(close(), name="close") == "done"
        assert other.cancelled()

    async def test_cancelled(self):
        """If closing is cancelled, the tasks are cancelled all the same."""
        owner = TaskOwner("app")
        release = asyncio.Event()

        async def stubborn() -> None:
            try:
                await forever()
            finally:
                await release.wait()

        task = owner.spawn(stubborn(), name="stubborn")
        await asyncio.sleep(0)
        closing = asyncio.create_task(owner.close())
        await eventually(lambda: task.cancelling())
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert len(owner) == 1
        release.set()
        await eventually(lambda: len(owner) == 0)

    async def test_two_at_once(self):
        """Two calls at the same time both return when all has ended."""
        owner = TaskOwner("app")
        owner.spawn(forever(), name="work")
        await asyncio.gather(owner.close(), owner.close())
        assert len(owner) == 0


class TestWait:
    """Waiting cancels nothing."""

    async def test_until_ended(self, clock: VirtualClock):
        """Returns True once all tasks have ended, those started meanwhile too."""
        owner = TaskOwner("app")

        async def work(left: int) -> None:
            await asyncio.sleep(10)
            if left:
                owner.spawn(work(left - 1), name="work")

        owner.spawn(work(2), name="work")
        started = clock.monotonic()
        assert await owner.wait() is True
        assert clock.monotonic() - started == pytest.approx(30)

    async def test_timeout(self, clock: VirtualClock):
        """Returns False when the time is over; the tasks run on."""
        owner = TaskOwner("app")
        task = owner.spawn(forever(), name="work")
        started = clock.monotonic()
        assert await owner.wait(5) is False
        assert clock.monotonic() - started == pytest.approx(5)
        assert await owner.wait(0) is False
        assert not task.cancelling()
        await owner.close()
        assert await owner.wait(0) is True

    async def test_cancelled(self):
        """A cancelled wait leaves the tasks alone."""
        owner = TaskOwner("app")
        task = owner.spawn(forever(), name="work")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(owner.wait(), 0.01)
        assert not task.cancelling()
        await owner.close()

    async def test_cancel(self):
        """Cancelling returns at once, and leaves the calling task out."""
        owner = TaskOwner("app")
        other = owner.spawn(forever(), name="other")

        async def cancel() -> bool:
            owner.cancel()
            return await owner.wait()

        assert await owner.spawn(cancel(), name="cancel") is True
        assert other.cancelled()


async def test_who_is_being_cancelled() -> None:
    """A task that was cancelled knows it; one that raises CancelledError by itself was not."""
    told: list[bool] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            told.append(is_being_cancelled())

    async def fail() -> None:
        try:
            raise asyncio.CancelledError
        except asyncio.CancelledError:
            told.append(is_being_cancelled())

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await asyncio.create_task(fail())
    assert told == [True, False]
