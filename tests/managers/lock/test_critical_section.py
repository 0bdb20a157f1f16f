"""Work under a lock: renewal, loss, cancellation, and what is raised when they meet."""

# ruff: noqa: PT012 - what raises is the whole block, at its end
from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial

import pytest

from corekit.errors import BackendUnavailable, InvalidType, LockLost, LockNotAcquired, LockTimeout
from corekit.testing import eventually

from .conftest import RemoteBackend


async def test_work_longer_than_the_ttl_stays_exclusive(locks, clock):
    """The ttl is renewed while the work runs, so nobody else gets the key until it ends."""
    async with locks.running("shop", "shop") as (a, b):
        start = clock.monotonic()
        async with a.lock("k", 10) as lease, asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(b.acquire("k"))
            await asyncio.sleep(1000)
            assert lease.held
            assert not waiting.done()
            await lease.release()
        assert clock.monotonic() - start == pytest.approx(1000, abs=1)


async def test_renewal_comes_after_a_third(locks):
    """Nothing is sent before a third of the ttl; then one renewal for each third."""
    async with locks.on_backend(RemoteBackend) as (a, backend):
        async with a.lock("k", 30):
            await asyncio.sleep(9.9)
            assert backend.calls.count("extend") == 0
            assert len(a._session.tasks) == 0
            await asyncio.sleep(0.2)
            assert backend.calls.count("extend") == 1
            await asyncio.sleep(90)
            assert backend.calls.count("extend") == 10
        await asyncio.sleep(1)
        assert len(a._session.tasks) == 0
        await asyncio.sleep(100)
        assert backend.calls.count("extend") == 10


async def test_a_dead_process_frees_the_key(locks, clock):
    """Work whose process stops renewing loses the key to others after at most its ttl."""
    async with locks.running("shop", "shop") as (a, b):

        async def dies():
            async with a.lock("k", 10):
                await asyncio.Event().wait()

        dying = asyncio.create_task(dies())
        await asyncio.sleep(100)
        a._session.tasks._tasks.copy().pop().cancel()
        start = clock.monotonic()
        await b.acquire("k")
        assert clock.monotonic() - start <= 10.01
        with pytest.raises(LockLost):
            await dying


async def test_without_renewal_the_work_has_its_ttl(locks, clock):
    """With renew=False the work is cancelled at the ttl, and LockLost raised."""
    async with locks.on_backend() as (a, backend):
        start = clock.monotonic()
        with pytest.raises(LockLost):
            async with a.lock("k", 10, renew=False):
                await asyncio.sleep(11)
        assert 9.9 < clock.monotonic() - start < 10
        with pytest.raises(LockLost):
            await a.run_exclusive("k", partial(asyncio.sleep, 11), 10, renew=False)
        assert backend.calls.count("extend") == 0
        assert (
            await a.run_exclusive("k", partial(asyncio.sleep, 9, "done"), 10, renew=False) == "done"
        )


async def test_a_paused_process(locks, clock):
    """After a pause longer than the ttl the work is cancelled before its next await returns."""
    async with locks.running("shop", "shop") as (a, b):
        written = []

        async def work():
            async with a.lock("k", 10) as lease:
                while True:
                    written.append(lease.token)
                    await asyncio.sleep(0.1)

        working = asyncio.create_task(work())
        await asyncio.sleep(1)
        count = len(written)
        clock.jump(30)
        other = await b.acquire("k", 10)
        with pytest.raises(LockLost, match="over"):
            await working
        assert len(written) <= count + 1
        assert other.held


async def test_a_short_pause_loses_nothing(locks, clock):
    """Pauses shorter than the time left do not lose the lock, however many there are."""
    async with locks.on_backend(RemoteBackend) as (a, _), a.lock("k", 2) as lease:
        for _ in range(50):
            clock.jump(0.8)
            await asyncio.sleep(0.3)
        assert lease.held


async def test_a_blocked_loop(locks, clock):
    """Work that blocks the loop past its lease gets LockLost instead of its result."""

    def block():
        clock.jump(20)
        return "done"

    async def block_and_await():
        clock.jump(20)
        await asyncio.sleep(0)
        return "done"

    async with locks.running("shop") as (a,):
        for work in (block, block_and_await):
            for renew in (True, False):
                with pytest.raises(LockLost):
                    await a.run_exclusive("k", work, 10, renew=renew)
        # Nothing of the cancellation is left over for what comes after.
        await asyncio.sleep(1)
        assert not asyncio.current_task().cancelling()


