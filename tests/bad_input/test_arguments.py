"""Every argument of every public call, with everything that it does not take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import corekit
from corekit import App, InvalidArgument, InvalidName, InvalidType
from corekit.arguments import shown

TYPE = (InvalidType, TypeError)
NAME = (InvalidName, ValueError)
VALUE = (InvalidArgument, ValueError)

YEAR = 366 * 86400


async def handle(message: Any) -> None:
    """Handle a message of pub/sub."""


async def process(message: Any, context: Any) -> None:
    """Handle a message of the queue."""


def plain(*args: Any) -> None:
    """Be no coroutine function."""


class Transaction:
    """A class, not an object, with the method of a transaction."""

    def after_commit(self, callback: Any) -> None:
        """Never call back."""


class Asynchronous:
    """Has the method, but async: the callback would never be registered."""

    async def after_commit(self, callback: Any) -> None:
        """Never call back."""


NAMES = [
    ("", NAME),
    ("a\x00b", NAME),
    ("a\nb", NAME),
    ("a\r\nb", NAME),
    ("a\tb", NAME),
    ("\x1b[2J", NAME),
    ("\x7f", NAME),
    ("\x85", NAME),
    ("x" * 513, NAME),
    ("é" * 257, NAME),
    ("x" * 70_000, NAME),
    ("\ud800", NAME),
    (None, TYPE),
    (5, TYPE),
    (True, TYPE),
    (b"x", TYPE),
    (Path("x"), TYPE),
    (["a"], TYPE),
    (object(), TYPE),
]
DURATIONS = [
    (math.nan, VALUE),
    (-math.nan, VALUE),
    (-1, VALUE),
    (-1e-9, VALUE),
    (-math.inf, VALUE),
    (1e12, VALUE),
    (2**63, VALUE),
    (10**400, VALUE),
    (100 * YEAR, VALUE),
    (timedelta(days=36_500), VALUE),
    (timedelta(-1), VALUE),
    (timedelta.max, VALUE),
    (True, TYPE),
    (False, TYPE),
    ("10", TYPE),
    (b"10", TYPE),
    ([1], TYPE),
    (1j, TYPE),
    (Decimal("1.5"), TYPE),
    (datetime(2030, 1, 1, tzinfo=UTC), TYPE),
]
NO_ZERO = [(0, VALUE), (0.0, VALUE), (-0.0, VALUE), (timedelta(0), VALUE)]
FINITE = [(math.inf, VALUE)]
NOT_NONE = [(None, TYPE)]
COUNTS = [
    (True, TYPE),
    (1.5, TYPE),
    (1.0, TYPE),
    ("1", TYPE),
    (None, TYPE),
    (math.nan, TYPE),
    (math.inf, TYPE),
]
FLAGS = [(0, TYPE), (1, TYPE), (None, TYPE), ("yes", TYPE), ([], TYPE)]
ASYNC = [(each, TYPE) for each in (None, 5, "handle", plain, lambda m: None, dict)]
FUNCTIONS = [(None, TYPE), (5, TYPE), ("load", TYPE), ([], TYPE)]
TRANSACTIONS = [(each, TYPE) for each in (5, False, object(), Transaction, Asynchronous())]

TTL = DURATIONS + NO_ZERO
LEASE = TTL + FINITE + NOT_NONE
#: A wait or delay: may be 0.
PAUSE = DURATIONS + FINITE

# Every public call: how to reach it, arguments that it takes, and what it does not take.
CALLS: dict[str, tuple[Callable[[Any], Any], dict[str, Any], dict[str, list[Any]]]] = {
    "App.stop": (lambda w: w.app.stop, {}, {"grace": PAUSE}),
    "App.serving": (
        lambda w: w.app.serving,
        {},
        {"topic": [pair for pair in NAMES if pair[0] is not None and len(str(pair[0])) < 500]},
    ),
    "CacheManager.register_store": (
        lambda w: w.app.cache_manager.register_store,
        {"name": "s", "url": "memory://"},
        {"name": NAMES, "ttl": TTL, "url": [(None, TYPE), (5, TYPE), (b"memory://", TYPE)]},
    ),
    "CacheManager.create_cache": (
        lambda w: w.app.cache_manager.create_cache,
        {"name": "n"},
        {
            "name": NAMES,
            "prefix": [pair for pair in NAMES if pair[0] is not None],
            "store": [pair for pair in NAMES if pair[0] is not None],
            "ttl": TTL,
            "max": [(0, VALUE), (-1, VALUE), *(pair for pair in COUNTS if pair[0] is not None)],
        },
    ),
    "CacheManager.get_cache": (
        lambda w: w.app.cache_manager.get_cache,
        {"name": "users"},
        {"name": NAMES},
    ),
    "CacheManager.create_counter": (
        lambda w: w.app.cache_manager.create_counter,
        {"name": "n"},
        {"name": NAMES, "store": [pair for pair in NAMES if pair[0] is not None]},
    ),
    "CacheManager.flush_all": (lambda w: w.other.cache_manager.flush_all, {}, {}),
    "Cache.get": (lambda w: w.cache.get, {"key": "k"}, {"key": NAMES}),
    "Cache.set": (
        lambda w: w.cache.set,
        {"key": "k", "value": 1},
        {"key": NAMES, "ttl": TTL, "transaction": TRANSACTIONS},
    ),
    "Cache.add": (lambda w: w.cache.add, {"key": "k", "value": 1}, {"key": NAMES, "ttl": TTL}),
    "Cache.delete": (
        lambda w: w.cache.delete,
        {"key": "anna"},
        {"key": NAMES, "transaction": TRANSACTIONS},
    ),
    "Cache.reset": (lambda w: w.cache.reset, {}, {}),
    "Cache.mset": (
        lambda w: w.cache.mset,
        {"mapping": {"k": 1}},
        {"mapping": [(None, TYPE), (5, TYPE), ([], TYPE), ([("k", 1)], TYPE)], "ttl": TTL},
    ),
    "Cache.mget": (
        lambda w: w.cache.mget,
        {"keys": ["k"]},
        {"keys": [(None, TYPE), (5, TYPE), ("anna", TYPE), (b"anna", TYPE)]},
    ),
    "Cache.mdel": (
        lambda w: w.cache.mdel,
        {"keys": ["k"]},
        {"keys": [(None, TYPE), (5, TYPE), ("anna", TYPE), (b"anna", TYPE)]},
    ),
    "Cache.wrap": (
        lambda w: w.cache.wrap,
        {"key": "k", "fn": lambda: 1},
        {
            "key": NAMES,
            "fn": FUNCTIONS,
            "ttl": TTL,
            "stale": TTL + FINITE,
            "coalesce": [("all", VALUE), (None, VALUE), (1, VALUE), ([], VALUE)],
        },
    ),
    "Cache.wrap_with_condition": (
        lambda w: w.cache.wrap_with_condition,
        {"key": "k", "fn": lambda: 1},
        {
            "key": NAMES,
            "fn": FUNCTIONS,
            "use_cache": FLAGS,
            "is_cacheable": [pair for pair in FUNCTIONS if pair[0] is not None],
            "ttl": TTL,
        },
    ),
    "Cache.cached": (
        lambda w: lambda **given: w.cache.cached(**given)(lambda user: 1),
        {"key": "user:{user}"},
        {
            "key": [
                (None, TYPE),
                (5, TYPE),
                (b"x", TYPE),
                ("user:{nobody}", VALUE),
                ("user:{", VALUE),
                ("user:}", VALUE),
                ("user:{}", VALUE),
                ("user:{0}", VALUE),
                ("user:{user.__class__}", VALUE),
                ("user:{user[0]}", VALUE),
                ("user:{user:{user}}", VALUE),
                ("user:{user!x}", VALUE),
            ],
            "ttl": TTL,
            "stale": TTL + FINITE,
            "coalesce": [("all", VALUE), (None, VALUE)],
        },
    ),
    "Cache.keys": (lambda w: w.cache.keys, {}, {"pattern": NAMES}),
    "Cache.ttl": (lambda w: w.cache.ttl, {"key": "k"}, {"key": NAMES}),
    "Cache.increment": (
        lambda w: w.cache.increment,
        {"key": "k"},
        {
            "key": [*NAMES, ("fields", TYPE)],
            "delta": [*COUNTS, (2**63, VALUE), (-(2**63), VALUE), (10**5000, VALUE)],
            "ttl": TTL,
        },
    ),
    "Cache.set_value_in_object": (
        lambda w: w.cache.set_value_in_object,
        {"key": "fields", "field": "b", "value": 1},
        {"key": [*NAMES, ("anna", TYPE)], "field": [([], TYPE), ({}, TYPE)]},
    ),
    "Cache.get_value_in_object": (
        lambda w: w.cache.get_value_in_object,
        {"key": "fields", "field": "a"},
        {"key": [*NAMES, ("anna", TYPE)], "field": [([], TYPE), ({}, TYPE)]},
    ),
    "Cache.delete_value_in_object": (
        lambda w: w.cache.delete_value_in_object,
        {"key": "fields", "field": "a"},
        {"key": [*NAMES, ("anna", TYPE)], "field": [([], TYPE), ({}, TYPE)]},
    ),
    "Counter.get": (lambda w: w.counter.get, {"key": "home"}, {"key": NAMES}),
    "Counter.incr": (lambda w: w.counter.incr, {"key": "home"}, {"key": NAMES, "ttl": TTL}),
    "Counter.incrby": (
        lambda w: w.counter.incrby,
        {"key": "home", "n": 2},
        {"key": NAMES, "ttl": TTL, "n": [*COUNTS, (2**63, VALUE)]},
    ),
    "Counter.reset": (lambda w: w.counter.reset, {"key": "home"}, {"key": NAMES}),
    "PubSubManager.publish": (
        lambda w: w.app.pub_sub_manager.publish,
        {"channel": "news", "message": 1},
        {
            "channel": NAMES,
            "skip_self": FLAGS,
            "only_self": FLAGS,
            "transaction": TRANSACTIONS,
        },
    ),
    "PubSubManager.subscribe": (
        lambda w: w.app.pub_sub_manager.subscribe,
        {"channel": "news", "handler": handle},
        {
            "channel": NAMES,
            "handler": ASYNC,
            "debounce": PAUSE + NOT_NONE,
            "max_wait": TTL + FINITE,
            "buffer": [*COUNTS, (0, VALUE), (-1, VALUE)],
            "on_gap": [pair for pair in FUNCTIONS if pair[0] is not None],
        },
    ),
    "PubSubManager.unsubscribe": (
        lambda w: w.app.pub_sub_manager.unsubscribe,
        {"channel": "news", "handler": handle},
        {"channel": NAMES},
    ),
    "SyncMessageManager.publish": (
        lambda w: w.app.sync_message_manager.publish,
        {"channel": "reports", "message": 1},
        {"channel": NAMES, "transaction": TRANSACTIONS},
    ),
    "SyncMessageManager.subscribe": (
        lambda w: w.app.sync_message_manager.subscribe,
        {"channel": "reports", "handler": handle},
        {
            "channel": NAMES,
            "handler": ASYNC,
            "debounce": PAUSE + NOT_NONE,
            "max_wait": TTL + FINITE,
            "on_gap": [pair for pair in FUNCTIONS if pair[0] is not None],
        },
    ),
    "SyncMessageManager.unsubscribe": (
        lambda w: w.app.sync_message_manager.unsubscribe,
        {"channel": "reports", "handler": handle},
        {"channel": NAMES},
    ),
    "EventQueue.subscribe": (
        lambda w: w.app.event_queue.subscribe,
        {"channel": "k", "process": process},
        {
            "channel": NAMES,
            "process": ASYNC,
            "concurrency": COUNTS,
            "idle": [(5, TYPE), ("idle", TYPE), (handle, TYPE)],
            "topic": [
                ("", NAME),
                ("a b", NAME),
                ("a,b", NAME),
                ("!", NAME),
                (5, TYPE),
                (b"a", TYPE),
            ],
            "shared": FLAGS,
        },
    ),
    "EventQueue.unsubscribe": (
        lambda w: w.app.event_queue.unsubscribe,
        {"channel": "k"},
        {"channel": NAMES, "shared": FLAGS},
    ),
    "EventQueue.publish": (
        lambda w: w.app.event_queue.publish,
        {"channel": "jobs", "message": 1},
        {
            "channel": NAMES,
            "timeout": LEASE,
            "max_retries": [*COUNTS, (-1, VALUE), (10**9, VALUE), (2**63, VALUE)],
            "backoff": [pair for pair in PAUSE if pair[0] is not None],
            "delay": PAUSE + NOT_NONE,
            "dedup_id": [pair for pair in NAMES if pair[0] is not None],
            "shared": FLAGS,
            "transaction": TRANSACTIONS,
        },
    ),
    "EventQueue.stats": (
        lambda w: w.app.event_queue.stats,
        {"channel": "k"},
        {"channel": NAMES, "shared": FLAGS},
    ),
    "EventQueue.dead_letters": (
        lambda w: w.app.event_queue.dead_letters,
        {"channel": "k"},
        {"channel": NAMES, "shared": FLAGS, "limit": [*COUNTS, (-1, VALUE)]},
    ),
    "EventQueue.requeue": (
        lambda w: w.app.event_queue.requeue,
        {"channel": "k", "id": "1"},
        {"channel": NAMES, "shared": FLAGS, "id": NAMES},
    ),
    "EventQueue.purge": (
        lambda w: w.app.event_queue.purge,
        {"channel": "jobs"},
        {"channel": NAMES, "shared": FLAGS},
    ),
    "LockManager.acquire": (
        lambda w: w.app.lock_manager.acquire,
        {"key": "k"},
        {"key": NAMES, "ttl": LEASE, "wait": PAUSE},
    ),
    "LockManager.try_acquire": (
        lambda w: w.app.lock_manager.try_acquire,
        {"key": "k"},
        {"key": NAMES, "ttl": LEASE, "timeout": PAUSE + NOT_NONE},
    ),
    "LockManager.run_exclusive": (
        lambda w: w.app.lock_manager.run_exclusive,
        {"key": "k", "fn": lambda: 1},
        {
            "key": NAMES,
            "fn": [*FUNCTIONS, (lambda one, two: None, TYPE)],
            "ttl": LEASE,
            "wait": PAUSE,
            "renew": FLAGS,
        },
    ),
    "LockManager.lock": (
        lambda w: w.app.lock_manager.lock,
        {"key": "k"},
        {"key": NAMES, "ttl": LEASE, "wait": PAUSE, "renew": FLAGS},
    ),
    "LockManager.leader": (
        lambda w: w.app.lock_manager.leader,
        {"key": "k"},
        {"key": NAMES, "ttl": LEASE},
    ),
    "Lease.extend": (lambda w: w.lease.extend, {"ttl": 1000}, {"ttl": LEASE}),
    "Lease.release": (lambda w: w.lease.release, {}, {}),
}

#: What takes any value: messages and values are tried in test_values.py.
ANYTHING = {"value", "message", "default"}

#: Any handler may be unknown at unsubscribe, which then does nothing.
EXEMPT = {
    ("PubSubManager.unsubscribe", "handler"),
    ("SyncMessageManager.unsubscribe", "handler"),
    ("CacheManager.register_store", "defaults"),
    ("CacheManager.create_cache", "options"),
}

CASES = [(name, parameter) for name, (_, _, bad) in CALLS.items() for parameter in bad]


@pytest.mark.parametrize(("name", "parameter"), CASES)
async def test_bad_argument(world, name: str, parameter: str) -> None:
    """The error is of the right class, names the parameter, shows what was given; all stays."""
    reach, good, bad = CALLS[name]
    async with world() as w:
        for value, (error, base) in bad[parameter]:
            call = reach(w)
            text = await w.refuses(lambda: call(**{**good, parameter: value}), error, base)  # noqa: B023 - called at once
            where = f"{name}({parameter}={shown(value)}): {text}"
            assert parameter in text, where
            assert value == "" or shown(value)[:40] in text, where
            assert len(text) < 400, where
            assert text.isprintable(), where


@pytest.mark.parametrize("name", CALLS)
async def test_good_arguments(world, name: str) -> None:
    """The arguments beside the bad one are good: no case above is refused because of them."""
    reach, good, _ = CALLS[name]
    async with world() as w:
        try:
            result = reach(w)(**good)
            if inspect.isawaitable(result):
                await result
        except corekit.BackendRefused:
            assert name == "EventQueue.requeue"  # there is no dead letter


@pytest.mark.parametrize("name", ["mget", "mdel"])
@pytest.mark.parametrize(("key", "expected"), NAMES)
async def test_bad_key_among_keys(world, name: str, key: Any, expected: Any) -> None:
    """One bad key among many refuses the call; nothing is read or removed."""
    async with world() as w:
        text = await w.refuses(lambda: getattr(w.cache, name)(["anna", key, "fields"]), *expected)
        assert "key" in text


@pytest.mark.parametrize(("key", "expected"), [pair for pair in NAMES if pair[0] != ["a"]])
async def test_bad_key_in_mapping(world, key: Any, expected: Any) -> None:
    """One bad key among many refuses the call; nothing is written."""
    async with world() as w:
        text = await w.refuses(lambda: w.cache.mset({"new": 1, key: 2}), *expected)
        assert "key" in text


def test_the_table_is_complete() -> None:
    """Every parameter of every public method is in the table, and nothing else is."""
    missing = []
    for kind in (
        "CacheManager", "Cache", "Counter", "PubSubManager", "SyncMessageManager",
        "EventQueue", "LockManager", "Lease",
    ):  # fmt: skip
        for method, function in inspect.getmembers(getattr(corekit, kind), inspect.isfunction):
            if method.startswith("_") or method in INTERNAL:
                continue
            name = f"{kind}.{method}"
            if name not in CALLS:
                missing.append(name)
                continue
            known = set(CALLS[name][2]) | ANYTHING
            missing += [
                f"{name}({parameter})"
                for parameter in list(inspect.signature(function).parameters)[1:]
                if parameter not in known and (name, parameter) not in EXEMPT
            ]
    assert not missing


#: Public for the App and the managers, not for users.
INTERNAL = {
    "open", "close", "drain", "start_consuming", "subscribe_plugin", "membership", "hold", "keep",
    "keep_at_least", "watch", "expire", "lose", "loss",
}  # fmt: skip

SETTINGS: dict[str, list[Any]] = {
    "name": NAMES,
    "instance_id": [pair for pair in NAMES if pair[0] is not None],
    "grace": PAUSE + NOT_NONE,
    "max_message": [*COUNTS, (0, VALUE), (-1, VALUE), (1023, VALUE)],
    "worker_mode": [(5, TYPE), (b"*", TYPE), (True, TYPE)],
    "backend": [(5, TYPE), (b"memory://", TYPE), (Path("x"), TYPE), (True, TYPE)],
    "cache": [(5, TYPE)],
    "pub_sub": [(5, TYPE)],
    "event_queue": [(5, TYPE)],
    "lock": [(5, TYPE)],
    "plugins": [(5, TYPE), (None, TYPE), (corekit.Plugin, TYPE), ("reports", TYPE)],
}


@pytest.mark.parametrize("parameter", SETTINGS)
def test_bad_setting(parameter: str) -> None:
    """An App that cannot work is refused when it is built, by the name of what is wrong."""
    for value, (error, base) in SETTINGS[parameter]:
        with pytest.raises(error, match=parameter) as caught:
            App(**{"name": "shop", parameter: value})
        assert isinstance(caught.value, base)
        assert type(caught.value) is error
        assert value == "" or shown(value)[:40] in str(caught.value)
