"""The cache suite can fail: each wrong store fails exactly the clauses that it breaks."""

from __future__ import annotations

import asyncio
import copy
import inspect
from functools import partial

import pytest

from corekit.adapters import Stored
from corekit.config import BackendURL
from corekit.memory.cache import MemoryCache, MemorySpace
from corekit.testing import VirtualClock
from corekit.testing.cache import CacheSuite
from corekit.testing.contexts import make_context


def calls(method):
    """Return the ways in which pytest would call *method*."""
    for mark in getattr(method, "pytestmark", []):
        if mark.name == "parametrize":
            return [{mark.args[0]: value} for value in mark.args[1]]
    return [{}]


def broken(make_adapter):
    """Return the names of the clauses that the adapter fails, without their `test_`."""
    failed = set()
    for name, method in inspect.getmembers(CacheSuite, inspect.isfunction):
        if not name.startswith("test_"):
            continue
        for arguments in calls(method):
            suite = CacheSuite()
            suite.clock = VirtualClock()
            suite.name = f"suite-{name}-{arguments}/cache/a"
            suite.meets = True
            suite.few = {"max": 8}
            suite.make_adapter = lambda suite=suite: make_adapter(suite.clock)
            try:
                suite.clock.run(method(suite, **arguments))
            except pytest.skip.Exception:
                pass
            except (Exception, pytest.fail.Exception):
                failed.add(name.removeprefix("test_"))
    return failed


def store(space, clock, *, url="memory://wrong", kind=MemoryCache):
    """Return a memory store whose spaces are of the class *space*."""
    adapter = kind(BackendURL.parse(url), make_context(clock=clock))

    def make(name, *, evict=True, **options):
        made = kind.space(adapter, name, evict=evict, **options)
        made.__class__ = space
        made.evict = evict
        made.clock = clock
        made.adapter = adapter
        return made

    adapter.space = make
    return adapter


class ForgetsLifetimes(MemorySpace):
    """Keeps everything for ever."""

    breaks = "collected_in_the_end"

    def _write(self, key, value, lifetime):
        super()._write(key, value, None)


class EndsLifetimesEarly(MemorySpace):
    """Drops entries too early."""

    breaks = "kept_for_the_lifetime"

    def _write(self, key, value, lifetime):
        super()._write(key, value, lifetime and lifetime / 3)


class KeepsTheFirstLifetime(MemorySpace):
    """Leaves the deadline of the first write in place."""

    breaks = "the_last_write_decides"

    def _write(self, key, value, lifetime):
        slot = self._find(key)
        super()._write(key, value, lifetime)
        if slot is not None:
            self._slots[key].deadline = slot.deadline


class GivesEverythingALifetime(MemorySpace):
    """Has a default lifetime."""

    breaks = "kept_without_a_lifetime the_last_write_decides"

    def _write(self, key, value, lifetime):
        super()._write(key, value, 0.5 if lifetime is None else lifetime)


class SwapsAnything(MemorySpace):
    """Does not compare versions."""

    breaks = (
        "only_if_there_is_none only_the_version_that_was_read a_removed_entry_is_not_swapped "
        "one_swap_wins two_processes_share one_swap_wins_among_processes"
    )

    async def swap(self, key, value, version, lifetime):
        await self.set(key, value, lifetime)
        return True


class SwapsOverGoneEntries(MemorySpace):
    """Takes any version where nothing is."""

    breaks = "a_removed_entry_is_not_swapped"

    async def swap(self, key, value, version, lifetime):
        if self._find(key) is None:
            version = None
        return await super().swap(key, value, version, lifetime)


class SwapsInTwoSteps(MemorySpace):
    """Lets others in between comparing and writing."""

    breaks = "one_swap_wins one_swap_wins_among_processes"

    async def swap(self, key, value, version, lifetime):
        stored = await self.get(key)
        await asyncio.sleep(0)
        if (stored and stored.version) != version:
            return False
        await self.set(key, value, lifetime)
        return True


class SwapsAndSaysNothing(MemorySpace):
    """Does not tell whether it has swapped."""

    breaks = (
        "only_if_there_is_none only_the_version_that_was_read a_removed_entry_is_not_swapped "
        "every_write_has_its_version one_swap_wins kept_for_the_lifetime collected_in_the_end "
        "kept_without_a_lifetime "
        "the_last_write_decides a_cleared_space_is_empty calls_may_overlap two_processes_share "
        "one_swap_wins_among_processes"
    )

    async def swap(self, key, value, version, lifetime):
        await super().swap(key, value, version, lifetime)


