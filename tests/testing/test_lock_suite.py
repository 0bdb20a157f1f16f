"""The lock suite itself: adapters that are wrong in one way fail exactly the clauses they break."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from dataclasses import replace

import pytest

from corekit.adapters import Guarantee
from corekit.memory.lock import LockHub, MemoryLock
from corekit.testing import VirtualClock
from corekit.testing.contexts import make_context
from corekit.testing.lock import LockSuite

CLAUSES = [name for name in dir(LockSuite) if name.startswith("test_")]


def broken_clauses(kind, **attributes):
    """Run the suite on adapters of *kind*; return the names of the clauses that fail."""
    broken = set()
    for clause in CLAUSES:
        clock = VirtualClock()
        hub = LockHub()

        class Suite(LockSuite):
            virtual = True

            def make_adapter(self, hub=hub):
                return kind(hub, make_context(clock=self.clock))

        suite = Suite()
        for name, value in attributes.items():
            setattr(suite, name, value)
        suite.begin(clock)
        try:
            clock.run(getattr(suite, clause)())
        except pytest.skip.Exception:
            pass
        except (Exception, pytest.fail.Exception):
            broken.add(clause.removeprefix("test_"))
    return broken


def test_every_clause_says_what_it_is():
    """Each clause is an async test whose docstring states it."""
    assert len(CLAUSES) > 20
    for clause in CLAUSES:
        function = getattr(LockSuite, clause)
        assert inspect.iscoroutinefunction(function)
        assert function.__doc__


def test_a_right_adapter_passes():
    """The adapter that the wrong ones are made from breaks no clause."""
    assert broken_clauses(MemoryLock) == set()


numbers = itertools.count()


class NotExclusive(MemoryLock):
    """Gives every name to everybody."""

    async def acquire(self, name, ttl, wait):
        return await super().acquire(f"{name}#{next(numbers)}", ttl, wait)


def test_no_exclusion():
    """An adapter that lets two in fails the clauses of exclusion."""
    assert {"a_held_name_is_refused", "the_same_adapter_excludes_itself"} <= broken_clauses(
        NotExclusive
    )


class Reentrant(MemoryLock):
    """Lets calls of the same adapter in together, as one shared lease does."""

    async def acquire(self, name, ttl, wait):
        held = self._hub._grants.get(name)
        if held is not None and held.owner is self:
            self._hub._pass_on(name, self._clock.monotonic())
        return await super().acquire(name, ttl, wait)


def test_reentrancy():
    """An adapter whose own calls do not exclude each other is found."""
    broken = broken_clauses(Reentrant)
    assert {"the_same_adapter_excludes_itself", "a_held_name_is_refused"} <= broken
    assert "a_released_name_is_free" not in broken


class OneKeyspace(MemoryLock):
    """Takes a prefix for the name."""

    async def acquire(self, name, ttl, wait):
        grant = await super().acquire(name[:27], ttl, wait)
        return None if grant is None else replace(grant, name=name)

    async def extend(self, grant, ttl):
        return await super().extend(replace(grant, name=grant.name[:27]), ttl)

    async def release(self, grant):
        await super().release(replace(grant, name=grant.name[:27]))


def test_names_that_meet():
    """An adapter that cuts names fails the two clauses on names."""
    broken = broken_clauses(OneKeyspace)
    assert {"names_are_independent", "long_names"} <= broken


class Unfair(MemoryLock):
    """Serves the youngest waiter."""

    guarantees = frozenset({Guarantee.FAIR})

    async def release(self, grant):
        queue = self._hub._queues.get(grant.name)
        if queue:
            queue.move_to_end(next(reversed(queue)), last=False)
        await super().release(grant)


def test_unfair():
    """An adapter that declares FAIR and is not fails that clause only; undeclared it passes."""
    assert broken_clauses(Unfair) == {"waiters_are_served_in_order"}

    class Honest(Unfair):
        guarantees = frozenset()

    assert broken_clauses(Honest) == set()


class Impatient(MemoryLock):
    """Waits half as long as it should."""

    async def acquire(self, name, ttl, wait):
        return await super().acquire(name, ttl, wait / 2 if wait else wait)


def test_waiting_too_short():
    """An adapter that gives up early fails the clause on waiting."""
    assert "waiting_is_bounded" in broken_clauses(Impatient)


class Endless(MemoryLock):
    """Waits for ever."""

    async def acquire(self, name, ttl, wait):
        return await super().acquire(name, ttl, None if wait else wait)


def test_waiting_too_long():
    """An adapter that does not stop waiting fails the clauses on bounded waiting."""
    assert "waiting_is_bounded" in broken_clauses(Endless)


class Polling(MemoryLock):
    """Does not wake waiters: they get the name when the grant would have ended."""

    async def release(self, grant):
        if self._hub._queues.get(grant.name):
            return
        await super().release(grant)


def test_no_wake_up():
    """An adapter that lets waiters sleep fails the clauses on handing over."""
    broken = broken_clauses(Polling)
    assert "a_waiter_gets_the_released_name" in broken
    assert "a_released_name_is_free" not in broken


class NeverReleasing(MemoryLock):
    """Lets every grant end by its time only."""

    async def release(self, grant):
        pass


def test_no_release():
    """An adapter that does not release fails the clauses on releasing."""
    broken = broken_clauses(NeverReleasing)
    assert {"a_released_name_is_free", "a_waiter_gets_the_released_name"} <= broken
    assert "a_grant_ends_by_its_time" not in broken


class Eternal(MemoryLock):
    """Never ends a grant by its time."""

    async def acquire(self, name, ttl, wait):
        grant = await super().acquire(name, 10_000, wait)
        return None if grant is None else replace(grant, ttl=ttl)


def test_grants_without_end():
    """An adapter without expiry fails the clauses on the end of a grant."""
    broken = broken_clauses(Eternal)
    assert {"a_grant_ends_by_its_time", "an_ended_grant_frees_the_name"} <= broken
    assert "a_released_name_is_free" not in broken


class Hasty(MemoryLock):
    """Ends grants early."""

    async def acquire(self, name, ttl, wait):
        grant = await super().acquire(name, ttl / 2, wait)
        return None if grant is None else replace(grant, ttl=ttl)


def test_grants_that_end_early():
    """An adapter that gives a name away too early fails the clause on the time of a grant."""
    assert "a_grant_ends_by_its_time" in broken_clauses(Hasty)


class LateSince(MemoryLock):
    """Counts a grant from when the answer came."""

    async def acquire(self, name, ttl, wait):
        grant = await super().acquire(name, ttl, wait)
        return None if grant is None else replace(grant, since=grant.since + ttl)


def test_counting_from_the_answer():
    """An adapter that says a grant counts from later than it does is found."""
    assert "a_free_name_is_given" in broken_clauses(LateSince)


class ConstantToken(MemoryLock):
    """Gives the same token to everybody; keeps the real grant as its mark."""

    async def acquire(self, name, ttl, wait):
        grant = await super().acquire(name, ttl, wait)
        return None if grant is None else replace(grant, token=7, owner=grant)

    async def extend(self, grant, ttl):
        extended = await super().extend(grant.owner, ttl)
        return None if extended is None else replace(extended, token=7, owner=extended)

    async def release(self, grant):
        await super().release(grant.owner)


def test_tokens_that_do_not_grow():
    """An adapter whose tokens stay the same fails that clause only."""
    assert broken_clauses(ConstantToken) == {"tokens_grow"}


class Forgetful(MemoryLock):
    """Declares FENCED, but its tokens begin anew after a restart."""

    guarantees = frozenset({Guarantee.FAIR, Guarantee.FENCED})

    async def open(self):
        pass


def test_tokens_that_begin_anew():
    """An adapter that declares FENCED and forgets its tokens fails the clause on restarts."""
    restarts = []

    async def restart():
        restarts.append(1)

    class Restarting(Forgetful):
        async def acquire(self, name, ttl, wait):
            if restarts:
                restarts.clear()
                self._hub._token = 0
            return await super().acquire(name, ttl, wait)

    assert broken_clauses(Restarting, restart=restart) == {"tokens_grow_across_restarts"}


class BlindExtend(MemoryLock):
    """Extends whatever is held under the name."""

    async def extend(self, grant, ttl):
        return await super().extend(self._hub._grants.get(grant.name, grant), ttl)


def test_extending_blindly():
    """An adapter that does not check the owner on extend fails that clause only."""
    assert broken_clauses(BlindExtend) == {"extending_what_another_holds"}


class Reviving(MemoryLock):
    """Says that an ended grant was extended."""

    async def extend(self, grant, ttl):
        extended = await super().extend(grant, ttl)
        return extended or await self.acquire(grant.name, ttl, 0) or grant


def test_reviving():
    """An adapter that revives what has ended fails the clauses on ended grants."""
    assert broken_clauses(Reviving) == {"extending_an_ended_grant", "extending_what_another_holds"}


class AddingExtend(MemoryLock):
    """Adds to the time that is left instead of counting from now."""

    async def extend(self, grant, ttl):
        held = self._hub._grants.get(grant.name, grant)
        left = max(0, held.since + held.ttl - self._clock.monotonic())
        return await super().extend(grant, ttl + left)


def test_extending_from_the_end():
    """An adapter that cannot shorten a grant is found."""
    assert "extending_may_shorten" in broken_clauses(AddingExtend)


class BlindRelease(MemoryLock):
    """Frees the name, whoever holds it."""

    async def release(self, grant):
        await super().release(self._hub._grants.get(grant.name, grant))


def test_releasing_blindly():
    """An adapter that does not check the owner on release fails that clause only."""
    assert broken_clauses(BlindRelease) == {"releasing_an_ended_grant"}


class Ghost(MemoryLock):
    """Leaves cancelled waiters in the queue."""

    async def acquire(self, name, ttl, wait):
        if wait == 0:
            return await super().acquire(name, ttl, wait)
        return await asyncio.shield(super().acquire(name, ttl, wait))


def test_ghost_owners():
    """An adapter that does not withdraw cancelled calls fails both clauses on cancellation."""
    assert {
        "a_cancelled_wait_holds_nothing",
        "a_call_cancelled_at_any_step_holds_nothing",
    } <= broken_clauses(Ghost)


class LastMoment(MemoryLock):
    """Keeps what was given in the moment of the cancellation."""

    async def _wait(self, name, ttl, wait):
        self._hub, hub = Keeping(self._hub), self._hub
        try:
            return await super()._wait(name, ttl, wait)
        finally:
            self._hub = hub


class Keeping:
    """A hub that forgets to release for calls that wait."""

    def __init__(self, hub):
        self._hub = getattr(hub, "_hub", hub)

    def __getattr__(self, name):
        return getattr(self._hub, name)

    def release(self, grant, now):
        pass


def test_a_grant_in_the_last_moment():
    """An adapter that keeps a name given in the moment of the cancellation is found."""
    assert "a_call_cancelled_at_any_step_holds_nothing" in broken_clauses(LastMoment)


class Keeper(MemoryLock):
    """Does not release when it is closed."""

    async def close(self):
        self._closed = True
        for waiter in self._waiters:
            waiter.signal.wake()


def test_closing_without_releasing():
    """An adapter that keeps its names when it is closed fails that clause only."""
    assert broken_clauses(Keeper) == {"closing_releases"}


class Abandoning(MemoryLock):
    """Leaves its waiters alone when it is closed."""

    async def close(self):
        self._hub.release_all(self, self._clock.monotonic())


def test_closing_without_a_word():
    """An adapter whose waiters do not learn of its close fails that clause."""
    assert "closing_ends_waiting" in broken_clauses(Abandoning)


class CloseOnce(MemoryLock):
    """Cannot be closed twice."""

    async def close(self):
        if self._closed:
            raise RuntimeError
        await super().close()


def test_closing_once():
    """An adapter that raises at the second close fails the clauses that close."""
    assert "closing_twice" in broken_clauses(CloseOnce)


class TooShort(MemoryLock):
    """Declares a least ttl and grants less."""

    least_ttl = 0.2

    async def acquire(self, name, ttl, wait):
        return await super().acquire(name, ttl * 0.9 if ttl == 0.2 else ttl, wait)


def test_a_least_ttl_that_is_not_granted():
    """An adapter that grants less than the least ttl it declares fails that clause only."""
    assert broken_clauses(TooShort) == {"the_least_ttl"}


def test_every_clause_can_fail():
    """For every clause there is a wrong adapter here that fails it."""
    kinds = [
        kind
        for kind in globals().values()
        if inspect.isclass(kind) and issubclass(kind, MemoryLock) and kind is not MemoryLock
    ]
    failed = set().union(*(broken_clauses(kind) for kind in kinds))
    left = {clause.removeprefix("test_") for clause in CLAUSES} - failed
    assert left == {"tokens_grow_across_restarts"}
