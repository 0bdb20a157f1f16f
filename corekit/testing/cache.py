"""The suite for cache stores: each test is one clause of `corekit.adapters.cache`.

An adapter's author writes:

    class TestMine(CacheSuite):
        def make_adapter(self) -> CacheAdapter:
            return my_cache(BackendURL.parse("mine://localhost"), make_context(clock=self.clock))
"""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from ..adapters import Guarantee, LocalCacheSpace
from ..errors import ConfigurationError
from .cache_entries import EntryClauses


class CacheSuite(EntryClauses):
    """What every cache store does; inherit it and say how to make one.

    Every test has names of its own, so a server may be shared by many.
    """

    # Spaces.

    async def test_one_name_one_space(self) -> None:
        """Spaces of one name have the same entries."""
        async with self.adapters(1) as (adapter,):
            await adapter.space(self.name).set("a", b"1", None)
            assert await self.value(adapter.space(self.name), "a") == b"1"

    async def test_spaces_are_separate(self) -> None:
        """No space sees, changes or clears another's entries, however alike the names are."""
        async with self.adapters(1) as (adapter,):
            alike = [self.name, self.name + "2", self.name + "/a", self.name[:-1] + "*"]
            spaces = [adapter.space(name) for name in alike]
            for number, space in enumerate(spaces):
                await space.set("a", str(number).encode(), None)
            for number, space in enumerate(spaces):
                assert await space.keys() == ["a"]
                assert await self.value(space, "a") == str(number).encode()
            await spaces[0].clear()
            await spaces[3].clear()
            found = [await space.get("a") for space in spaces]
            assert [stored is not None for stored in found] == [False, True, True, False]

    async def test_a_cleared_space_is_empty(self) -> None:
        """`clear` removes every entry of a space, and does nothing to an empty one."""
        async with self.space() as space:
            await space.set_many({str(number): b"1" for number in range(100)}, None)
            await space.clear()
            assert await space.keys() == []
            await space.clear()
            assert await space.get("1") is None
            assert await space.swap("1", b"2", None, None) is True

    async def test_clearing_a_prefix(self) -> None:
        """The adapter's `clear` empties the spaces whose names begin so, and no others."""
        async with self.adapters(1) as (adapter,):
            app = self.name.partition("/")[0]
            inside = [f"{app}/cache/a", f"{app}/cache/b", f"{app}/cache/c%2F*"]
            outside = [f"{app}/counter/a", f"{app}2/cache/a", f"{app}/cach"]
            spaces = [adapter.space(name) for name in inside + outside]
            for space in spaces:
                await space.set("cache/a", b"1", None)
            await adapter.clear(f"{app}/cache/")
            left = [len(await space.keys()) for space in spaces]
            assert left == [0, 0, 0, 1, 1, 1]
            await adapter.clear(f"{app}*")
            assert len(await spaces[3].keys()) == 1

    async def test_a_space_before_open(self) -> None:
        """`space` does no I/O and may be called before `open`."""
        adapter = self.make_adapter()
        space = adapter.space(self.name)
        await adapter.open()
        try:
            await space.set("a", b"1", None)
            assert await self.value(space, "a") == b"1"
        finally:
            await adapter.close()

    async def test_an_unknown_option(self) -> None:
        """An option that the store does not have raises ConfigurationError."""
        with pytest.raises(ConfigurationError, match="no_such_option"):
            self.make_adapter().space(self.name, no_such_option=1)

    async def test_a_full_space_drops_what_was_not_used(self) -> None:
        """A full space drops the entries that were not used for longest; a read is a use."""
        if not self.few:
            pytest.skip("the suite is not told how to make a space small")
        async with self.adapters(1) as (adapter,):
            space = adapter.space(self.name, **self.few)
            for number in range(8):
                await space.set(str(number), b"1", None)
            await space.get("0")
            await space.get_many(["1"])
            await space.set("2", b"2", None)
            for number in range(8, 13):
                await space.set(str(number), b"1", None)
            assert {"0", "1", "2", "12"} <= set(await space.keys())
            assert len(await space.keys()) <= 8

    async def test_never_evicted(self) -> None:
        """With `evict=False` no entry is dropped for want of room."""
        if not self.few:
            pytest.skip("the suite is not told how to make a space small")
        async with self.adapters(1) as (adapter,):
            space = adapter.space(self.name, evict=False, **self.few)
            for number in range(100):
                await space.set(str(number), b"1", None)
            assert len(await space.keys()) == 100

    # Several at once.

    async def test_calls_may_overlap(self) -> None:
        """Overlapping calls each get their own answer."""
        async with self.space() as space:

            async def one(number: int) -> None:
                key, value = f"key {number}", str(number).encode()
                assert await space.get(key) is None
                assert await space.swap(key, value, None, None)
                assert await self.value(space, key) == value
                assert await space.delete([key]) == [value]

            await asyncio.gather(*(one(number) for number in range(100)))

    async def test_a_cancelled_write(self) -> None:
        """A write that is cancelled was done or was not, and the space can be used afterwards."""
        async with self.space() as space:
            for turns in range(10):
                await space.set("a", b"old", None)
                writing = asyncio.ensure_future(space.set("a", b"new", None))
                for _ in range(turns):
                    await asyncio.sleep(0)
                writing.cancel()
                await asyncio.wait([writing])
                assert await self.value(space, "a") in {b"old", b"new"}

    async def test_two_processes_share(self) -> None:
        """What one process writes, swaps or removes, another sees."""
        async with self.adapters(2) as (one, two):
            self.need_meeting(one)
            here, there = one.space(self.name), two.space(self.name)
            await here.set("a", b"1", None)
            assert await self.value(there, "a") == b"1"
            assert await there.keys() == ["a"]
            version = await self.version(there, "a")
            assert await here.swap("a", b"2", version, None) is True
            assert await there.swap("a", b"3", version, None) is False
            assert await there.delete(["a"]) == [b"2"]
            assert await here.get("a") is None

    async def test_one_swap_wins_among_processes(self) -> None:
        """Of overlapping swaps in two processes with one version exactly one is True."""
        async with self.adapters(2) as (one, two):
            self.need_meeting(one)
            spaces = [one.space(self.name), two.space(self.name)]
            version: object = None
            for number in range(10):
                won = await asyncio.gather(
                    *(space.swap("a", bytes([number]), version, None) for space in spaces * 5)
                )
                assert won.count(True) == 1
                version = await self.version(spaces[0], "a")

    async def test_entries_outlive_their_writer(self) -> None:
        """What is stored stays when the adapter that wrote it is closed."""
        async with self.adapters(2) as (one, two):
            self.need_meeting(one)
            await one.space(self.name).set("a", b"1", None)
            await one.close()
            assert await self.value(two.space(self.name), "a") == b"1"

    async def test_closing_twice(self) -> None:
        """A second `close` does nothing, nor does one without `open`."""
        async with self.adapters(1) as (adapter,):
            await adapter.close()
            await adapter.close()
        await self.make_adapter().close()

    # Stores inside the process.

    async def test_objects_by_reference(self) -> None:
        """BY_REFERENCE: what comes back is the object that was written."""
        async with self.space(Guarantee.BY_REFERENCE) as space:
            value = object()
            await space.set("a", value, None)
            assert await self.value(space, "a") is value
            assert await space.delete(["a"]) == [value]

    async def test_peeking(self) -> None:
        """BY_REFERENCE: `peek` returns at once what `get` would, None where there is no entry."""
        async with self.space(Guarantee.BY_REFERENCE) as space:
            local = cast(LocalCacheSpace, space)
            value = object()
            assert local.peek("a") is None
            await space.set("a", value, None)
            assert local.peek("a") is value
            await space.delete(["a"])
            assert local.peek("a") is None

    async def test_peeking_is_a_use(self) -> None:
        """BY_REFERENCE: an entry that was peeked at is not dropped as unused."""
        async with self.adapters(1) as (adapter,):
            self.need(adapter, Guarantee.BY_REFERENCE)
            if not self.few:
                pytest.skip("the suite is not told how to make a space small")
            space = cast(LocalCacheSpace, adapter.space(self.name, **self.few))
            for number in range(12):
                await space.set(str(number), number, None)
                assert space.peek("0") == 0
