"""The suite for lock adapters that keep members: a test for each clause of the contract.

The contract is `corekit.adapters.membership`. An adapter's author writes, beside the LockSuite:

    class TestMyMembers(MembershipSuite):
        def make_adapter(self) -> MyLock:
            return my_lock(BackendURL.parse("mine://localhost"), make_context(clock=self.clock))
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol, TypeVar

import pytest

from ..adapters import Grant, LockAdapter, Member, MembershipAdapter
from ..clock import Clock
from ..errors import NotOpenError
from .suite import AdapterSuite, opened

T = TypeVar("T")


class Adapter(LockAdapter, MembershipAdapter, Protocol):
    """A lock adapter that keeps members."""


class MembershipSuite(AdapterSuite):
    """What every `MembershipAdapter` does; its locks are proved by the `LockSuite`."""

    ttl = 0.4
    """The lifetime that grants are made with, in seconds; a backend's least ttl may be longer."""

    late = 2.0
    """How much later than it happened a change is seen at the latest, in seconds."""

    def make_adapter(self) -> Adapter:
        """Return a new adapter, not opened; each one plays a process of its own."""
        raise NotImplementedError

    def begin(self, clock: Clock) -> None:
        super().begin(clock)
        self.prefix = f"suite/member/{secrets.token_hex(8)}"

    async def test_the_ability_is_found(self) -> None:
        """The adapter is seen to be a `MembershipAdapter` before it is opened."""
        assert isinstance(self.make_adapter(), MembershipAdapter)

    async def test_a_value_is_seen_by_all(self) -> None:
        """What is announced is seen at once by this adapter, and by every other."""
        async with self.adapters(2) as (a, b):
            grant = await self._hold(a, "x")
            assert await a.members(self.prefix) == []
            assert await a.announce(grant, b"value") is True
            expected = [Member(f"{self.prefix}/x", grant.token, b"value")]
            assert await a.members(self.prefix) == expected
            assert await b.members(self.prefix) == expected

    async def test_any_bytes_are_a_value(self) -> None:
        """A value may be empty, and hold any bytes."""
        async with self.adapters(1) as (a,):
            grant = await self._hold(a, "x")
            for value in (b"", bytes(range(256)), b"x" * 10_000):
                assert await a.announce(grant, value)
                assert [member.value for member in await a.members(self.prefix)] == [value]

    async def test_members_come_in_the_order_of_tokens(self) -> None:
        """Members are listed by their tokens, the smallest first."""
        async with self.adapters(2) as (a, b):
            grants = []
            for number, name in enumerate(("z", "a", "m", "b")):
                adapter = (a, b)[number % 2]
                grants.append(await self._hold(adapter, name, 60))
            for grant in reversed(grants):
                assert await a.announce(grant, grant.name.encode())
            # Tokens of different names need not be comparable; those that are seen are sorted.
            tokens = [member.token for member in await b.members(self.prefix)]
            assert tokens == sorted(grant.token for grant in grants)

    async def test_a_prefix_ends_at_a_slash(self) -> None:
        """A prefix covers the name itself and what is below it, not names that begin alike."""
        async with self.adapters(1) as (a,):
            for name in ("x", "x/y", "xy", "X", "x%2Fy"):
                assert await a.announce(await self._hold(a, name, 60), b"")
            found = {member.name for member in await a.members(f"{self.prefix}/x")}
            assert found == {f"{self.prefix}/x", f"{self.prefix}/x/y"}

    async def test_it_goes_with_the_release(self) -> None:
        """A released grant shows nothing any more, nor does the next one by itself."""
        async with self.adapters(2) as (a, b):
            grant = await self._hold(a, "x")
            await a.announce(grant, b"value")
            await a.release(grant)
            assert await b.members(self.prefix) == []
            await self._hold(b, "x")
            assert await b.members(self.prefix) == []

    async def test_it_goes_with_the_time(self) -> None:
        """A grant whose time is over shows nothing any more."""
        async with self.adapters(2) as (a, b):
            grant = await self._hold(a, "x")
            await a.announce(grant, b"value")
            await asyncio.sleep(grant.ttl)
            await self._eventually(b, [])

    async def test_it_stays_with_an_extension(self) -> None:
        """An extended grant goes on to show its value, until its new end."""
        async with self.adapters(2) as (a, b):
            grant = await self._hold(a, "x")
            await a.announce(grant, b"value")
            extended = await a.extend(grant, 3 * grant.ttl)
            assert extended is not None
            await asyncio.sleep(2 * grant.ttl)
            assert [member.value for member in await b.members(self.prefix)] == [b"value"]
            assert await a.announce(extended, b"new")
            assert [member.value for member in await b.members(self.prefix)] == [b"new"]
            await asyncio.sleep(extended.ttl - 2 * grant.ttl)
            await self._eventually(b, [])

    async def test_it_goes_with_the_close(self) -> None:
        """What an adapter shows is gone when it is closed."""
        async with self.adapters(2) as (a, b):
            await a.announce(await self._hold(a, "x", 600), b"value")
            await a.close()
            await self._eventually(b, [])

    async def test_an_ended_grant_announces_nothing(self) -> None:
        """`announce` gives False for a grant that ended, and does not touch the present holder."""
        async with self.adapters(2) as (a, b):
            old = await self._hold(a, "x")
            await a.release(old)
            assert await a.announce(old, b"old") is False
            new = await self._hold(b, "x")
            await b.announce(new, b"new")
            assert await a.announce(old, b"old") is False
            assert [member.value for member in await a.members(self.prefix)] == [b"new"]
            over = await self._hold(a, "y")
            await asyncio.sleep(over.ttl + self.late)
            assert await a.announce(over, b"over") is False

    async def test_watching_begins_with_the_present(self) -> None:
        """The first state comes at once, be it empty or not."""
        async with self.adapters(2) as (a, b):
            async with aclosing(self._watch(b)) as states:
                assert await self._next(states) == {}
            await a.announce(await self._hold(a, "x", 60), b"value")
            async with aclosing(self._watch(b)) as states:
                assert await self._next(states) == {"x": b"value"}

    async def test_changes_are_seen(self) -> None:
        """Watchers see what is announced, replaced and released, by whichever adapter."""
        async with self.adapters(2) as (a, b), aclosing(self._watch(b)) as states:
            await self._until(states, {})
            x = await self._hold(a, "x", 60)
            await a.announce(x, b"1")
            await self._until(states, {"x": b"1"})
            await a.announce(x, b"2")
            await self._until(states, {"x": b"2"})
            await b.announce(await self._hold(b, "y", 60), b"3")
            await self._until(states, {"x": b"2", "y": b"3"})
            await a.release(x)
            await self._until(states, {"y": b"3"})
            await b.close()

    async def test_an_end_by_time_is_seen(self) -> None:
        """Watchers see a holder that died disappear after its ttl, without anybody's doing."""
        async with self.adapters(2) as (a, b):
            grant = await self._hold(a, "x")
            await a.announce(grant, b"value")
            async with aclosing(self._watch(b)) as states:
                await self._until(states, {"x": b"value"})
                await self._until(states, {}, grant.ttl)
                assert self.clock.monotonic() >= grant.since + grant.ttl * 0.99

    async def test_a_shortened_time_is_seen(self) -> None:
        """Watchers see the end of a grant that was extended to an earlier end."""
        async with self.adapters(2) as (a, b):
            grant = await self._hold(a, "x", 600)
            await a.announce(grant, b"value")
            async with aclosing(self._watch(b)) as states:
                await self._until(states, {"x": b"value"})
                ended = asyncio.ensure_future(self._until(states, {}, 600))
                await asyncio.sleep(0.05)
                shortened = await a.extend(grant, max(self.ttl, a.least_ttl))
                assert shortened is not None
                async with asyncio.timeout(shortened.ttl + self.late):
                    await ended

    async def test_other_prefixes_are_not_seen(self) -> None:
        """A watcher sees nothing of names outside its prefix."""
        own = f"{self.prefix}/x"
        async with self.adapters(1) as (a,), aclosing(a.watch(own)) as states:
            assert await self._next(states) == []
            await a.announce(await self._hold(a, "xy", 60), b"other")
            await a.announce(await self._hold(a, "x", 60), b"mine")
            assert [member.value for member in await self._next(states)] == [b"mine"]

    async def test_closing_ends_watching(self) -> None:
        """A watcher that waits when `close` begins gets NotOpenError."""
        async with self.adapters(1) as (a,):
            states = self._watch(a)
            assert await self._next(states) == {}
            waiting = asyncio.ensure_future(anext(states))
            await asyncio.sleep(0.05)
            async with asyncio.timeout(10):
                await a.close()
                with pytest.raises(NotOpenError):
                    await waiting

    # What the clauses are made of.

    def adapters(self, count: int) -> AbstractAsyncContextManager[Sequence[Adapter]]:
        """Open *count* adapters, and close them at the end."""
        return opened([self.make_adapter() for _ in range(count)])

    async def _hold(self, adapter: Adapter, name: str, ttl: float = 0) -> Grant:
        wanted = max(ttl or self.ttl, adapter.least_ttl)
        grant = await adapter.acquire(f"{self.prefix}/{name}", wanted, 0)
        assert grant is not None
        return grant

    async def _watch(self, adapter: Adapter) -> AsyncGenerator[dict[str, bytes], None]:
        async with aclosing(adapter.watch(self.prefix)) as states:
            async for members in states:
                yield {one.name.removeprefix(f"{self.prefix}/"): one.value for one in members}

    async def _next(self, states: AsyncIterator[T]) -> T:
        async with asyncio.timeout(self.late):
            return await anext(states)

    async def _until(
        self, states: AsyncIterator[dict[str, bytes]], expected: dict[str, bytes], after: float = 0
    ) -> None:
        """Wait for the state *expected*, at most `late` seconds longer than *after*."""
        async with asyncio.timeout(after + self.late):
            while await anext(states) != expected:
                pass

    async def _eventually(self, adapter: Adapter, expected: list[Member]) -> None:
        deadline = self.clock.monotonic() + self.late
        while await adapter.members(self.prefix) != expected:
            assert self.clock.monotonic() < deadline
            await asyncio.sleep(0.05)
