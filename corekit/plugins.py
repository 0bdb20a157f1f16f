"""Hooks, and how installed distributions are found. The only file that imports pluggy.

A distribution takes part by an entry point in the group `corekit` whose name is the distribution's
own and whose value is a module (or object) with functions marked `@hookimpl`. That module imports
no driver: factories do, when they are called.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
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
from .arguments import shown
from .config import BackendURL
from .errors import AdapterNotFound, ConfigurationError
from .serialization import Extension

if TYPE_CHECKING:
    import click

    from .plugin import Plugin
    from .transactions import Bridge

logger = logging.getLogger("corekit.plugins")

GROUP = "corekit"

hookspec = pluggy.HookspecMarker("corekit")
hookimpl = pluggy.HookimplMarker("corekit")

CacheFactory = Callable[[BackendURL, AdapterContext], CacheAdapter]
PubSubFactory = Callable[[BackendURL, AdapterContext], PubSubAdapter]
EventQueueFactory = Callable[[BackendURL, AdapterContext], EventQueueAdapter]
LockFactory = Callable[[BackendURL, AdapterContext], LockAdapter]

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

#: What a component is called in the registry, in URLs' parameters and in errors.
COMPONENTS = ("cache", "pub_sub", "event_queue", "lock")


class AdapterRegistry:
    """What the plugins of one App offer. A plugin sees it in `corekit_register_adapters`.

    A factory is `factory(url, context)`; it imports the driver, does no I/O, and returns an
    adapter that is not opened yet.
    """

    def __init__(self) -> None:
        self._factories: dict[tuple[str, str], tuple[str, Callable[..., Any]]] = {}
        self._extensions: dict[int, tuple[str, Extension]] = {}
        #: The distribution whose hook runs at the moment.
        self.offering = "?"

    def __repr__(self) -> str:
        return f"<AdapterRegistry {self.schemes()}>"

    def add_cache(self, scheme: str, factory: CacheFactory) -> None:
        """Offer a cache store for URLs with *scheme*."""
        self._add("cache", scheme, factory)

    def add_pub_sub(self, scheme: str, factory: PubSubFactory) -> None:
        """Offer pub/sub for URLs with *scheme*."""
        self._add("pub_sub", scheme, factory)

    def add_event_queue(self, scheme: str, factory: EventQueueFactory) -> None:
        """Offer an event queue for URLs with *scheme*."""
        self._add("event_queue", scheme, factory)

    def add_lock(self, scheme: str, factory: LockFactory) -> None:
        """Offer locks for URLs with *scheme*."""
        self._add("lock", scheme, factory)

    def add_serializer(
        self,
        type: type,  # noqa: A002 - it is the type that is meant
        code: int,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
    ) -> None:
        """Let values of exactly *type* be written, as *code* (64 to 127) and the bytes of *encode*.

        The code is part of the stored data: it stays the same for ever, in every release.
        Raises ConfigurationError if another distribution has the type or the code.
        """
        extension = Extension(type, code, encode, decode)
        for owner, other in self._extensions.values():
            if other.code == code or other.type is type:
                raise ConfigurationError(
                    f"serializers of {owner} and {self.offering} both claim "
                    f"{'code ' + str(code) if other.code == code else type.__qualname__}"
                )
        self._extensions[code] = (self.offering, extension)

    @property
    def extensions(self) -> list[Extension]:
        """The serializers that were added."""
        return [extension for _, extension in self._extensions.values()]

    def schemes(self) -> dict[str, dict[str, str]]:
        """Return, by component, the distribution behind each scheme."""
        offered: dict[str, dict[str, str]] = {component: {} for component in COMPONENTS}
        for (component, scheme), (distribution, _) in sorted(self._factories.items()):
            offered[component][scheme] = distribution
        return offered

    def factory(self, component: str, scheme: str) -> Callable[..., Any] | None:
        """Return the factory of *component* for *scheme*, None if nobody offers it."""
        found = self._factories.get((component, scheme))
        return None if found is None else found[1]

    def _add(self, component: str, scheme: str, factory: Callable[..., Any]) -> None:
        key = (component, scheme)
        if key in self._factories:
            raise ConfigurationError(
                f"{self._factories[key][0]} and {self.offering} both offer a {component} adapter "
                f"for {scheme}://; uninstall one of them"
            )
        if not callable(factory):
            raise ConfigurationError(
                f"{self.offering}: the factory of {scheme}:// is not callable: {shown(factory)}"
            )
        self._factories[key] = (self.offering, factory)


class PluginRegistry:
    """Application plugins that installed distributions offer, by name."""

    def __init__(self) -> None:
        self._plugins: dict[str, tuple[str, type[Plugin]]] = {}
        #: The distribution whose hook runs at the moment.
        self.offering = "?"

    def add(self, plugin: type[Plugin]) -> None:
        """Offer *plugin* under its name; it is loaded where `App(plugins=[name])` names it."""
        if plugin.name in self._plugins:
            raise ConfigurationError(
                f"{self._plugins[plugin.name][0]} and {self.offering} both offer a plugin "
                f"{plugin.name!r}"
            )
        self._plugins[plugin.name] = (self.offering, plugin)

    def find(self, name: str) -> type[Plugin] | None:
        """Return the plugin class *name*, None if nobody offers it."""
        found = self._plugins.get(name)
        return None if found is None else found[1]

    def names(self) -> list[str]:
        """Return the names of all plugins on offer."""
        return sorted(self._plugins)


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

        A plugin whose hook fails is put among the failures. Two that claim one scheme are a
        ConfigurationError that names both.
        """
        registry = AdapterRegistry()
        self._ask("corekit_register_adapters", registry)
        return registry

    def bridges(self) -> list[Bridge]:
        """Ask every plugin for its after-commit bridges."""
        bridges: list[Bridge] = []
        self._ask("corekit_register_bridges", bridges)
        return bridges

    def plugins(self) -> PluginRegistry:
        """Ask every plugin for the application plugins that it offers."""
        registry = PluginRegistry()
        self._ask("corekit_register_plugins", registry)
        return registry

    def add_commands(self, group: click.Group) -> None:
        """Let every plugin add its commands to *group*."""
        self._ask("corekit_register_commands", group)

    def _ask(self, hook: str, collector: object) -> None:
        # One by one, not through the hook caller: it must be known who offers what, and one
        # plugin's failure must not stop the others.
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            if isinstance(collector, AdapterRegistry | PluginRegistry):
                collector.offering = implementation.plugin_name
            try:
                # Every hook takes exactly one argument; an implementation may leave it out.
                implementation.function(*[collector for _ in implementation.argnames])
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a third party's code does
                self.failures[implementation.plugin_name] = error


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
    for entry in entry_points(group=GROUP) if entries is None else entries:
        # pluggy's own loader lets one broken plugin stop all, and drops equal names silently.
        distribution = entry.dist.name if entry.dist is not None else entry.name
        try:
            manager.register(entry.load(), name=distribution)
            manager.check_pending()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            discovery.failures[distribution] = error
            if manager.has_plugin(distribution):
                manager.unregister(name=distribution)
        else:
            discovery.loaded[distribution] = entry.dist.version if entry.dist else "?"
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
    installed, the closest match, and what to install) and ConfigurationError if the backend
    offers other components only.
    """
    factory = registry.factory(component, url.scheme)
    if factory is None:
        raise _not_found(discovery, registry, component, url)
    try:
        adapter = factory(url, context)
    except ImportError as error:
        raise AdapterNotFound(
            f"{component}: the backend of {url.scheme}:// is installed but its driver fails to "
            f"import: {error}"
        ) from error
    if adapter is None:
        raise ConfigurationError(f"{component}: the factory of {url.scheme}:// returned None")
    return adapter


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
    close = difflib.get_close_matches(url.scheme, [*schemes, *_KNOWN], n=1)
    if close and close[0] != url.scheme:
        text += f"; did you mean {close[0]}://"
    package = _KNOWN.get(url.scheme) or (_KNOWN.get(close[0]) if close else None)
    if package and package not in discovery.loaded:
        text += f"; pip install {package}"
    for distribution, failure in discovery.failures.items():
        text += f"; {distribution} is installed but failed: {type(failure).__name__}: {failure}"
    error = AdapterNotFound(text)
    error.__cause__ = next(iter(discovery.failures.values()), None)
    return error