async def test_a_backend_that_forgets(locks):
    """If a renewal learns that the lease is gone, the work is cancelled at once."""
    async with locks.on_backend() as (a, backend):
        with pytest.raises(LockLost, match="backend"):
            async with a.lock("k", 30) as lease:
                await backend.take_away(lease)
                async with asyncio.timeout(11):
                    await asyncio.sleep(1000)


async def test_an_unreachable_backend_is_tried_again(locks, caplog):
    """A short outage is survived: the renewal is repeated until the own deadline."""
    caplog.set_level("INFO", "corekit.lock")
    async with locks.on_backend(RemoteBackend) as (a, backend), a.lock("k", 30) as lease:
        backend.failures["extend"] = BackendUnavailable("away")
        await asyncio.sleep(25)
        assert lease.held
        backend.failures.clear()
        await asyncio.sleep(100)
        assert lease.held
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_an_unreachable_backend(locks, clock, fault):
    """Work ends with LockLost at the own deadline, before the backend gives the key away."""
    async with locks.on_backend(RemoteBackend) as (a, backend):
        if fault == "fails":
            backend.failures["extend"] = BackendUnavailable("away")
        else:
            backend.hang("extend")
        start = clock.monotonic()
        with pytest.raises(LockLost):
            async with a.lock("k", 30):
                await asyncio.sleep(1000)
        assert clock.monotonic() - start == pytest.approx(30 - 1.03, abs=0.01)


async def test_a_swallowed_cancellation(locks):
    """Work that swallows its cancellation ends in LockLost all the same."""

    async def stubborn():
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)
        return "done"

    async with locks.running("shop") as (a,):
        with pytest.raises(LockLost):
            await a.run_exclusive("k", stubborn, 10, renew=False)
        assert not asyncio.current_task().cancelling()
        await asyncio.sleep(1)


async def test_an_error_of_the_work(locks):
    """An error of the work is raised as it is, and the key is free."""
    async with locks.running("shop") as (a,):
        error = KeyError("mine")
        with pytest.raises(KeyError) as caught:
            async with a.lock("k"):
                raise error
        assert caught.value is error
        assert locks.free()
        with pytest.raises(ZeroDivisionError):
            await a.run_exclusive("k", lambda: 1 / 0)
        assert locks.free()


async def test_an_error_after_the_loss(locks, clock):
    """If the lease was lost, LockLost is raised, with the work's error as its cause."""
    async with locks.running("shop") as (a,):
        error = KeyError("mine")
        with pytest.raises(LockLost) as caught:
            async with a.lock("k", 10):
                clock.jump(20)
                raise error
        assert caught.value.__cause__ is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_ends_the_process_is_not_replaced(locks, clock, kind):
    """KeyboardInterrupt and its like go through, lost or not."""
    async with locks.running("shop") as (a,):
        for jump in (0, 20):
            with pytest.raises(kind):
                async with a.lock("k", 10):
                    clock.jump(jump)
                    raise kind


async def test_a_cancellation_from_outside(locks):
    """Cancelling the task that works raises CancelledError and releases the key."""
    async with locks.running("shop") as (a,):
        working = asyncio.create_task(a.run_exclusive("k", partial(asyncio.sleep, 100)))
        await asyncio.sleep(1)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert locks.free()


async def test_a_cancellation_from_outside_at_the_moment_of_the_loss(locks):
    """An outside cancellation that comes together with the loss stays a cancellation."""
    async with locks.on_backend() as (a, backend):

        async def work():
            async with a.lock("k", 30) as lease:
                leases.append(lease)
                await asyncio.sleep(1000)

        for outside_first in (True, False):
            leases = []
            working = asyncio.create_task(work())
            await asyncio.sleep(1)
            if outside_first:
                working.cancel()
            leases[0].lose("test")
            if not outside_first:
                working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            await backend.take_away(leases[0])


async def test_a_timeout_around_the_work(locks):
    """asyncio.timeout around a section still raises TimeoutError, and one inside too."""
    async with locks.running("shop") as (a,):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5), a.lock("k", 10):
                await asyncio.sleep(100)
        with pytest.raises(TimeoutError):
            async with a.lock("k", 10), asyncio.timeout(5):
                await asyncio.sleep(100)
        assert locks.free()


