"""The memory store: the suite, and what only it can be asked."""

from __future__ import annotations

from typing import ClassVar

import pytest

from corekit.config import BackendURL
from corekit.errors import ConfigurationError, InvalidArgument, InvalidType
from corekit.memory.cache import memory_cache
from corekit.testing.cache import CacheSuite
from corekit.testing.contexts import make_context


def store(url="memory://test", **context):
    """Return the store of one more App."""
    return memory_cache(BackendURL.parse(url), make_context(**context))


class TestByReference(CacheSuite):
    """Objects are kept as they are."""

    virtual = True
    meets = True
    few: ClassVar = {"max": 8}

    def make_adapter(self):
        return store("memory://suite", clock=self.clock)


class TestCopies(TestByReference):
    """With `copy=1` it is a store like any other."""

    def make_adapter(self):
        return store("memory://suite?copy=1", clock=self.clock)


async def test_apps_with_one_url_meet():
    """Adapters meet by the URL's name, without one by the application's."""
    shop, twin, other = (store("memory://", app=app) for app in ("shop", "shop", "other"))
    await shop.space("s").set("a", 1, None)
    assert (await twin.space("s").get("a")).value == 1
    assert await other.space("s").get("a") is None


@pytest.mark.parametrize("url", ["memory://?max=0", "memory://?max=-1", "memory://?max=1.5"])
def test_an_impossible_max_in_the_url(url):
    """`max` in a URL is a whole number from 1."""
    with pytest.raises(ConfigurationError, match="max must be a whole number"):
        store(url)


def test_an_unknown_option_in_the_url():
    """An unknown option of the URL is refused, with those that there are."""
    with pytest.raises(ConfigurationError, match="unknown option 'size'; allowed: copy, max"):
        store("memory://?size=3")


@pytest.mark.parametrize(
    ("value", "error"), [(0, InvalidArgument), (-1, InvalidArgument), (1.5, InvalidType)]
)
def test_an_impossible_max(value, error):
    """`max` of a space is a whole number from 1, or None."""
    with pytest.raises(error, match="max must be"):
        store().space("s", max=value)


@pytest.mark.parametrize(
    ("url", "options", "kept"),
    [
        ("memory://limits", {}, 2000),
        ("memory://limits?max=10", {}, 10),
        ("memory://limits?max=10", {"max": 3}, 3),
        ("memory://limits?max=10", {"max": None}, 3000),
        ("memory://limits?max=10", {"evict": False}, 3000),
    ],
)
async def test_how_many_are_kept(url, options, kept):
    """A space keeps 2000 entries, or as many as the URL or its own option says."""
    space = store(url, app=f"{url}{options}").space(f"{url}{options}", **options)
    for number in range(3000):
        await space.set(str(number), number, None)
    assert len(await space.keys()) == kept
    assert space.peek("2999") == 2999


async def test_garbage_is_collected(clock):
    """Entries past their lifetime that nobody asks for do not outgrow those that are alive."""
    space = store("memory://garbage", clock=clock).space("s", evict=False)
    await space.set("lasting", 1, None)
    largest = 0
    for number in range(20_000):
        await space.set(str(number), number, 1.0)
        clock.jump(0.01)  # one hundred are alive at a time
        largest = max(largest, len(space._slots))
    assert largest < 300
    assert space.peek("lasting") == 1


async def test_its_state_shows():
    """The repr of adapter and space shows what they hold."""
    adapter = store("memory://shown?max=7")
    space = adapter.space("shop/cache/a")
    await space.set("a", 1, None)
    assert repr(space) == "<MemorySpace 'shop/cache/a' entries=1 max=7>"
    assert repr(adapter) == "<MemoryCache memory://shown?max=7 spaces=1>"
