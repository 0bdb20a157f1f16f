"""What installed distributions offer: adapters and serializers, and application plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .adapters import (
    AdapterContext,
    CacheAdapter,
    EventQueueAdapter,
    LockAdapter,
    PubSubAdapter,
)
from .arguments import shown
from .config import BackendURL
from .errors import ConfigurationError
from .serialization import Extension

if TYPE_CHECKING:
    from .plugin import Plugin

CacheFactory = Callable[[BackendURL, AdapterContext], CacheAdapter]
PubSubFactory = Callable[[BackendURL, AdapterContext], PubSubAdapter]
EventQueueFactory = Callable[[BackendURL, AdapterContext], EventQueueAdapter]
LockFactory = Callable[[BackendURL, AdapterContext], LockAdapter]

#: What a component is called in the registry, in URLs' parameters and in errors.
COMPONENTS = ("cache", "pub_sub", "event_queue", "lock")


class Conflict(ConfigurationError):
    """Two distributions offer the same; the text names both."""


class AdapterRegistry:
    """What the plugins of one App offer. A plugin sees it in `corekit_register_adapters`.

    A factory is `factory(url, context)`; it imports the driver, does no I/O, and returns an
    adapter that is not opened yet. Each `add_...` raises ConfigurationError for what cannot be a
    scheme or a factory, and if another distribution offers the same.
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
                what = f"code {code}" if other.code == code else type.__qualname__
                raise Conflict(
                    f"{owner} and {self.offering} both offer a serializer for {what}; "
                    "uninstall one of them"
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

    def withdraw(self, distribution: str) -> None:
        """Forget what *distribution* has offered."""
        for offers in (self._factories, self._extensions):
            for key in [key for key, (owner, _) in offers.items() if owner == distribution]:
                del offers[key]  # type: ignore[arg-type]  # the key comes from this very dict

    def _add(self, component: str, scheme: str, factory: Callable[..., Any]) -> None:
        if BackendURL.parse(f"{scheme}://", parameter="scheme").scheme != scheme:
            raise ConfigurationError(f"a scheme is written in lower case, not {shown(scheme)}")
        if not callable(factory):
            raise ConfigurationError(
                f"the factory of {scheme}:// must be callable, not {shown(factory)}"
            )
        if (component, scheme) in self._factories:
            raise Conflict(
                f"{self._factories[component, scheme][0]} and {self.offering} both offer a "
                f"{component} adapter for {scheme}://; uninstall one of them"
            )
        self._factories[component, scheme] = (self.offering, factory)


class PluginRegistry:
    """Application plugins that installed distributions offer, by name."""

    def __init__(self) -> None:
        self._plugins: dict[str, tuple[str, type[Plugin]]] = {}
        #: The distribution whose hook runs at the moment.
        self.offering = "?"

    def __repr__(self) -> str:
        return f"<PluginRegistry {self.names()}>"

    def add(self, plugin: type[Plugin]) -> None:
        """Offer *plugin* under its name; it is loaded where `App(plugins=[name])` names it.

        Raises ConfigurationError if it is not a class with a name, or if another distribution
        offers a plugin of this name.
        """
        name = getattr(plugin, "name", None)
        if not isinstance(plugin, type) or not isinstance(name, str):
            raise ConfigurationError(f"a plugin is a class with a name, not {shown(plugin)}")
        if name in self._plugins:
            raise Conflict(
                f"{self._plugins[name][0]} and {self.offering} both offer a plugin {name!r}; "
                "uninstall one of them"
            )
        self._plugins[name] = (self.offering, plugin)

    def find(self, name: str) -> type[Plugin] | None:
        """Return the plugin class *name*, None if nobody offers it."""
        found = self._plugins.get(name)
        return None if found is None else found[1]

    def names(self) -> list[str]:
        """Return the names of all plugins on offer."""
        return sorted(self._plugins)

    def withdraw(self, distribution: str) -> None:
        """Forget what *distribution* has offered."""
        for name in [name for name, (owner, _) in self._plugins.items() if owner == distribution]:
            del self._plugins[name]
