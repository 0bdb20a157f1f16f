"""Random calls on a cache, compared with what a dict and a clock would say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corekit.testing import VirtualClock

KEYS = st.sampled_from("ab*")
TTLS = st.sampled_from([None, 1, 2.5, math.inf])
CALLS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.integers(0, 3), TTLS),
    st.tuples(st.just("add"), KEYS, st.integers(0, 3), TTLS),
    st.tuples(st.just("increment"), KEYS, st.integers(-2, 2), TTLS),
    st.tuples(st.just("wrap"), KEYS, st.integers(0, 3), TTLS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("reset")),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 1, 2])),
)


class Model:
    """What a cache does, written down as simply as can be."""

    def __init__(self, clock):
        self.clock = clock
        self.entries = {}

    def find(self, key):
        value, expires = self.entries.get(key, (None, -math.inf))
        return value if self.clock.monotonic() < expires else None

    def write(self, key, value, ttl):
        self.entries[key] = value, self.clock.monotonic() + (math.inf if ttl is None else ttl)
        return value

    def call(self, name, *arguments):
        """Return what the call of this name should."""
        if name == "pass":
            self.clock.jump(*arguments)
            return None
        if name == "reset":
            self.entries.clear()
            return None
        key, *rest = arguments
        found = self.find(key)
        if name == "delete":
            self.entries.pop(key, None)
            return found is not None
        if name == "increment" and found is not None:
            self.entries[key] = found + rest[0], self.entries[key][1]
            return found + rest[0]
        if name == "set" or found is None:
            written = self.write(key, *rest)
            return {"set": None, "add": True}.get(name, written)
        return {"add": False}.get(name, found)


async def called(cache, name, *arguments):
    """Make the call on a cache."""
    if name == "pass":
        return None
    if name == "wrap":
        key, value, ttl = arguments
        return await cache.wrap(key, lambda: value, ttl)
    return await getattr(cache, name)(*arguments)


@pytest.mark.parametrize("kind", ["reference", "copy", "remote"])
@settings(max_examples=150, deadline=None)
@given(calls=st.lists(CALLS, max_size=25))
def test_a_cache_is_a_dict_with_a_clock(shops, kind, calls):
    """Whatever is called in whatever order, each call returns what a dict with a clock would."""

    async def main():
        model = Model(clock)
        async with shops(clock, kind).cache() as cache:
            for call in calls:
                expected = model.call(*call)
                assert await called(cache, *call) == expected
                present = {key for key in "ab*" if model.find(key) is not None}
                assert set(await cache.keys()) == present
                for key in "ab*":
                    assert await cache.get(key) == model.find(key)

    clock = VirtualClock()
    clock.run(main())
