"""The base class of application plugins."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from . import names
from .arguments import is_async, shown
from .errors import ConfigurationError, InvalidType

if TYPE_CHECKING:
    from .app import App
    from .registry import PluginRegistry

_HOOKS = ("before_load", "load", "before_stop", "handle_sync_message", "resync")


class Plugin:
    """A part of an application, which lives as long as its App is started.

    A subclass sets `name` and overrides what it needs; all hooks are async. The App calls, in the
    order in which plugins were given to it: all `before_load`, then all `load`; at stop all
    `before_stop`, in reverse. `app` is there from the moment the plugin is given to an App.
    """

    name: ClassVar[str]
    """Unique in the App; the channel of the plugin's sync messages."""

    sync_debounce: ClassVar[float | timedelta] = 0
    """Collapses equal sync messages: seconds of quiet before the handler is called; 0: each."""

    sync_max_wait: ClassVar[float | timedelta | None] = None
    """The longest that `sync_debounce` may hold a message back, in seconds."""

    app: App

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'name', None)!r}>"

    async def before_load(self) -> None:
        """Subscribe here: nothing is connected yet, all else raises NotOpenError."""

    async def load(self) -> None:
        """Create caches, read state, publish: everything is connected; the queue consumes later.

        An error here fails the start of the App.
        """

    async def before_stop(self) -> None:
        """Save what must be saved: everything is still connected, the queue has drained."""

    async def handle_sync_message(self, message: Any) -> None:
        """Apply *message*, which another instance of this plugin sent.

        Subscribed only where it (or `resync`) is overridden. Called in order, one at a time; an
        error is logged. For bursts of equal messages see `sync_debounce`.
        """

    async def resync(self) -> None:
        """Load the state anew: sync messages of this plugin may have been missed.

        Never runs beside `handle_sync_message`; gaps that come meanwhile cause one more call. An
        error is logged and the call repeated with back-off.
        """

    async def send_sync_message(self, message: Any, *, transaction: Any = None) -> None:
        """Send *message* to `handle_sync_message` of this plugin in every other instance.

        With *transaction* the call returns at once, and the message leaves after the outermost
        commit, never on rollback. Raises what `SyncMessageManager.publish` raises.
        """
        await self.app.sync_message_manager.publish(self.name, message, transaction=transaction)


def listens(plugin: Plugin) -> bool:
    """Tell whether *plugin* does something with sync messages, so that it must be subscribed."""
    kind = type(plugin)
    return (
        kind.handle_sync_message is not Plugin.handle_sync_message
        or kind.resync is not Plugin.resync
    )


def attached(
    given: Iterable[type[Plugin] | Plugin | str], offered: PluginRegistry, app: App
) -> dict[str, Plugin]:
    """Return the plugins that *given* means, by name, as parts of *app*.

    A str is the name of a plugin among the *offered*. Raises InvalidType if *given* is no list or
    other iterable, or a lone str, and ConfigurationError if one of them is no plugin, has no proper
    name, a name that another has, a hook that is not async, or belongs to another App; none is
    attached then.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidType(f"plugins must be a list of plugins, not {shown(given)}")
    found: dict[str, Plugin] = {}
    for each in given:
        plugin = _checked(_offered(each, offered) if isinstance(each, str) else each)
        if plugin.name in found:
            raise ConfigurationError(f"two plugins are named {plugin.name!r}")
        if getattr(plugin, "app", app) is not app:
            raise ConfigurationError(f"plugin {plugin.name!r} belongs to another App")
        found[plugin.name] = plugin
    for plugin in found.values():
        plugin.app = app
    return found


def _offered(name: str, offered: PluginRegistry) -> type[Plugin]:
    plugin = offered.find(name)
    if plugin is None:
        raise ConfigurationError(
            f"no installed distribution offers a plugin {shown(name)}; "
            f"on offer: {', '.join(offered.names()) or 'none'}"
        )
    return plugin


def _checked(plugin: Plugin | type[Plugin]) -> Plugin:
    if isinstance(plugin, type) and issubclass(plugin, Plugin):
        plugin = plugin()
    if not isinstance(plugin, Plugin):
        raise ConfigurationError(
            f"plugins must be Plugin classes or instances, or names of installed ones, "
            f"not {shown(plugin)}"
        )
    if not isinstance(getattr(plugin, "name", None), str):
        raise ConfigurationError(f'{type(plugin).__name__} has no name: set `name = "..."`')
    names.checked(f"{type(plugin).__name__}.name", plugin.name)
    for hook in _HOOKS:
        if not is_async(getattr(plugin, hook)):
            raise ConfigurationError(f"{type(plugin).__name__}.{hook} must be an async function")
    return plugin
