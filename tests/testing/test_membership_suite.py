"""The membership suite itself: wrong adapters fail exactly the clauses that they break."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from corekit.adapters import Member
from corekit.memory.lock import LockHub, MemoryLock
from corekit.testing import VirtualClock
from corekit.testing.contexts import make_context
from corekit.testing.membership import MembershipSuite

CLAUSES = [name for name in dir(MembershipSuite) if name.startswith("test_")]


def broken_clauses(kind):
    """Run the suite on adapters of *kind*; return the names of the clauses that fail."""
    broken = set()
    for clause in CLAUSES:
        clock, hub = VirtualClock(), LockHub()

        class Suite(MembershipSuite):
            virtual = True

            def make_adapter(self, hub=hub):
                return kind(hub, make_context(clock=self.clock))

        suite = Suite()
        suite.begin(clock)
        try:
            clock.run(getattr(suite, clause)())
        except (Exception, pytest.fail.Exception):
            broken.add(clause.removeprefix("test_"))
    return broken


def test_a_right_adapter_passes():
    """The adapter that the wrong ones are made from breaks no clause."""
    assert broken_clauses(MemoryLock) == set()


class Private(MemoryLock):
    """Shows nothing to other adapters."""

    async def members(self, prefix):
        grants = self._hub._grants
        return [each for each in await super().members(prefix) if grants[each.name].owner is self]


class Text(MemoryLock):
    """Cuts values at the first zero byte."""

    async def announce(self, grant, value):
        return await super().announce(grant, value.split(b"\x00")[0])


class Unsorted(MemoryLock):
    """Lists members by their names."""

    async def members(self, prefix):
        return sorted(await super().members(prefix), key=lambda each: each.name)


class TextPrefix(MemoryLock):
    """Takes the prefix for the beginning of a text."""

    async def members(self, prefix):
        everything = await super().members("suite")
        return [each for each in everything if each.name.startswith(prefix)]

    async def watch(self, prefix):
        last = None
        async for everything in super().watch("suite"):
            members = [each for each in everything if each.name.startswith(prefix)]
            if members != last:
                last = members
                yield members


class Lasting(MemoryLock):
    """Shows values by name, until they are replaced, whatever becomes of the grant."""

    async def announce(self, grant, value):
        shown = await super().announce(grant, value)
        if shown:
            self._all[grant.name] = (grant, value)
        return shown

    @property
    def _all(self):
        return self._hub.__dict__.setdefault("all", {})

    async def members(self, prefix):
        present = {each.name: each for each in await super().members(prefix)}
        for name, (grant, value) in self._all.items():
            if name.startswith(prefix) and name not in present:
                present[name] = Member(grant.name, grant.token, value)
        return sorted(present.values(), key=lambda each: each.token)


class FixedEnd(MemoryLock):
    """Lets a value end with the time that the grant had when it was announced."""

    async def extend(self, grant, ttl):
        shown = self._hub._showcase.values.get(grant.name)
        extended = await super().extend(grant, ttl)
        if shown is not None:
            loop = asyncio.get_running_loop()
            loop.call_at(grant.since + grant.ttl, self._hub._showcase.hide, grant.name)
        return extended


class Blind(MemoryLock):
    """Announces for whoever holds the name."""

    async def announce(self, grant, value):
        return await super().announce(self._hub._grants.get(grant.name, grant), value)


class Boastful(MemoryLock):
    """Says that it has announced what it has not."""

    async def announce(self, grant, value):
        await super().announce(grant, value)
        return True


class NoBeginning(MemoryLock):
    """Lets watchers see changes only."""

    async def watch(self, prefix):
        states = super().watch(prefix)
        await anext(states)
        async for members in states:
            yield members


class NoChanges(MemoryLock):
    """Lets watchers see the beginning only."""

    async def watch(self, prefix):
        async for members in super().watch(prefix):
            yield members
            await asyncio.Event().wait()


class NoTime(MemoryLock):
    """Does not notice for watchers that a time is over."""

    async def watch(self, prefix):
        watcher = self._hub.watch(prefix)
        self._watchers.add(watcher)
        while not self._closed:
            yield self._hub.members(prefix, self._clock.monotonic())[0]
            await watcher.sleep(self._clock.monotonic() + 1000)
        raise self._refusal()


class NoShortening(MemoryLock):
    """Does not tell watchers that a grant will end earlier."""

    async def extend(self, grant, ttl):
        showcase = self._hub._showcase
        showcase.touch, touch = lambda _: None, showcase.touch
        try:
            return await super().extend(grant, ttl)
        finally:
            showcase.touch = touch


class Deaf(MemoryLock):
    """Leaves watchers alone when it is closed."""

    async def close(self):
        self._watchers.clear()
        await super().close()


class Keeper(MemoryLock):
    """Goes on to show what it has shown when it is closed."""

    async def close(self):
        self._closed = True
        for watcher in self._watchers:
            watcher.wake()


class Alone:
    """A lock adapter without the ability."""

    guarantees = frozenset()
    least_ttl = 0.1

    def __init__(self, hub, context):
        self._adapter = MemoryLock(hub, context)

    async def open(self):
        pass

    async def close(self):
        await self._adapter.close()


BREAKS = {
    Private: {"a_value_is_seen_by_all"},
    Text: {"any_bytes_are_a_value"},
    Unsorted: {"members_come_in_the_order_of_tokens"},
    TextPrefix: {"a_prefix_ends_at_a_slash", "other_prefixes_are_not_seen"},
    Lasting: {"it_goes_with_the_release", "it_goes_with_the_time", "it_goes_with_the_close"},
    FixedEnd: {"it_stays_with_an_extension"},
    Blind: {"an_ended_grant_announces_nothing"},
    Boastful: {"an_ended_grant_announces_nothing"},
    NoBeginning: {"watching_begins_with_the_present"},
    NoChanges: {"changes_are_seen", "an_end_by_time_is_seen", "a_shortened_time_is_seen"},
    NoTime: {"an_end_by_time_is_seen"},
    NoShortening: {"a_shortened_time_is_seen"},
    Deaf: {"closing_ends_watching"},
    Keeper: {"it_goes_with_the_close"},
    Alone: {"the_ability_is_found"},
}


@pytest.mark.parametrize(
    ("kind", "clauses"), BREAKS.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_wrong_adapter_fails(kind, clauses):
    """Each wrong adapter fails the clauses that it breaks."""
    assert clauses <= broken_clauses(kind)


def test_every_clause_can_fail():
    """For every clause there is an adapter above that fails it, and each says what it is."""
    clauses = {clause.removeprefix("test_") for clause in CLAUSES}
    assert set().union(*BREAKS.values()) == clauses
    for clause in CLAUSES:
        function = getattr(MembershipSuite, clause)
        assert inspect.iscoroutinefunction(function)
        assert function.__doc__