async def test_nested_sections(locks):
    """Two sections of one task that are lost together end in one LockLost."""
    async with locks.running("shop") as (a,):
        with pytest.raises(LockLost, match="'outer'"):
            async with a.lock("outer", 10, renew=False), a.lock("inner", 10, renew=False):
                await asyncio.sleep(100)
        assert not asyncio.current_task().cancelling()
        with pytest.raises(LockLost, match="'inner'"):
            async with a.lock("outer", 50), a.lock("inner", 10, renew=False):
                await asyncio.sleep(100)
        assert not asyncio.current_task().cancelling()


async def test_child_tasks_of_the_work_are_cancelled(locks):
    """A task group inside the block is cancelled with it."""
    async with locks.running("shop") as (a,):
        cancelled = []

        async def child():
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.append(1)
                raise

        with pytest.raises(LockLost):
            async with a.lock("k", 10, renew=False), asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(child())
        assert cancelled == [1, 1, 1]


async def test_the_work_notices_the_loss_itself(locks, clock):
    """An extension inside the block raises LockLost there, and that is what comes out."""
    async with locks.running("shop") as (a,):
        with pytest.raises(LockLost) as caught:
            async with a.lock("k", 10) as lease:
                clock.jump(20)
                await lease.extend(10)
        assert caught.value.__cause__ is None
        await asyncio.sleep(1)
        assert not asyncio.current_task().cancelling()


async def test_work_that_ignores_a_loss_it_noticed(locks, clock):
    """A loss that the running work has met and ignored cancels it at its next await."""
    async with locks.running("shop") as (a,):
        reached = []
        with pytest.raises(LockLost):
            async with a.lock("k", 10) as lease:
                clock.jump(20)
                with pytest.raises(LockLost):
                    await lease.extend(10)
                reached.append(1)
                await asyncio.sleep(1)
                reached.append(2)
        assert reached == [1]


async def test_the_work_releases_its_lease(locks):
    """Work may give the key back before its end; then nothing is lost."""
    async with locks.running("shop", "shop") as (a, b):
        async with a.lock("k", 10, renew=False) as lease:
            await lease.release()
            await b.try_acquire("k", ttl=600)
            await asyncio.sleep(100)
        assert not lease.lost.is_set()


async def test_an_extension_inside_a_section(locks, clock):
    """An extension beyond the ttl holds, and one below it does not undo the renewal."""
    async with locks.running("shop") as (a,):
        async with a.lock("k", 10) as lease:
            await lease.extend(1)
            await asyncio.sleep(60)
            await lease.extend(1000)
            await asyncio.sleep(60)
            assert lease.expires_at - clock.time() > 900
            clock.jump(800)
            await asyncio.sleep(1)
            assert lease.held
        async with a.lock("k", 10, renew=False) as lease:
            await lease.extend(100)
            await asyncio.sleep(99)


async def test_a_section_waits_and_gives_up(locks):
    """Entering waits like acquire does, and raises what it raises."""
    async with locks.running("shop", "shop") as (a, b):
        async with a.lock("k"):
            with pytest.raises(LockTimeout):
                async with b.lock("k", wait=5):
                    pytest.fail("entered")
            with pytest.raises(LockTimeout):
                await b.run_exclusive("k", pytest.fail, wait=0)
            with pytest.raises(LockNotAcquired):
                async with a.lock("k"):
                    pytest.fail("entered")
        assert locks.free()


async def test_a_section_is_entered_once(locks):
    """The object that lock() returns is for one `async with`."""
    async with locks.running("shop") as (a,):
        section = a.lock("k")
        async with section:
            with pytest.raises(RuntimeError, match="once"):
                await section.__aenter__()
        with pytest.raises(RuntimeError, match="once"):
            await section.__aenter__()


@pytest.mark.parametrize(
    ("fn", "takes"),
    [
        (lambda: "plain", False),
        (lambda lease: lease, True),
        (lambda anything: anything, True),
        (lambda lease, /: lease, True),
        (lambda *, lease: lease, True),
        (lambda lease=None: lease, True),
        (lambda other=5, lease=None: lease, True),
        (lambda other=5: other, False),
        (lambda *args, **kwargs: (args, kwargs), False),
        (partial(lambda a, lease: lease, 1), True),
        (dict, False),
        (time.time, False),
    ],
)
async def test_the_function_may_take_the_lease(locks, fn, takes):
    """A function is given the lease if it has a required parameter, or one named lease."""
    async with locks.running("shop") as (a,):
        result = await a.run_exclusive("k", fn)
        assert (getattr(result, "key", None) == "k") is takes


