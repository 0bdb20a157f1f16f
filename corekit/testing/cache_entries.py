"""The clauses of the cache suite about single entries: reading, writing, swapping, lifetimes."""

from __future__ import annotations

import asyncio

import pytest

from .cache_clauses import CacheClauses

#: Keys that some store or other might take for something else.
_KEYS = (
    "a",
    "A",
    "a b",
    " a",
    "a/b",
    "a.b",
    "a:b",
    "a%2Fb",
    "*",
    "a*",
    "?",
    "[a]",
    "{a}",
    "../a",
    "é",
    "e\u0301",
    "\U0001f511",
    "x" * 512,
)


class EntryClauses(CacheClauses):
    """What holds for the entries of one space."""

    # Entries.

    async def test_a_key_without_an_entry(self) -> None:
        """`get` returns None where there is no entry."""
        async with self.space() as space:
            assert await space.get("a") is None

    @pytest.mark.parametrize("size", [0, 1, 256, 1024 * 1024])
    async def test_what_is_written_is_read(self, size: int) -> None:
        """`get` returns exactly the bytes that were written."""
        value = bytes(range(256)) * (size // 256) + bytes(size % 256)
        async with self.space() as space:
            await space.set("a", value, None)
            assert await self.value(space, "a") == value

    async def test_a_write_replaces(self) -> None:
        """`set` writes whatever was there."""
        async with self.space() as space:
            await space.set("a", b"old", None)
            await space.set("a", b"new", None)
            assert await self.value(space, "a") == b"new"

    async def test_keys_are_literal(self) -> None:
        """Every checked name is a key of its own; no character in it means anything."""
        async with self.space() as space:
            for key in _KEYS:
                await space.set(key, key.encode(), None)
            for key in _KEYS:
                assert await self.value(space, key) == key.encode()
            assert sorted(await space.keys()) == sorted(_KEYS)
            await space.delete(["*"])
            assert len(await space.keys()) == len(_KEYS) - 1

    async def test_many_are_read_in_order(self) -> None:
        """`get_many` answers in the order of the keys, None where there is no entry, twice too."""
        async with self.space() as space:
            await space.set("a", b"1", None)
            await space.set("b", b"2", None)
            found = await space.get_many(["b", "missing", "a", "b"])
            assert [stored and stored.value for stored in found] == [b"2", None, b"1", b"2"]
            assert found[0] == await space.get("b")

    async def test_many_are_written(self) -> None:
        """`set_many` writes every entry."""
        async with self.space() as space:
            entries = {f"key {number}": str(number).encode() for number in range(100)}
            await space.set_many(entries, None)
            found = await space.get_many(list(entries))
            assert [stored and stored.value for stored in found] == list(entries.values())

    async def test_none_at_all(self) -> None:
        """Without keys, the calls for many do nothing."""
        async with self.space() as space:
            await space.set_many({}, None)
            assert await space.get_many([]) == []
            assert await space.delete([]) == []

    async def test_removed_entries_are_returned(self) -> None:
        """`delete` returns the value of each key in order, None where there was none."""
        async with self.space() as space:
            await space.set("a", b"1", None)
            await space.set("b", b"2", None)
            assert await space.delete(["b", "missing", "a", "a"]) == [b"2", None, b"1", None]
            assert await space.get_many(["a", "b"]) == [None, None]

    async def test_the_keys_are_told(self) -> None:
        """`keys` returns each key that has an entry, once."""
        async with self.space() as space:
            assert await space.keys() == []
            await space.set_many({"a": b"1", "b": b"2", "c": b"3"}, None)
            await space.set("a", b"4", None)
            await space.delete(["b"])
            assert sorted(await space.keys()) == ["a", "c"]

    # Swaps.

    async def test_only_if_there_is_none(self) -> None:
        """`swap` with version None writes only where there is no entry."""
        async with self.space() as space:
            assert await space.swap("a", b"1", None, None) is True
            assert await space.swap("a", b"2", None, None) is False
            assert await self.value(space, "a") == b"1"
            await space.delete(["a"])
            assert await space.swap("a", b"3", None, None) is True

    async def test_only_the_version_that_was_read(self) -> None:
        """`swap` writes only over the version it is given; else it changes nothing."""
        async with self.space() as space:
            await space.set("a", b"1", None)
            version = await self.version(space, "a")
            assert await space.swap("a", b"2", version, None) is True
            assert await space.swap("a", b"3", version, None) is False
            assert await self.value(space, "a") == b"2"

    async def test_a_removed_entry_is_not_swapped(self) -> None:
        """`swap` over a version whose entry is gone writes nothing."""
        async with self.space() as space:
            await space.set("a", b"1", None)
            version = await self.version(space, "a")
            await space.delete(["a"])
            assert await space.swap("a", b"2", version, None) is False
            assert await space.get("a") is None

    async def test_every_write_has_its_version(self) -> None:
        """The version differs after every write, of the same value too, and after a removal."""
        async with self.space() as space:
            versions = []
            for _ in range(3):
                await space.set("a", b"same", None)
                versions.append(await self.version(space, "a"))
                await space.set_many({"a": b"same"}, None)
                versions.append(await self.version(space, "a"))
                assert await space.swap("a", b"same", versions[-1], None)
                versions.append(await self.version(space, "a"))
                await space.delete(["a"])
            assert all(a != b for i, a in enumerate(versions) for b in versions[:i])

    async def test_reading_keeps_the_version(self) -> None:
        """The version stays as long as nothing is written."""
        async with self.space() as space:
            await space.set("a", b"1", None)
            version = await self.version(space, "a")
            await space.set("b", b"2", None)
            await space.get_many(["a", "b"])
            assert await self.version(space, "a") == version

    @pytest.mark.parametrize("present", [False, True])
    async def test_one_swap_wins(self, present: bool) -> None:
        """Of several overlapping swaps with one version exactly one is True, and is what stays."""
        async with self.space() as space:
            if present:
                await space.set("a", b"old", None)
            version = await self.version(space, "a") if present else None
            values = [str(number).encode() for number in range(20)]
            won = await asyncio.gather(*(space.swap("a", value, version, None) for value in values))
            assert won.count(True) == 1
            assert await self.value(space, "a") == values[won.index(True)]

    # Lifetimes.

    async def test_kept_for_the_lifetime(self) -> None:
        """An entry is there until its lifetime has passed, however it was written."""
        async with self.space() as space:
            await space.set("set", b"1", self.lifetime)
            await space.set_many({"many": b"1"}, self.lifetime)
            assert await space.swap("swap", b"1", None, self.lifetime)
            await asyncio.sleep(self.lifetime / 2)
            assert None not in await space.get_many(["set", "many", "swap"])

    async def test_collected_in_the_end(self) -> None:
        """Some time after its lifetime an entry is gone, however it was written."""
        async with self.space() as space:
            await space.set("set", b"1", self.lifetime)
            await space.set_many({"many": b"1"}, self.lifetime)
            assert await space.swap("swap", b"1", None, self.lifetime)
            deadline = self.clock.monotonic() + self.lifetime + self.collected_within
            while await space.get_many(["set", "many", "swap"]) != [None] * 3:
                assert self.clock.monotonic() < deadline
                await asyncio.sleep(self.lifetime / 4)
            assert await space.keys() == []
            assert await space.delete(["set"]) == [None]
            assert await space.swap("set", b"2", None, None)

    async def test_kept_without_a_lifetime(self) -> None:
        """Without a lifetime an entry stays until it is removed."""
        async with self.space() as space:
            await space.set("set", b"1", None)
            await space.set_many({"many": b"1"}, None)
            assert await space.swap("swap", b"1", None, None)
            await space.set("other", b"1", self.lifetime)
            await self.until_collected(space, "other")
            assert None not in await space.get_many(["set", "many", "swap"])

    async def test_the_last_write_decides(self) -> None:
        """The lifetime of an entry is that of its last write, not of one before."""
        async with self.space() as space:
            for key in ("set", "many", "swap", "shorter"):
                await space.set(key, b"1", None if key == "shorter" else self.lifetime)
            await space.set("set", b"2", None)
            await space.set_many({"many": b"2"}, None)
            assert await space.swap("swap", b"2", await self.version(space, "swap"), None)
            await space.set("shorter", b"2", self.lifetime)
            await self.until_collected(space, "shorter")
            found = await space.get_many(["set", "many", "swap"])
            assert [stored and stored.value for stored in found] == [b"2"] * 3
