"""Hooks, and how installed distributions are found. The only file that imports pluggy.

A distribution takes part by an entry point in the group `corekit` whose name is the distribution's
own and whose value is a module (or object) with functions marked `@hookimpl`. That module imports
no driver: factories do, when they are called.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from .adapters import (
    AdapterContext,
    CacheAdapter,
    EventQueueAdapter,
    LockAdapter,
    PubSubAdapter,
)
from .arguments import is_async, shown
from .config import BackendURL
from .errors import AdapterNotFound, ConfigurationError, CorekitError
from .registry import COMPONENTS, AdapterRegistry, Conflict, PluginRegistry

if TYPE_CHECKING:
    import click

    from .transactions import Bridge

__all__ = [
    "COMPONENTS",
    "GROUP",
    "AdapterRegistry",
    "Discovery",
    "PluginRegistry",
    "build_adapter",
    "discover",
    "hookimpl",
]

logger = logging.getLogger("corekit.plugins")

GROUP = "corekit"

hookspec = pluggy.HookspecMarker("corekit")
hookimpl = pluggy.HookimplMarker("corekit")

#: The distributions that the project knows of, by the scheme that they offer.
_KNOWN = {
    "zmq": "corekit-zeromq",
    "zmq+ipc": "corekit-zeromq",
    "zmq+local": "corekit-zeromq",
    "etcd": "corekit-etcd",
    "etcds": "corekit-etcd",
    "redis": "corekit-redis",
    "rediss": "corekit-redis",
    "amqp": "corekit-rabbitmq",
    "amqps": "corekit-rabbitmq",
    "nats": "corekit-nats",
}

_CONTRACTS: dict[str, type] = {
    "cache": CacheAdapter,
    "pub_sub": PubSubAdapter,
    "event_queue": EventQueueAdapter,
    "lock": LockAdapter,
}


class Specifications:
    """The hooks. They run while an App (or the command line) is built, never on the data path."""

    @hookspec
    def corekit_register_adapters(self, registry: AdapterRegistry) -> None:
        """Offer adapters and serializers: `registry.add_cache("scheme", factory)` and so on."""

    @hookspec
    def corekit_register_bridges(self, bridges: list[Bridge]) -> None:
        """Append after-commit bridges, for transaction objects that corekit does not know."""

    @hookspec
    def corekit_register_plugins(self, registry: PluginRegistry) -> None:
        """Offer application plugins: `registry.add(MyPlugin)`."""

    @hookspec
    def corekit_register_commands(self, group: click.Group) -> None:
        """Add commands to the command line `corekit`."""


@dataclass
class Discovery:
    """What is installed: the plugins that could be loaded, and why the others could not."""

    manager: pluggy.PluginManager
    loaded: dict[str, str] = field(default_factory=dict)
    """The version of each distribution that takes part."""

    failures: dict[str, BaseException] = field(default_factory=dict)
    """Why a distribution does not take part: told when an adapter is not found, and by doctor."""

    def adapters(self) -> AdapterRegistry:
        """Ask every plugin for its adapters.

        A plugin whose hook fails offers none and is put among the failures. Two that claim one
        scheme are a ConfigurationError that names both.
        """
        registry = AdapterRegistry()
        self._fill("corekit_register_adapters", registry)
        return registry

    def plugins(self) -> PluginRegistry:
        """Ask every plugin for the application plugins that it offers, as `adapters` does."""
        registry = PluginRegistry()
        self._fill("corekit_register_plugins", registry)
        return registry

    def bridges(self) -> list[Bridge]:
        """Ask every plugin for its after-commit bridges.

        A plugin whose hook fails offers none and is put among the failures.
        """
        bridges: list[Bridge] = []
        for implementation in self._implementations("corekit_register_bridges"):
            offered: list[Bridge] = []
            if self._call(implementation, offered):
                bridges += offered
        return bridges

    def add_commands(self, group: click.Group) -> None:
        """Let every plugin add its commands to *group*; what fails is put among the failures."""
        for implementation in self._implementations("corekit_register_commands"):
            self._call(implementation, group)

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        # Called one by one, not through the hook caller: it must be known who offers what, and
        # one plugin's failure must not stop the others.
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        return caller.get_hookimpls()

    def _fill(self, hook: str, registry: AdapterRegistry | PluginRegistry) -> None:
        for implementation in self._implementations(hook):
            registry.offering = implementation.plugin_name
            if not self._call(implementation, registry):
                registry.withdraw(implementation.plugin_name)

    def _call(self, implementation: pluggy.HookImpl, collector: object) -> bool:
        """Call one plugin's hook; return whether it did its work."""
        try:
            # Every hook takes exactly one argument; an implementation may leave it out.
            implementation.function(*[collector for _ in implementation.argnames])
        except (Conflict, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a third party's code does
            self._failed(implementation.plugin_name, error)
            return False
        return True

    def _load(self, entry: EntryPoint) -> None:
        distribution = _canonical(entry.dist.name if entry.dist is not None else entry.name)
        try:
            plugin = entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - its import may do anything, exit too
            # Not logged: who does not use it need not know.
            self.failures[distribution] = error
            return
        try:
            self._register(distribution, plugin)
        except (pluggy.PluginValidationError, ConfigurationError) as error:
            self._failed(distribution, error)
        else:
            self.loaded[distribution] = entry.dist.version if entry.dist else "?"

    def _register(self, distribution: str, plugin: object) -> None:
        if self.manager.has_plugin(distribution):
            raise ConfigurationError(f"it has more than one entry point in the group {GROUP!r}")
        if self.manager.is_registered(plugin):
            other = self.manager.get_name(plugin)
            raise ConfigurationError(f"its entry point is the same object as that of {other}")
        try:
            self.manager.register(plugin, name=distribution)
            self._check(plugin)
        except Exception:
            # `register` is not atomic.
            self.manager.unregister(name=distribution)
            raise

    def _check(self, plugin: object) -> None:
        # A misspelt hook would otherwise never be called, and nobody would know.
        self.manager.check_pending()
        callers = self.manager.get_hookcallers(plugin)
        if not callers:
            raise ConfigurationError("it has no function that is marked with @hookimpl")
        for caller in callers:
            function = getattr(plugin, caller.name)
            if is_async(function) or inspect.isgeneratorfunction(function):
                raise ConfigurationError(f"its hook {caller.name} must be a plain function")

    def _failed(self, distribution: str, error: BaseException) -> None:
        # The distribution's own fault, which its author wants to see at once.
        self.failures[distribution] = error
        logger.error("%s takes no part: %s", distribution, _reason(error))


def discover(
    builtins: Mapping[str, object], entries: Iterable[EntryPoint] | None = None
) -> Discovery:
    """Load every installed plugin; *builtins* are plugins by name that are always there.

    *entries* are the entry points to load, by default those of the group `corekit`. One that fails
    to import, or misspells a hook, is kept in `failures` and stops nobody else.
    """
    manager = pluggy.PluginManager("corekit")
    manager.add_hookspecs(Specifications)
    discovery = Discovery(manager)
    for name, plugin in builtins.items():
        manager.register(plugin, name=name)
    # pluggy's own loader lets one broken plugin stop all, and drops equal names silently.
    for entry in entry_points(group=GROUP) if entries is None else entries:
        discovery._load(entry)
    return discovery


def build_adapter(
    discovery: Discovery,
    registry: AdapterRegistry,
    component: str,
    url: BackendURL,
    context: AdapterContext,
) -> Any:
    """Return a new adapter of *component* for *url*.

    Raises AdapterNotFound if no installed distribution offers one (its text names what is
    installed, the closest match, and what to install) or its driver cannot be imported, and
    ConfigurationError if the backend offers other components only, or its factory fails or returns
    what is no such adapter.
    """
    factory = registry.factory(component, url.scheme)
    if factory is None:
        raise _not_found(discovery, registry, component, url)
    distribution = registry.schemes()[component][url.scheme]
    place = f"{component}: the factory of {url.scheme}:// in {distribution}"
    try:
        adapter = factory(url, context)
    except ImportError as error:
        raise AdapterNotFound(
            f"{component}: {distribution} is installed, but the driver of {url.scheme}:// fails "
            f"to import: {_reason(error)}"
        ) from error
    except CorekitError:
        raise
    except Exception as error:
        # Its text stays in the cause: it may hold the URL's password.
        raise ConfigurationError(f"{place} failed with {type(error).__name__}") from error
    if inspect.iscoroutine(adapter):
        adapter.close()
        raise ConfigurationError(f"{place} must be a plain function, not async")
    missing = sorted(name for name in _members(_CONTRACTS[component]) if not hasattr(adapter, name))
    if missing:
        raise ConfigurationError(
            f"{place} returned {shown(adapter)}, which is no {component} adapter: "
            f"it lacks {', '.join(missing)}"
        )
    return adapter


def _members(contract: type) -> set[str]:
    return {name for name in {*vars(contract), *contract.__annotations__} if name[0] != "_"}


def _not_found(
    discovery: Discovery, registry: AdapterRegistry, component: str, url: BackendURL
) -> ConfigurationError:
    offered = registry.schemes()
    schemes = sorted({scheme for by_scheme in offered.values() for scheme in by_scheme})
    if url.scheme in schemes:
        able = list(offered[component])
        return ConfigurationError(
            f"{url.scheme}:// offers no {component} adapter: give the App a URL for it, such as "
            f"{component}={able[0] + '://...' if able else '...'!r}; installed for {component}: "
            f"{', '.join(able) or 'none'}"
        )
    text = f"{component}: no adapter for {url.scheme}://; installed: {', '.join(schemes) or 'none'}"
    meant = _meant(url.scheme, schemes)
    if meant is not None and meant != url.scheme:
        text += f"; did you mean {meant}://"
    package = _KNOWN.get(meant) if meant else None
    if package and package not in discovery.loaded and package not in discovery.failures:
        text += f"; pip install {package}"
    for distribution, failure in discovery.failures.items():
        text += f"; {distribution} is installed but failed: {_reason(failure)}"
    error = AdapterNotFound(text)
    failures = list(discovery.failures.values())
    error.__cause__ = discovery.failures.get(package or "", failures[0] if failures else None)
    return error


def _meant(scheme: str, schemes: list[str]) -> str | None:
    """Return the scheme that was probably meant, None if no guess is good."""
    if scheme in _KNOWN:
        return scheme
    for known, package in _KNOWN.items():
        if package == f"corekit-{scheme}":
            return known
    close = difflib.get_close_matches(scheme, [*schemes, *_KNOWN], n=1)
    return close[0] if close else None


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"


def _canonical(name: str) -> str:
    """Return a distribution's name as package indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()