async def test_what_a_function_returns(locks):
    """Plain and async functions, methods and callable objects return what they return."""

    class Work:
        async def method(self, lease):
            return lease.token > 0

        async def __call__(self):
            return "called"

    async with locks.running("shop") as (a,):
        assert await a.run_exclusive("k", lambda: None) is None
        assert await a.run_exclusive("k", lambda: 5) == 5
        assert await a.run_exclusive("k", partial(asyncio.sleep, 1, "slept")) == "slept"
        assert await a.run_exclusive("k", lambda: asyncio.sleep(1, "awaited")) == "awaited"
        assert await a.run_exclusive("k", Work().method) is True
        assert await a.run_exclusive("k", Work()) == "called"


@pytest.mark.parametrize("fn", [None, "fn", 5, lambda a, b: None])
async def test_bad_functions(locks, fn):
    """What cannot be called, or needs more than the lease, is refused; nothing is taken."""
    async with locks.on_backend() as (a, backend):
        with pytest.raises(InvalidType, match="fn"):
            await a.run_exclusive("k", fn)
        assert "acquire" not in backend.calls


async def test_a_coroutine_is_not_a_function(locks):
    """A coroutine in place of its function is refused with a hint."""
    async with locks.running("shop") as (a,):
        call = asyncio.sleep(1)
        with pytest.raises(InvalidType, match="not its call"):
            await a.run_exclusive("k", call)
        call.close()


async def test_stopping_cancels_the_work(locks):
    """When the App stops, work under a lock gets LockLost, and unwinds before the key is free."""
    async with locks.running("shop", "shop") as (a, b):
        events = []

        async def work():
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(0.5)
                events.append("unwound")

        async def follow():
            await b.acquire("k")
            events.append("taken")

        working = asyncio.create_task(a.run_exclusive("k", work))
        await asyncio.sleep(1)
        following = asyncio.create_task(follow())
        await asyncio.sleep(1)
        await a.close()
        with pytest.raises(LockLost, match="stopped"):
            await working
        await following
        assert events == ["unwound", "taken"]


async def test_stopping_does_not_wait_for_work_that_goes_on(locks, clock):
    """Work that does not end when it is cancelled delays the stop by about a second at most."""
    async with locks.running("shop") as (a,):

        async def stubborn():
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(30)
                    return

        working = asyncio.create_task(a.run_exclusive("k", stubborn, 10))
        await asyncio.sleep(1)
        start = clock.monotonic()
        await a.close()
        assert clock.monotonic() - start < 2
        assert locks.free()
        with pytest.raises(LockLost):
            await working


async def test_work_that_stops_its_app(locks):
    """Work that stops the App it runs in is not cut off; at its end it gets LockLost."""
    async with locks.running("shop") as (a,):
        reached = []
        with pytest.raises(LockLost, match="stopped"):
            async with a.lock("k"):
                await a.close()
                await asyncio.sleep(1)
                reached.append(1)
        assert reached == [1]
        assert locks.free()


async def test_stopping_leaves_no_timer(locks):
    """After the stop nothing is scheduled any more."""
    async with locks.running("shop") as (a,):
        with pytest.raises(LockLost):
            async with a.lock("k"), a.lock("l", renew=False) as lease:
                assert not lease.lost.is_set()
                await a.close()
        assert all(timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)


async def test_a_section_leaves_nothing(locks):
    """After a section neither timer nor task nor lease is left."""
    async with locks.running("shop") as (a,):
        for ttl in (0.01, 10):
            async with a.lock("k", ttl):
                await asyncio.sleep(1)
        # One timer for all renewals goes on until the first of them would have been due.
        await asyncio.sleep(10)
        assert all(timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)
        assert len(a._session.tasks) == 0
        assert len(a._session) == 0
        assert locks.free()


@pytest.mark.parametrize("steps", range(6))
async def test_cancelled_at_any_step_of_its_end(locks, steps):
    """A task that is cancelled while it leaves the block leaves no key behind."""
    async with locks.on_backend() as (a, backend):
        go = backend.hang("release")
        working = asyncio.create_task(a.run_exclusive("k", lambda: asyncio.sleep(0), 600))
        for _ in range(steps):
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.sleep(1)
        go.set()
        await asyncio.wait({working})
        await eventually(locks.free)