class VersionsByValue(MemorySpace):
    """Gives equal values equal versions."""

    breaks = "every_write_has_its_version"

    def _write(self, key, value, lifetime):
        super()._write(key, value, lifetime)
        self._slots[key].version = hash(value)


class ReadsChangeVersions(MemorySpace):
    """Counts reads as changes."""

    breaks = "reading_keeps_the_version many_are_read_in_order"

    async def get_many(self, keys):
        found = await super().get_many(keys)
        for key in keys:
            if key in self._slots:
                self._slots[key].version = next(self._versions)
        return found


class ClearsByPrefix(MemorySpace):
    """Clears spaces whose names begin alike."""

    breaks = "spaces_are_separate"

    async def clear(self):
        await self.adapter.clear(self._name)


class FoldsCase(MemorySpace):
    """Takes upper and lower case for the same."""

    breaks = "keys_are_literal"

    def _write(self, key, value, lifetime):
        super()._write(key.lower(), value, lifetime)


class KnowsWildcards(MemorySpace):
    """Gives a star a meaning."""

    breaks = "keys_are_literal"

    async def delete(self, keys):
        if keys == ["*"]:
            await self.clear()
        return await super().delete(keys)


class AnswersInItsOwnOrder(MemorySpace):
    """Sorts the keys that it is asked for."""

    breaks = "many_are_read_in_order many_are_written"

    async def get_many(self, keys):
        return await super().get_many(sorted(keys))


class LeavesOutMissing(MemorySpace):
    """Answers only what it has."""

    breaks = "many_are_read_in_order collected_in_the_end removed_entries_are_returned"

    async def get_many(self, keys):
        return [stored for stored in await super().get_many(keys) if stored]


class WritesAllButOne(MemorySpace):
    """Loses one of many."""

    breaks = "many_are_written"

    async def set_many(self, entries, lifetime):
        await super().set_many(entries, lifetime)
        if len(entries) > 50:
            del self._slots[list(entries)[50]]


class DeletesSilently(MemorySpace):
    """Does not tell what it has removed."""

    breaks = (
        "removed_entries_are_returned calls_may_overlap two_processes_share objects_by_reference"
    )

    async def delete(self, keys):
        await super().delete(keys)
        return [None for _ in keys]


class MissingIsEmpty(MemorySpace):
    """Has no notion of missing."""

    breaks = (
        "a_key_without_an_entry a_removed_entry_is_not_swapped a_cleared_space_is_empty "
        "spaces_are_separate calls_may_overlap two_processes_share"
    )

    async def get(self, key):
        return await super().get(key) or Stored(b"", 0)

    async def get_many(self, keys):
        return [await MemorySpace.get(self, key) for key in keys]


class CutsLongValues(MemorySpace):
    """Stores at most 64 KiB."""

    breaks = "what_is_written_is_read"

    def _write(self, key, value, lifetime):
        super()._write(key, value[:65535] if type(value) is bytes else value, lifetime)


class TellsKeysTwice(MemorySpace):
    """Tells each key twice."""

    breaks = (
        "keys_are_literal the_keys_are_told spaces_are_separate clearing_a_prefix "
        "never_evicted a_full_space_drops_what_was_not_used two_processes_share"
    )

    async def keys(self):
        return 2 * await super().keys()


class EvictsCounters(MemorySpace):
    """Evicts what must not be evicted."""

    breaks = "never_evicted"

    def _write(self, key, value, lifetime):
        super()._write(key, value, lifetime)
        if not self.evict and len(self._slots) > 50:
            self._slots.popitem(last=False)


class DropsTheOldest(MemorySpace):
    """Evicts by age, not by use."""

    breaks = "a_full_space_drops_what_was_not_used peeking_is_a_use"

    def _find(self, key):
        order = list(self._slots)
        slot = super()._find(key)
        self._restore(order)
        return slot

    def _write(self, key, value, lifetime):
        order = [*self._slots, key]
        super()._write(key, value, lifetime)
        self._restore(order)

    def _restore(self, order):
        for key in dict.fromkeys(order):
            if key in self._slots:
                self._slots.move_to_end(key)

    def peek(self, key):
        slot = self._slots.get(key)
        return slot and slot.value


class PeeksWithoutUse(MemorySpace):
    """Does not count a peek as a use."""

    breaks = "peeking_is_a_use"

    def peek(self, key):
        slot = self._slots.get(key)
        return slot and slot.value


