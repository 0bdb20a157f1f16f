"""Cached functions and their key templates."""

from __future__ import annotations

import asyncio
import inspect
from datetime import date

import pytest

from corekit.errors import InvalidArgument, InvalidName, InvalidType
from corekit.managers.cached_function import cached_function


async def wrap(key, function):
    """Show what would be wrapped."""
    result = function()
    return key, await result if inspect.isawaitable(result) else result


def function(user_id, kind="full", *, day=date(2026, 1, 2)):
    """Return what it was given."""
    return user_id, kind, day


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "key"),
    [
        ("user:{user_id}", (5,), {}, "user:5"),
        ("user:{user_id}", (), {"user_id": 5}, "user:5"),
        ("{kind}:{user_id}", (5,), {}, "full:5"),
        ("{kind}:{user_id}", (5, "short"), {}, "short:5"),
        ("{kind}:{user_id}", (5,), {"kind": "short"}, "short:5"),
        ("{user_id!r}", ("5",), {}, "'5'"),
        ("{day:%Y-%m}", (5,), {}, "2026-01"),
        ("{user_id:>3}", (5,), {}, "  5"),
        ("{{{user_id}}}", (5,), {}, "{5}"),
        ("{user_id}{user_id}", (5,), {}, "55"),
        ("nothing", (5,), {}, "nothing"),
        ("{user_id}", ("{kind}",), {}, "{kind}"),
    ],
)
async def test_keys(template, args, kwargs, key):
    """The fields stand for the arguments of the call, however they are given, and defaults."""
    decorated = cached_function(template, wrap)(function)
    assert await decorated(*args, **kwargs) == (key, function(*args, **kwargs))


async def test_positional_parameters_only():
    """A call that gives every parameter in order has the same key as one that names them."""
    decorated = cached_function("{a}-{b}", wrap)(lambda a, b=2: a + b)
    assert await decorated(1, 2) == await decorated(1) == await decorated(b=2, a=1) == ("1-2", 3)


async def test_variable_arguments():
    """Functions that take any arguments can be cached; the fields are their parameters."""
    decorated = cached_function("{args}{kwargs}", wrap)(lambda *args, **kwargs: len(args))
    assert await decorated(1, 2, x=3) == ("(1, 2){'x': 3}", 2)
    assert await decorated() == ("(){}", 0)


@pytest.mark.parametrize("args", [(), (1, 2, 3), (1, 2, 3, 4)])
async def test_calls_that_cannot_be(args):
    """A call that the function would not take raises TypeError and asks for no key."""

    async def hit(key, function):
        raise AssertionError(key)

    decorated = cached_function("{a}", hit)(lambda a, b: a)
    with pytest.raises(TypeError):
        await decorated(*args)
    with pytest.raises(TypeError):
        await decorated(1, 2, a=1)
    with pytest.raises(TypeError):
        await decorated(1, 2, c=1)


@pytest.mark.parametrize(
    "template",
    [
        "{0}",
        "{}",
        "{unknown}",
        "{user_id.__class__}",
        "{0.__class__}",
        "{user_id[0]}",
        "{user_id:{kind}}",
        "{user_id!x}",
        "{ user_id}",
        "{user_id",
        "user_id}",
        "{user_id!}",
        "{",
    ],
)
def test_bad_templates(template):
    """A template whose fields are not plain parameters is refused when the function is made."""
    with pytest.raises(InvalidArgument, match=r"^key: "):
        cached_function(template, wrap)(function)


@pytest.mark.parametrize("template", [None, 5, b"{user_id}"])
def test_what_is_no_template(template):
    """A template is a str."""
    with pytest.raises(InvalidType, match=r"^key must be a str"):
        cached_function(template, wrap)(function)


@pytest.mark.parametrize("target", [None, 5, "f", min])
def test_what_is_no_function(target):
    """Only functions can be decorated."""
    with pytest.raises(InvalidType, match="can only decorate a function"):
        cached_function("key", wrap)(target)


async def test_it_stays_the_function_it_was():
    """Name, docstring and signature stay; the result is async, and what it was is kept."""
    decorated = cached_function("{user_id}", wrap)(function)
    assert decorated.__name__ == "function"
    assert decorated.__doc__ == "Return what it was given."
    assert inspect.signature(decorated) == inspect.signature(function)
    assert inspect.iscoroutinefunction(decorated)
    assert decorated.__wrapped__ is function


async def test_methods():
    """A method can be decorated; its instance is a parameter like others."""

    class Users:
        @cached_function("user:{user_id}", wrap)
        async def find(self, user_id):
            await asyncio.sleep(0)
            return user_id + 1

    assert await Users().find(1) == ("user:1", 2)
    assert await Users().find(user_id=1) == ("user:1", 2)


async def test_in_a_cache(clock):
    """A decorated function looks into its cache first, and loads once for concurrent calls."""
    from corekit.config import BackendURL
    from corekit.managers.cache_manager import CacheManager
    from corekit.managers.context import ManagerContext
    from corekit.memory.cache import memory_cache
    from corekit.serialization import Serializer
    from corekit.testing.contexts import make_context

    def build(url):
        return memory_cache(BackendURL.parse(url), make_context(clock=clock))

    manager = CacheManager(ManagerContext("shop", "a", clock, Serializer(), lambda *_: None), build)
    calls = []

    @manager.default.cached("double:{number}", ttl=60, stale=10)
    async def double(number):
        calls.append(number)
        await asyncio.sleep(1)
        return 2 * number

    await manager.open(build("memory://cached"))
    assert await asyncio.gather(*(double(n) for n in (1, 2, 1, 2))) == [2, 4, 2, 4]
    assert await double(1) == 2
    assert calls == [1, 2]
    assert await manager.default.ttl("double:1") == pytest.approx(60)
    clock.jump(65)
    assert await double(1) == 2
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert calls == [1, 2, 1]
    with pytest.raises(InvalidName):
        await double("x" * 600)
    await manager.close()
