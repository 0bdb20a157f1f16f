"""Values and messages that cannot be written: refused in the call, with the path to the reason."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from corekit import App, MessageTooLarge, Plugin, SerializationError

Point = namedtuple("Point", "x y")


@dataclass
class Order:
    """A class that nobody registered."""

    number: int


class Lying(dict[str, int]):
    """A dict that is not quite one."""


class Broken:
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


def nested(depth: int) -> Any:
    """Return a list in a list in a list ..."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def cycle() -> Any:
    """Return a list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


#: What is bad inside of `{"user": [1, bad]}`, and what the text must tell beside the path.
UNWRITABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "object": (object, "register a serializer"),
    "function": (lambda: len, "not serialisable"),
    "lambda": (lambda: lambda: None, "not serialisable"),
    "class": (lambda: Order, "not serialisable"),
    "module": (lambda: asyncio, "module"),
    "generator": (lambda: (n for n in ()), "generator"),
    "exception": (lambda: ValueError("secret-9"), "ValueError"),
    "dataclass": (lambda: Order(1), "Order"),
    "namedtuple": (lambda: Point(1, 2), "only tuple itself"),
    "subclass": (lambda: Lying(a=1), "only dict itself"),
    "ordered": (lambda: OrderedDict(a=1), "only dict itself"),
    "ellipsis": (lambda: ..., "ellipsis"),
    "not implemented": (lambda: NotImplemented, "NotImplementedType"),
    "none type": (lambda: type(None), "type"),
    "broken": (Broken, "Broken"),
    "surrogate": (lambda: "secret-9 \ud800", "str"),
    "cycle": (cycle, "cycle"),
}

TARGETS: dict[str, Callable[[Any, Any], Any]] = {
    "cache.set": lambda w, value: w.cache.set("anna", value),
    "cache.add": lambda w, value: w.cache.add("new", value),
    "cache.mset": lambda w, value: w.cache.mset({"new": 1, "anna": value}),
    "cache.wrap": lambda w, value: w.cache.wrap("new", lambda: value),
    "cache.set_value_in_object": lambda w, value: w.cache.set_value_in_object("fields", "b", value),
    "pub_sub.publish": lambda w, value: w.app.pub_sub_manager.publish("news", value),
    "pub_sub.publish, to itself": lambda w, value: w.app.pub_sub_manager.publish(
        "news", value, only_self=True
    ),
    "sync.publish": lambda w, value: w.app.sync_message_manager.publish("reports", value),
    "queue.publish": lambda w, value: w.app.event_queue.publish("jobs", value),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", UNWRITABLE)
async def test_unwritable(world, target: str, kind: str) -> None:
    """The text has the path, the type and a hint, but not the value; nothing is written or sent."""
    make, hint = UNWRITABLE[kind]
    async with world() as w:
        bad = make()
        text = await w.refuses(
            lambda: TARGETS[target](w, {"user": [1, bad]}), SerializationError, Exception
        )
        await asyncio.sleep(0)
        assert re.search(r"\['user'\]\[1\]", text), text
        assert hint in text
        assert target != "cache.mset" or text.startswith("key 'anna': value")
        assert "secret-9" not in text
        assert len(text) < 400


@pytest.mark.parametrize("target", TARGETS)
async def test_forgotten_await(world, target: str) -> None:
    """A coroutine that was not awaited is pointed out, and closed: no warning comes later."""

    async def user() -> str:
        return "anna"

    async with world() as w:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            text = await w.refuses(
                lambda: TARGETS[target](w, {"user": user()}), SerializationError, Exception
            )
    assert "did you forget await?" in text
    assert "['user']" in text


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("depth", [101, 300, 100_000])
async def test_too_deep(world, target: str, depth: int) -> None:
    """A value deeper than 100 is refused by its depth, however deep it is; no RecursionError."""
    value = nested(depth)
    async with world() as w:
        text = await w.refuses(lambda: TARGETS[target](w, value), MessageTooLarge, Exception)
    assert "at most 100 is allowed" in text
    while value:  # taken apart one by one: the interpreter's own way is recursive
        value = value.pop()


@pytest.mark.parametrize("target", TARGETS)
async def test_too_large(world, target: str) -> None:
    """A value larger than the limit is refused with both sizes, and not sent in part."""
    async with world() as w:
        big = b"x" * (64 * 1024 * 1024 + 1)
        text = await w.refuses(lambda: TARGETS[target](w, big), MessageTooLarge, SerializationError)
    assert "at most 67,108,864 are allowed" in text


async def test_the_limit_is_an_argument() -> None:
    """`max_message` bounds encoded messages exactly: one byte more is too many."""
    async with App("shop", max_message=1024) as app:
        size = 1024
        with pytest.raises(MessageTooLarge, match="at most 1,024 are allowed"):
            await app.event_queue.publish("jobs", "x" * size)
        while True:
            size -= 1
            try:
                await app.event_queue.publish("jobs", "x" * size)
            except MessageTooLarge:
                continue
            break
        assert 900 < size < 1024
        assert (await app.event_queue.stats("jobs")).ready == 1


async def test_one_bad_among_many() -> None:
    """Of a hundred publishes at once only the bad one fails; the others arrive."""
    async with App("shop") as app:
        calls = [
            app.event_queue.publish("jobs", object() if number == 50 else number)
            for number in range(100)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [i for i, each in enumerate(outcomes) if isinstance(each, Exception)] == [50]
        assert (await app.event_queue.stats("jobs")).ready == 99


async def test_transaction_with_a_bad_message() -> None:
    """In a transaction, too, the call itself refuses what cannot be written."""

    class Transaction:
        def __init__(self) -> None:
            self.callbacks: list[Any] = []

        def after_commit(self, callback: Any) -> None:
            self.callbacks.append(callback)

    class Sender(Plugin):
        name = "sender"

    async with App("shop", backend="memory://?copy=1", plugins=[Sender]) as app:
        transaction = Transaction()
        for call in (
            app.cache.set("k", [object()], transaction=transaction),
            app.pub_sub_manager.publish("c", [object()], transaction=transaction),
            app.sync_message_manager.publish("c", [object()], transaction=transaction),
            app.plugins["sender"].send_sync_message([object()], transaction=transaction),
            app.event_queue.publish("c", [object()], transaction=transaction),
        ):
            with pytest.raises(SerializationError):
                await call
        assert transaction.callbacks == []