class Copies(MemorySpace):
    """Declares references, and copies."""

    breaks = "objects_by_reference peeking"

    def _write(self, key, value, lifetime):
        value = value if isinstance(value, bytes | int) else [value]
        super()._write(key, copy.copy(value), lifetime)


class WritesInTwoSteps(MemorySpace):
    """Can be cancelled in the middle of a write."""

    breaks = "a_cancelled_write"

    async def set(self, key, value, lifetime):
        await self.delete([key])
        await asyncio.sleep(0)
        await super().set(key, value, lifetime)


class MixesUpAnswers(MemorySpace):
    """Answers what was asked last."""

    breaks = "calls_may_overlap"

    async def get(self, key):
        self.asked = key
        await asyncio.sleep(0)
        return await super().get(self.asked)


class ClearsHalf(MemorySpace):
    """Leaves entries behind."""

    breaks = "a_cleared_space_is_empty"

    async def clear(self):
        for key in list(self._slots)[:50]:
            del self._slots[key]


SPACES = [
    space
    for space in list(globals().values())
    if inspect.isclass(space) and issubclass(space, MemorySpace) and space is not MemorySpace
]


class Unmet(MemoryCache):
    """Has a store for each adapter."""

    breaks = "two_processes_share one_swap_wins_among_processes entries_outlive_their_writer"

    def __init__(self, url, context):
        super().__init__(url, context)
        self._hub = type(self._hub)()


class ForgetsWhenClosed(MemoryCache):
    """Takes what it wrote with it."""

    breaks = "entries_outlive_their_writer"

    async def close(self):
        await self.clear("")


class ClosesOnce(MemoryCache):
    """Fails when it is closed again."""

    breaks = "closing_twice entries_outlive_their_writer"

    async def open(self):
        self.opened = True

    async def close(self):
        del self.opened


class ClearsEverything(MemoryCache):
    """Empties everybody's spaces."""

    breaks = "clearing_a_prefix"

    async def clear(self, prefix):
        await super().clear("")


class ClearsBeyondSlashes(MemoryCache):
    """Takes a prefix for less than it is."""

    breaks = "clearing_a_prefix"

    async def clear(self, prefix):
        await super().clear(prefix.rstrip("/*"))


class TakesAnyOption(MemoryCache):
    """Ignores an option that it does not know."""

    breaks = "an_unknown_option"

    def space(self, name, *, evict=True, no_such_option=None, **options):
        return super().space(name, evict=evict, **options)


class NeedsToBeOpen(MemoryCache):
    """Cannot give spaces before it is open."""

    breaks = "a_space_before_open an_unknown_option"
    opened = False

    async def open(self):
        self.opened = True

    def space(self, name, *, evict=True, **options):
        if not self.opened:
            raise RuntimeError
        return super().space(name, evict=evict, **options)


class HasAnotherSpaceEachTime(MemoryCache):
    """Gives new entries for a known name."""

    breaks = (
        "one_name_one_space two_processes_share one_swap_wins_among_processes "
        "entries_outlive_their_writer"
    )

    def space(self, name, *, evict=True, **options):
        self.made = getattr(self, "made", 0) + 1
        return super().space(f"{name}/{id(self)}/{self.made}", evict=evict, **options)


CACHES = [
    kind
    for kind in list(globals().values())
    if inspect.isclass(kind) and issubclass(kind, MemoryCache) and kind is not MemoryCache
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.__name__)
def test_a_wrong_space(space):
    """The suite fails exactly the clauses that the space breaks."""
    assert broken(partial(store, space)) == set(space.breaks.split())


@pytest.mark.parametrize("kind", CACHES, ids=lambda kind: kind.__name__)
def test_a_wrong_store(kind):
    """The suite fails exactly the clauses that the store breaks."""
    assert broken(partial(store, MemorySpace, kind=kind)) == set(kind.breaks.split())


def test_every_clause_can_fail():
    """Each clause is broken by one of these stores."""
    clauses = {
        name.removeprefix("test_")
        for name, _ in inspect.getmembers(CacheSuite, inspect.isfunction)
        if name.startswith("test_")
    }
    can_fail = {clause for wrong in SPACES + CACHES for clause in wrong.breaks.split()}
    assert clauses - can_fail == {"a_write_replaces", "none_at_all"}


def test_a_right_store():
    """The suite fails no clause of a store that is right."""
    assert broken(partial(store, MemorySpace)) == set()
