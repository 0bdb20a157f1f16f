"""What users may rely on: the names that `corekit` exports, and their signatures.

The classes below are the public interface as the design fixes it, word for word. A difference is a
change of a promise: make it here, knowingly, and in the change log.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import FunctionType
from typing import Any

import pytest

import corekit
from corekit import adapters, errors

# ruff: noqa: D101 - they are documented where they are promised
# mypy: disable-error-code="no-untyped-def, no-untyped-call"


class App:
    def __init__(
        self,
        name,
        *,
        backend=None,
        cache=None,
        pub_sub=None,
        event_queue=None,
        lock=None,
        plugins=(),
        worker_mode=None,
        instance_id=None,
        grace=10,
        max_message=64 * 1024 * 1024,
        metadata=None,
    ): ...
    @classmethod
    def from_env(cls, name, **arguments): ...
    async def start(self): ...
    async def stop(self, grace=None): ...
    def run(self): ...
    def serving(self, topic=None): ...


class Plugin:
    async def before_load(self): ...
    async def load(self): ...
    async def before_stop(self): ...
    async def handle_sync_message(self, message): ...
    async def send_sync_message(self, message, *, transaction=None): ...
    async def resync(self): ...


class CacheManager:
    def register_store(self, name, url, **defaults): ...
    async def create_cache(self, name, *, prefix=None, store=None, ttl=None, **options): ...
    def get_cache(self, name): ...
    async def create_counter(self, name, *, store=None): ...
    async def flush_all(self): ...


class Cache:
    async def get(self, key, default=None): ...
    async def set(self, key, value, ttl=None, *, transaction=None): ...
    async def add(self, key, value, ttl=None): ...
    async def delete(self, key, *, transaction=None): ...
    async def reset(self): ...
    async def mset(self, mapping, ttl=None): ...
    async def mget(self, keys, default=None): ...
    async def mdel(self, keys): ...
    async def wrap(self, key, fn, ttl=None, *, stale=None, coalesce="process"): ...
    async def wrap_with_condition(
        self, key, fn, *, use_cache=True, is_cacheable=None, ttl=None
    ): ...
    # The design writes **wrap_options: these are the options of `wrap`.
    def cached(self, key, ttl=None, *, stale=None, coalesce="process"): ...
    async def keys(self, pattern="*"): ...
    async def ttl(self, key): ...
    async def increment(self, key, delta=1, ttl=None): ...
    async def set_value_in_object(self, key, field, value): ...
    async def get_value_in_object(self, key, field, default=None): ...
    async def delete_value_in_object(self, key, field): ...


class Counter:
    async def get(self, key): ...
    async def incr(self, key, ttl=None): ...
    async def incrby(self, key, n, ttl=None): ...
    async def reset(self, key): ...


class PubSubManager:
    async def publish(
        self, channel, message, *, skip_self=True, only_self=False, transaction=None
    ): ...
    async def subscribe(
        self, channel, handler, *, debounce=0, max_wait=None, buffer=1000, on_gap=None
    ): ...
    async def unsubscribe(self, channel, handler): ...


class SyncMessageManager:
    async def publish(self, channel, message, *, transaction=None): ...
    async def subscribe(self, channel, handler, *, debounce=0, max_wait=None, on_gap=None): ...
    async def unsubscribe(self, channel, handler): ...


class EventQueue:
    def subscribe(
        self, channel, process, *, concurrency=1, idle=None, topic=None, shared=False
    ): ...
    def unsubscribe(self, channel, *, shared=False): ...
    async def publish(
        self,
        channel,
        message,
        *,
        timeout=15,
        max_retries=0,
        backoff=None,
        delay=0,
        dedup_id=None,
        shared=False,
        transaction=None,
    ): ...
    async def stats(self, channel, *, shared=False): ...
    async def dead_letters(self, channel, limit=100, *, shared=False): ...
    async def requeue(self, channel, id, *, shared=False): ...  # noqa: A002 - promised
    async def purge(self, channel, *, shared=False): ...


class LockManager:
    async def acquire(self, key, ttl=10, *, wait=None): ...
    async def try_acquire(self, key, timeout=0, *, ttl=10): ...
    async def run_exclusive(self, key, fn, ttl=10, *, wait=None, renew=True): ...
    def lock(self, key, ttl=10, *, wait=None, renew=True): ...


class Lease:
    async def extend(self, ttl): ...
    async def release(self): ...
    async def __aenter__(self): ...


PROMISED: list[type] = [
    *(App, Plugin, CacheManager, Cache, Counter, PubSubManager, SyncMessageManager),
    *(EventQueue, LockManager, Lease),
]

#: What may be read of an object, beside its methods.
ATTRIBUTES = {
    "App": "cache cache_manager event_queue instance_id lock_manager name plugins pub_sub_manager "
    "sync_message_manager",
    "Plugin": "app name sync_debounce sync_max_wait",
    "Lease": "expires_at key lost token",
    "QueueStats": "dead delayed in_flight ready",
    "DeadLetter": "attempts died_at error id message",
    "DeliveryContext": "attempt channel deadline id published_at",
}

#: Results that nobody keeps or names: `async with lock(...)`, `@cache.cached(...)`.
USED_AT_ONCE = {"CriticalSection", "Cached"}

#: Further parameters that are there for tests only.
FOR_TESTS = {"App.__init__": {"clock"}}

EXPORTED = [name for name in corekit.__all__ if name != "hookimpl"]


def methods(of: type) -> Iterator[tuple[str, Any]]:
    """Yield what is defined in the class itself, private and magic methods left out."""
    for name, value in vars(of).items():
        if not name.startswith("_"):
            yield name, inspect.unwrap(getattr(value, "__func__", value))


def shape(function: Any) -> list[tuple[str, str, Any]]:
    """Return name, kind and default of each parameter."""
    return [
        (each.name, each.kind.description, each.default)
        for each in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize(
    ("promised", "name"),
    [
        (promised, name)
        for promised in PROMISED
        for name, value in vars(promised).items()
        if isinstance(getattr(value, "__func__", value), FunctionType)
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_signatures_are_the_promised_ones(promised: type, name: str) -> None:
    """Name, kind and default of every parameter, and whether the result is awaited."""
    actual = getattr(getattr(corekit, promised.__name__), name)
    expected = getattr(promised, name)
    extra = FOR_TESTS.get(f"{promised.__name__}.{name}", set())
    assert [each for each in shape(actual) if each[0] not in extra] == shape(expected)
    assert inspect.iscoroutinefunction(actual) == inspect.iscoroutinefunction(expected)


@pytest.mark.parametrize(("name", "attributes"), ATTRIBUTES.items(), ids=[*ATTRIBUTES])
def test_attributes_are_the_promised_ones(name: str, attributes: str) -> None:
    """What may be read is declared on the class, or set when it is built."""
    cls = getattr(corekit, name)
    source = inspect.getsource(cls)
    for attribute in attributes.split():
        declared = attribute in dir(cls) or attribute in inspect.get_annotations(cls)
        assert declared or f"self.{attribute} =" in source, attribute


def test_all_is_sorted_and_complete() -> None:
    """App, Plugin, hookimpl, every error, what the design names, and leases as a public thing."""
    leases = {"Election", "Guard", "Instance", "InstanceChange", "Instances", "Leader"}
    promised = {cls.__name__ for cls in PROMISED} | ATTRIBUTES.keys() | leases
    expected = {*promised, *errors.__all__, "hookimpl"}
    assert corekit.__all__ == sorted(corekit.__all__)
    assert set(corekit.__all__) == expected
    for name in corekit.__all__:
        assert getattr(corekit, name) is not None
    assert not hasattr(corekit, "no_such_name")


def test_all_errors_are_in_the_tree() -> None:
    """Each has a code of its own, and its text is what it was given."""
    classes = [getattr(errors, name) for name in errors.__all__]
    defined = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    assert sorted(defined, key=repr) == sorted(classes, key=repr)
    assert len({cls.code for cls in classes}) == len(classes)
    for cls in classes:
        assert issubclass(cls, errors.CorekitError)
        assert str(cls("what was wrong")) == "what was wrong"
    for cls, builtin in {
        errors.CacheNotFound: KeyError,
        errors.InvalidArgument: ValueError,
        errors.InvalidType: TypeError,
        errors.NotOpenError: RuntimeError,
        errors.LockTimeout: TimeoutError,
    }.items():
        assert issubclass(cls, builtin)


@pytest.mark.parametrize("name", EXPORTED)
def test_what_is_exported_is_documented(name: str) -> None:
    """Every exported class, and every public method and property of it, has a docstring."""
    cls = getattr(corekit, name)
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{name}("), "made by dataclass"
    silent = [
        method
        for method, value in methods(cls)
        if isinstance(value, FunctionType | property) and not inspect.getdoc(getattr(cls, method))
    ]
    assert silent == []


@pytest.mark.parametrize("name", adapters.__all__)
def test_contracts_are_documented(name: str) -> None:
    """Authors of adapters find everything in the contract: each class, each method."""
    cls = getattr(adapters, name)
    assert cls.__doc__
    silent = [
        method
        for method, value in methods(cls)
        if isinstance(value, FunctionType) and not value.__doc__
    ]
    assert silent == []


@pytest.mark.parametrize("promised", PROMISED, ids=lambda cls: cls.__name__)
def test_types_in_annotations_can_be_imported(promised: type) -> None:
    """Whatever class of corekit stands in a promised signature is public, or used at once."""
    cls = getattr(corekit, promised.__name__)
    public = {getattr(corekit, name) for name in EXPORTED}
    for name, _ in methods(promised):
        hints = typing.get_type_hints(inspect.unwrap(getattr(cls, name)))
        hidden = [
            found.__qualname__
            for hint in hints.values()
            for found in _classes(hint)
            if found.__module__.startswith("corekit.") and found not in public
            if found.__name__ not in USED_AT_ONCE
        ]
        assert hidden == [], f"{promised.__name__}.{name}"


def _classes(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint) and typing.get_origin(hint) is None:
        yield hint
    arguments = typing.get_args(hint)
    for argument in arguments[0] if arguments and isinstance(arguments[0], list) else arguments:
        yield from _classes(argument)


def test_public_objects_are_values_or_show_themselves() -> None:
    """No exported object shows itself as `<... object at 0x...>`."""
    for name in EXPORTED:
        cls = getattr(corekit, name)
        assert cls.__repr__ is not object.__repr__ or is_dataclass(cls), name


def test_import_loads_nothing_that_is_not_needed() -> None:
    """Plugins, the command line, adapters and databases come on use."""
    program = "import sys, json, corekit; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    ).stdout
    loaded = set(json.loads(printed))
    for unwanted in (
        *("pluggy", "click", "rich", "pytest", "sqlalchemy", "django", "zmq", "etcd3aio", "grpc"),
        *("importlib.metadata", "corekit.plugins", "corekit.memory", "corekit.testing"),
        *("corekit.cli", "corekit.bridges"),
    ):
        assert unwanted not in loaded


def test_hookimpl_is_loaded_on_use() -> None:
    """It is pluggy's marker, for plugins of corekit; an unknown name is an AttributeError."""
    from corekit.plugins import hookimpl

    assert corekit.hookimpl is hookimpl
    with pytest.raises(AttributeError, match="no attribute 'hookspec'"):
        _ = corekit.hookspec
