"""Sync messages: telling the other instances what changed in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

from .. import names
from ..arguments import async_function
from .envelope import NOT_SELF
from .pub_sub import PubSubManager
from .subscription_options import GapHandler, Handler, Options


class Synced(Protocol):
    """What `SyncMessageManager.subscribe_plugin` needs of a plugin."""

    @property
    def name(self) -> str:
        """The plugin's channel."""
        ...

    @property
    def sync_debounce(self) -> float | timedelta:
        """Seconds of quiet after which equal messages are handled, as one."""
        ...

    @property
    def sync_max_wait(self) -> float | timedelta | None:
        """The longest that a message is held back, in seconds."""
        ...

    async def handle_sync_message(self, message: Any) -> None:
        """Apply *message*."""
        ...

    async def resync(self) -> None:
        """Load the state anew."""
        ...


class SyncMessageManager:
    """Keeps what instances hold in memory in step, as `app.sync_message_manager`.

    It works on the connection of *pub_sub*, with channels of its own: they never meet those of
    pub/sub. A message goes to every other instance, never to the one that published it. What
    `PubSubManager` says about order, gaps, errors and cancelling holds here, too.
    """

    def __init__(self, pub_sub: PubSubManager) -> None:
        self._channels = pub_sub.channels
        self._known = self._channels.known(names.SYNC)

    def __repr__(self) -> str:
        state = "open" if self._channels.gate.is_open else "closed"
        return f"<SyncMessageManager {self._channels.context.app!r} {state}>"

    async def publish(self, channel: str, message: Any, *, transaction: Any = None) -> None:
        """Send *message* to the subscribers of *channel* in every other instance.

        With *transaction* it returns at once, and the message leaves after the outermost commit,
        never on rollback; see `PubSubManager.publish`, also for what is raised.
        """
        name = names.checked("channel", channel)
        self._channels.gate.check()
        known = self._channels.channel(names.SYNC, name)
        if transaction is None:
            await known.publish(message, NOT_SELF)
        else:
            self._channels.defer(known, message, NOT_SELF, transaction)

    async def subscribe(
        self,
        channel: str,
        handler: Handler,
        *,
        debounce: float | timedelta = 0,
        max_wait: float | timedelta | None = None,
        on_gap: GapHandler | None = None,
    ) -> None:
        """Call `await handler(message)` for what other instances publish on *channel*.

        The options, and what is raised, are those of `PubSubManager.subscribe`.
        """
        name = names.checked("channel", channel)
        async_function("handler", handler)
        options = Options.checked(debounce=debounce, max_wait=max_wait, on_gap=on_gap)
        await self._channels.subscribe(self._channels.channel(names.SYNC, name), handler, options)

    async def subscribe_plugin(self, plugin: Synced) -> None:
        """Subscribe *plugin* to the channel of its name, for `handle_sync_message` and `resync`.

        `resync` is called where messages are missing, in their place, never beside
        `handle_sync_message`; gaps that come while it runs cause one more call, unless messages
        lie between them. If it fails, messages go on, and it is called again after a second,
        then after two, four, at most 60. Raises what `subscribe` raises.
        """
        name = names.checked("name", plugin.name)
        options = Options.checked(
            debounce=plugin.sync_debounce, max_wait=plugin.sync_max_wait, resync=plugin.resync
        )
        await self._channels.subscribe(
            self._channels.channel(names.SYNC, name), plugin.handle_sync_message, options
        )

    async def unsubscribe(self, channel: str, handler: Handler) -> None:
        """Call *handler* no more for *channel*; see `PubSubManager.unsubscribe`."""
        known = self._known.get(names.checked("channel", channel))
        if known is not None:
            await self._channels.unsubscribe(known, handler)
