"""The suite for lock adapters: each test is one clause of `corekit.adapters.lock`.

An adapter's author writes:

    class TestMine(LockSuite):
        def make_adapter(self) -> LockAdapter:
            return my_lock(BackendURL.parse("mine://localhost"), make_context(clock=self.clock))
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from ..adapters import Grant, Guarantee, LockAdapter
from ..clock import Clock
from ..errors import NotOpenError
from .suite import AdapterSuite, opened


class LockSuite(AdapterSuite):
    """What every lock adapter does; inherit it and say how to make one."""

    ttl = 0.4
    """The lifetime that grants are made with, in seconds; a backend's least ttl may be longer."""

    tick = 0.05
    """Longer than one call to the backend takes, in seconds; much shorter than `ttl`."""

    late = 0.0
    """How much later than a grant's time, in seconds, the backend may notice that it is over; half
    of the ttl is allowed anyway."""

    def make_adapter(self) -> LockAdapter:
        """Return a new adapter, not opened; each one plays a process of its own."""
        raise NotImplementedError

    async def restart(self) -> None:
        """Restart the backend, without losing what it keeps; only for adapters that are FENCED."""
        pytest.skip("the suite is not told how to restart the backend")

    def begin(self, clock: Clock) -> None:
        super().begin(clock)
        self.name = f"suite/lock/{secrets.token_hex(8)}"

    async def test_a_free_name_is_given(self) -> None:
        """A free name is given at once, for at least the ttl, counted from within the call."""
        async with self.adapters(1) as (a,):
            before = self.clock.monotonic()
            grant = await self._take(a)
            assert grant.name == self.name
            assert isinstance(grant.token, int)
            assert grant.ttl >= self._ttl(a)
            assert before <= grant.since <= self.clock.monotonic()

    async def test_a_held_name_is_refused(self) -> None:
        """With `wait=0` a held name gives None, to another adapter and to the same one."""
        async with self.adapters(2) as (a, b):
            await self._take(a)
            assert await b.acquire(self.name, self._ttl(b), 0) is None
            assert await a.acquire(self.name, self._ttl(a), 0) is None

    async def test_names_are_independent(self) -> None:
        """Holding a name does not hold another, however alike they are."""
        async with self.adapters(2) as (a, b):
            await self._take(a)
            for other in ("/", "/x", "x", "%2F", "é", "*", " "):
                assert await b.acquire(self.name + other, self._ttl(b), 0) is not None
            assert await b.acquire(self.name[:-1], self._ttl(b), 0) is not None

    async def test_long_names(self) -> None:
        """Names of several thousand bytes are told apart to the last character."""
        async with self.adapters(2) as (a, b):
            long = self.name + "/" + "ä" * 1500
            assert await a.acquire(long + "1", self._ttl(a), 0) is not None
            assert await b.acquire(long + "1", self._ttl(b), 0) is None
            assert await b.acquire(long + "2", self._ttl(b), 0) is not None

    async def test_a_released_name_is_free(self) -> None:
        """When `release` has returned, the name is free at once."""
        async with self.adapters(2) as (a, b):
            await a.release(await self._take(a))
            assert await b.acquire(self.name, self._ttl(b), 0) is not None

    async def test_a_waiter_gets_the_released_name(self) -> None:
        """A release wakes a waiter before the grant would have ended by its time."""
        async with self.adapters(2) as (a, b):
            grant = await a.acquire(self.name, 600, 0)
            assert grant is not None
            waiting = asyncio.create_task(b.acquire(self.name, self._ttl(b), None))
            await asyncio.sleep(self.tick)
            assert not waiting.done()
            await a.release(grant)
            async with asyncio.timeout(10):
                assert await waiting is not None

    async def test_waiters_are_served_in_order(self) -> None:
        """FAIR: waiters, of whichever adapter, get the name in the order in which they came."""
        async with self.adapters(3) as adapters:
            self.need(adapters[0], Guarantee.FAIR)
            grant = await adapters[0].acquire(self.name, 600, 0)
            assert grant is not None
            served: list[int] = []

            async def wait(number: int) -> None:
                adapter = adapters[number % 3]
                mine = await adapter.acquire(self.name, 600, None)
                assert mine is not None
                served.append(number)
                await adapter.release(mine)

            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                for number in range(9):
                    tasks.create_task(wait(number))
                    await asyncio.sleep(self.tick)
                await adapters[0].release(grant)
            assert served == list(range(9))

    async def test_waiting_is_bounded(self) -> None:
        """A wait ends with None after its time, not before."""
        async with self.adapters(2) as (a, b):
            assert await a.acquire(self.name, 600, 0) is not None
            before = self.clock.monotonic()
            async with asyncio.timeout(10):
                assert await b.acquire(self.name, self._ttl(b), 3 * self.tick) is None
            assert self.clock.monotonic() - before >= 3 * self.tick * 0.99

    async def test_a_wait_that_ended_disturbs_nobody(self) -> None:
        """Who gave up waiting holds nothing and does not block those behind."""
        async with self.adapters(2) as (a, b):
            grant = await a.acquire(self.name, 600, 0)
            assert grant is not None
            first = asyncio.create_task(b.acquire(self.name, 600, 4 * self.tick))
            await asyncio.sleep(self.tick)
            second = asyncio.create_task(b.acquire(self.name, 600, None))
            assert await first is None
            await a.release(grant)
            async with asyncio.timeout(10):
                assert await second is not None

    async def test_a_grant_ends_by_its_time(self) -> None:
        """A holder that does nothing loses the name after its ttl, and not before."""
        async with self.adapters(2) as (a, b):
            grant = await self._take(a)
            async with asyncio.timeout(10 + grant.ttl):
                assert await b.acquire(self.name, self._ttl(b), None) is not None
            assert self.clock.monotonic() >= grant.since + grant.ttl * 0.99

    async def test_an_ended_grant_frees_the_name(self) -> None:
        """A name whose grant ended while nobody waited is given at once."""
        async with self.adapters(2) as (a, b):
            grant = await self._take(a)
            await asyncio.sleep(grant.ttl + self._late(grant))
            assert await b.acquire(self.name, self._ttl(b), 0) is not None

    async def test_tokens_grow(self) -> None:
        """Each grant of a name has a greater token, after a release, an end, and a hand-over."""
        async with self.adapters(2) as (a, b):
            tokens = []
            for adapter in (a, b, b, a):
                grant = await self._take(adapter)
                tokens.append(grant.token)
                await adapter.release(grant)
            grant = await self._take(a)
            tokens.append(grant.token)
            handed = await b.acquire(self.name, self._ttl(b), grant.ttl + 10)
            assert handed is not None
            tokens.append(handed.token)
            assert tokens == sorted(set(tokens))

    async def test_tokens_grow_across_restarts(self) -> None:
        """FENCED: a grant after a restart of the backend has a greater token than those before."""
        async with self.adapters(1) as (a,):
            self.need(a, Guarantee.FENCED)
            grant = await self._take(a)
            await a.release(grant)
        await self.restart()
        async with self.adapters(1) as (a,):
            assert (await self._take(a, wait=10)).token > grant.token

    async def test_extending(self) -> None:
        """`extend` postpones the end, counted from now, and keeps the token."""
        async with self.adapters(2) as (a, b):
            grant = await self._take(a)
            await asyncio.sleep(grant.ttl / 2)
            before = self.clock.monotonic()
            extended = await a.extend(grant, 2 * grant.ttl)
            assert extended is not None
            assert (extended.name, extended.token) == (grant.name, grant.token)
            assert extended.ttl >= 2 * grant.ttl
            assert before <= extended.since <= self.clock.monotonic()
            assert await b.acquire(self.name, self._ttl(b), grant.ttl) is None
            assert await b.acquire(self.name, self._ttl(b), 2 * grant.ttl + 10) is not None
            assert self.clock.monotonic() >= extended.since + extended.ttl * 0.99

    async def test_extending_may_shorten(self) -> None:
        """`extend` to an earlier end wakes a waiter at that end."""
        async with self.adapters(2) as (a, b):
            grant = await a.acquire(self.name, 600, 0)
            assert grant is not None
            waiting = asyncio.create_task(b.acquire(self.name, self._ttl(b), None))
            await asyncio.sleep(self.tick)
            assert await a.extend(grant, self._ttl(a)) is not None
            async with asyncio.timeout(10 + self._ttl(a)):
                assert await waiting is not None

    async def test_extending_an_ended_grant(self) -> None:
        """`extend` gives None for a grant that was released or whose time is over."""
        async with self.adapters(1) as (a,):
            grant = await self._take(a)
            await a.release(grant)
            assert await a.extend(grant, self._ttl(a)) is None
            grant = await self._take(a)
            await asyncio.sleep(grant.ttl + self._late(grant))
            assert await a.extend(grant, self._ttl(a)) is None

    async def test_extending_what_another_holds(self) -> None:
        """`extend` of an ended grant does not touch the present owner's."""
        async with self.adapters(2) as (a, b):
            grant = await self._take(a)
            await a.release(grant)
            await self._take(b)
            assert await a.extend(grant, 600) is None
            assert await a.acquire(self.name, self._ttl(a), 10 + self._ttl(a)) is not None

    async def test_releasing_an_ended_grant(self) -> None:
        """A release of a grant that ended, or a second one, never frees the present owner's."""
        async with self.adapters(2) as (a, b):
            released = await self._take(a)
            await a.release(released)
            await a.release(released)
            ended = await self._take(a)
            assert await b.acquire(self.name, 600, ended.ttl + 10) is not None
            await a.release(released)
            await a.release(ended)
            assert await a.acquire(self.name, self._ttl(a), 0) is None

    async def test_the_same_adapter_excludes_itself(self) -> None:
        """A grant belongs to the call: calls of one adapter exclude each other too."""
        async with self.adapters(2) as adapters:
            inside = 0

            async def work(number: int) -> None:
                nonlocal inside
                adapter = adapters[number % 2]
                grant = await adapter.acquire(self.name, 600, None)
                assert grant is not None
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1
                await adapter.release(grant)

            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                for number in range(20):
                    tasks.create_task(work(number))

    async def test_a_cancelled_wait_holds_nothing(self) -> None:
        """Cancelled waiters leave nothing behind: the next one gets the name."""
        async with self.adapters(2) as (a, b):
            grant = await a.acquire(self.name, 600, 0)
            assert grant is not None
            waiting = [asyncio.create_task(b.acquire(self.name, 600, None)) for _ in range(20)]
            await asyncio.sleep(self.tick)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert all(task.cancelled() for task in waiting)
            await a.release(grant)
            assert await self._eventually_free(b)

    async def test_a_call_cancelled_at_any_step_holds_nothing(self) -> None:
        """A call that is cancelled, at whatever await, even as the name is given, holds nothing."""
        async with self.adapters(2) as (a, b):
            for steps in range(12):
                grant = await a.acquire(self.name, 600, 10)
                assert grant is not None
                waiting = asyncio.create_task(b.acquire(self.name, 600, None))
                await asyncio.sleep(self.tick if steps % 2 else 0)
                releasing = asyncio.create_task(a.release(grant))
                for _ in range(steps // 2):
                    await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait({waiting, releasing})
                if not waiting.cancelled():
                    given = waiting.result()
                    assert given is not None
                    await b.release(given)
                assert await self._eventually_free(b)

    async def test_the_least_ttl(self) -> None:
        """`least_ttl` is above 0, and what is asked for it is granted in full."""
        async with self.adapters(1) as (a,):
            assert a.least_ttl > 0
            grant = await a.acquire(self.name, a.least_ttl, 0)
            assert grant is not None
            assert grant.ttl >= a.least_ttl

    async def test_closing_releases(self) -> None:
        """`close` releases what the adapter holds, long before its time is over."""
        async with self.adapters(2) as (a, b):
            assert await a.acquire(self.name, 600, 0) is not None
            await a.close()
            assert await self._eventually_free(b)

    async def test_closing_ends_waiting(self) -> None:
        """A call that waits when `close` begins raises NotOpenError, and holds nothing."""
        async with self.adapters(3) as (a, b, c):
            grant = await a.acquire(self.name, 600, 0)
            assert grant is not None
            waiting = asyncio.create_task(b.acquire(self.name, 600, None))
            await asyncio.sleep(self.tick)
            async with asyncio.timeout(10):
                await b.close()
                with pytest.raises(NotOpenError):
                    await waiting
            await a.release(grant)
            assert await self._eventually_free(c)

    async def test_closing_twice(self) -> None:
        """A second `close` does nothing, nor does one without `open`."""
        async with self.adapters(1) as (a,):
            await a.close()
            await a.close()
        await self.make_adapter().close()

    # What the clauses are made of.

    def adapters(self, count: int) -> AbstractAsyncContextManager[Sequence[LockAdapter]]:
        """Open *count* adapters, and close them at the end."""
        return opened([self.make_adapter() for _ in range(count)])

    def _ttl(self, adapter: LockAdapter) -> float:
        return max(self.ttl, adapter.least_ttl)

    def _late(self, grant: Grant) -> float:
        """Return how much later than a grant's time a backend may notice that it is over."""
        return max(self.late, grant.ttl / 2, 2 * self.tick)

    async def _take(self, adapter: LockAdapter, wait: float = 0) -> Grant:
        grant = await adapter.acquire(self.name, self._ttl(adapter), wait)
        assert grant is not None
        return grant

    async def _eventually_free(self, adapter: LockAdapter) -> bool:
        """Tell whether the name becomes free long before 600 s; it is free again afterwards."""
        grant = await adapter.acquire(self.name, self._ttl(adapter), 20)
        if grant is None:
            return False
        await adapter.release(grant)
        return True
