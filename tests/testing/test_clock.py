"""The virtual clock: time passes only when everything waits for it, always the same way."""

from __future__ import annotations

import asyncio
import importlib
import socket
import time

import pytest

from corekit.testing import VirtualClock, eventually


class TestVirtualTime:
    """An async test that asks for `clock` runs on its time."""

    async def test_loop_runs_on_it(self, clock: VirtualClock):
        """The loop's time is the clock's."""
        assert asyncio.get_running_loop().time() == clock.monotonic()

    async def test_long_waits_take_no_time(self, clock: VirtualClock):
        """A year passes in no time, and both scales show it."""
        real, start, unix = time.monotonic(), clock.monotonic(), clock.time()
        await asyncio.sleep(366 * 86400)
        assert clock.monotonic() - start == pytest.approx(366 * 86400)
        assert clock.time() - unix == pytest.approx(366 * 86400)
        assert time.monotonic() - real < 10

    async def test_late(self, clock: VirtualClock):
        """However late it is, where floats are coarse, each timer fires."""
        for _ in range(10):
            clock.jump(86400 * 366)
            start = clock.monotonic()
            for seconds in (0.1, 1, 7, 86400 * 30):
                await asyncio.sleep(seconds)
            assert clock.monotonic() - start == pytest.approx(86400 * 30 + 8.1)

    async def test_order(self, clock: VirtualClock):
        """Timers fire in the order of their times, none early."""
        log: list[tuple[float, float]] = []
        start = clock.monotonic()

        async def wait(seconds: float) -> None:
            await asyncio.sleep(seconds)
            log.append((seconds, clock.monotonic() - start))

        delays = [3600, 0.001, 59.999, 60, 1e-6, 86400 * 3, 0]
        await asyncio.gather(*map(wait, delays))
        assert [seconds for seconds, _ in log] == sorted(delays)
        assert all(seconds <= passed < seconds + 1e-6 for seconds, passed in log)

    async def test_timeouts(self, clock: VirtualClock):
        """Deadlines of asyncio hold on the clock's time."""
        start = clock.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        assert clock.monotonic() - start == pytest.approx(3600)

    async def test_stands_still_while_work_is_ready(self, clock: VirtualClock):
        """While tasks can run, no time passes."""
        start = clock.monotonic()
        timer = asyncio.get_running_loop().call_later(1, pytest.fail)
        for _ in range(1000):
            await asyncio.sleep(0)
        timer.cancel()
        assert clock.monotonic() == start

    async def test_jump(self, clock: VirtualClock):
        """After a jump, as after a pause of the process, what was due fires late, in order."""
        log: list[int] = []
        loop = asyncio.get_running_loop()
        for seconds in (2, 1, 3):
            loop.call_later(seconds, log.append, seconds)
        clock.jump(10)
        assert log == []
        await asyncio.sleep(0.5)
        assert log == [1, 2, 3]

    async def test_jump_wall(self, clock: VirtualClock):
        """The Unix time may jump, back too; monotonic time and timers do not notice."""
        start, unix = clock.monotonic(), clock.time()
        clock.jump_wall(-3600)
        assert clock.time() == pytest.approx(unix - 3600)
        await asyncio.sleep(1)
        assert clock.monotonic() - start == pytest.approx(1)

    async def test_real_io_works(self, clock: VirtualClock):
        """Without a timer, the loop waits for real sockets and threads."""
        one, other = socket.socketpair()
        one.setblocking(False)
        with one, other:
            thread = asyncio.to_thread(other.send, b"hello")
            received, _ = await asyncio.gather(asyncio.get_running_loop().sock_recv(one, 5), thread)
        assert received == b"hello"


class TestRun:
    """The clock can also be used without pytest's fixture."""

    def test_run(self):
        """`run` returns what the coroutine returns; the time goes on in the next run."""
        clock = VirtualClock(epoch=0)

        async def main() -> float:
            await asyncio.sleep(60)
            return clock.time()

        assert clock.run(main()) == pytest.approx(60)
        assert clock.run(main()) == pytest.approx(120)
        assert repr(clock) == "<VirtualClock 1120.000>"

    def test_always_the_same(self):
        """Two runs of one program take the same steps at the same times."""

        async def main(clock: VirtualClock) -> list[tuple[int, float]]:
            log = []

            async def work(number: int) -> None:
                for _ in range(5):
                    await asyncio.sleep(number * 0.1)
                    log.append((number, clock.monotonic()))

            await asyncio.gather(*map(work, range(5)))
            return log

        one, other = VirtualClock(), VirtualClock()
        assert one.run(main(one)) == other.run(main(other))

    def test_deadlock(self, monkeypatch):
        """If nothing can ever go on, the test fails instead of hanging."""
        module = importlib.import_module("corekit.testing.clock")
        monkeypatch.setattr(module, "_PATIENCE", 0.05)

        async def main() -> None:
            await asyncio.Event().wait()

        with pytest.raises(RuntimeError, match="deadlock: no task can go on"):
            VirtualClock().run(main())


class TestEventually:
    """`eventually` waits for a condition, with a deadline."""

    async def test_true(self):
        """It returns as soon as the condition is true; at once if it is."""
        turns: list[int] = []
        await eventually(lambda: True)
        await eventually(lambda: turns.append(1) or len(turns) > 150)
        assert len(turns) == 151

    async def test_never_true(self, clock: VirtualClock):
        """It fails when the time is over, and says which condition it was."""
        start = clock.monotonic()
        with pytest.raises(AssertionError, match=r"not true within 60 s: .*test_never_true"):
            await eventually(lambda: False, within=60)
        assert clock.monotonic() - start == pytest.approx(60, abs=0.1)

    async def test_errors_pass(self):
        """An error in the condition is the test's failure."""
        with pytest.raises(ZeroDivisionError):
            await eventually(lambda: 1 / 0)

    async def test_real_time(self):
        """In real time it lets others run meanwhile."""
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, done.set)
        await eventually(done.is_set)
