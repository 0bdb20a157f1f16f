"""The channels of one App on one adapter: what pub/sub and sync messages are made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from .. import names
from ..adapters import PubSubAdapter
from ..errors import BackendError
from ..lifecycle import Gate
from ..tasks import TaskOwner
from .channel import Channel
from .context import ManagerContext
from .gaps import SequenceTracker
from .outbox import Outbox
from .subscription import Subscription
from .subscription_options import Handler, Options

logger = logging.getLogger("corekit.pub_sub")

#: How long running handlers, and messages whose transaction has committed, may go on at close, in
#: seconds.
_GRACE = 5.0

#: How long cancelled handlers may take to end, in seconds.
_CLEAN_UP = 1.0

#: Beyond so many names, those without subscribers are forgotten.
_MANY = 10_000


class Channels:
    """Publishes and receives for all components of one App that work by channels."""

    def __init__(self, context: ManagerContext) -> None:
        self.context = context
        self.gate = Gate("pub/sub")
        self._tasks = TaskOwner("pub/sub")
        self._outbox = Outbox(context, self.gate, self._tasks, logger)
        self._adapter: PubSubAdapter | None = None
        self._delivering = False
        self._by_full_name: dict[str, Channel] = {}
        self._by_name: dict[str, dict[str, Channel]] = {}
        self._many = _MANY

    def __repr__(self) -> str:
        state = "open" if self.gate.is_open else "closed"
        return f"<Channels of {self.context.app!r} {state} channels={len(self._by_full_name)}>"

    # Opening and closing.

    async def open(self, adapter: PubSubAdapter) -> None:
        """Open *adapter* and receive every channel that has subscribers.

        Failed or cancelled, *adapter* is closed and everything is as before.
        """
        self._forget_idle()
        for channel in self._by_full_name.values():
            channel.restart(adapter)
        self._adapter = adapter
        try:
            await adapter.open(self)
            self._delivering = True
            self.gate.open()
            for channel in list(self._by_full_name.values()):
                async with channel.lock:
                    await self._settle(channel)
        except BaseException:
            await self._close(adapter, grace=0.0)
            raise

    async def close(self) -> None:
        """Deliver no more, let running handlers end, and close the adapter.

        Messages that wait for a handler are dropped. Handlers that run, and messages whose
        transaction has committed, have five seconds; then they are cancelled. Subscriptions are
        kept for the next `open`. On what is not open it does nothing.
        """
        if self._adapter is not None:
            await self._close(self._adapter, grace=_GRACE)

    async def _close(self, adapter: PubSubAdapter, *, grace: float) -> None:
        self._delivering = False
        for channel in self._by_full_name.values():
            for subscription in channel.subscriptions:
                subscription.stop()
        try:
            # Until then the gate is open: what ends may still publish.
            await self._tasks.wait(grace)
        finally:
            self.gate.close()
            self._adapter = None
            self._tasks.cancel()
            try:
                if not await self._tasks.wait(_CLEAN_UP):
                    logger.error("%r: handlers go on although they were cancelled", self._tasks)
            finally:
                await adapter.close()

    # Publishing.

    def known(self, component: str) -> dict[str, Channel]:
        """Return the channels of *component* that are there, by name; the same dict each time."""
        return self._by_name.setdefault(component, {})

    def channel(self, component: str, name: str) -> Channel:
        """Return a channel, made if it is not there; *name* must have been checked."""
        known = self.known(component)
        found = known.get(name)
        if found is None:
            if len(self._by_full_name) >= self._many:
                self._forget_idle()
            full_name = names.full(self.context.app, component, name)
            found = Channel(self.context, self.gate, self._adapter, name, full_name)
            known[name] = found
            self._by_full_name[full_name] = found
        return found

    def defer(self, channel: Channel, message: Any, audience: int, transaction: Any) -> None:
        """Send *message*, as it is now, after *transaction* has committed.

        Raises NotOpenError, SerializationError and InvalidType (no transaction).
        """
        self.gate.check()
        # Its number is only known when it leaves, so that those published before keep theirs.
        send = partial(channel.publish, channel.as_written(message, audience), audience)
        self._outbox.defer(transaction, send, what=f"channel {channel.full_name}")

    # Subscribing.

    async def subscribe(self, channel: Channel, handler: Handler, options: Options) -> None:
        """Give *channel*'s messages to *handler*; before `open` this is remembered only.

        A handler that is there already gets the new options. Failed or cancelled, nothing has
        changed. Raises what the adapter raises, and WrongLoop.
        """
        if not self.gate.is_open:
            self._add(channel, handler, options)
            return
        self.gate.check()
        async with channel.lock:
            added = self._add(channel, handler, options)
            try:
                await self._settle(channel)
            except BaseException:
                if added:
                    channel.remove(handler)
                raise

    async def unsubscribe(self, channel: Channel, handler: Handler) -> None:
        """Give *handler* no more messages; what waits for it is dropped.

        A call of it that runs goes on. Raises WrongLoop.
        """
        if self.gate.is_open:
            self.gate.check()
        channel.remove(handler)
        if not self.gate.is_open:
            return
        async with channel.lock:
            # An overlapping `subscribe` that came first may have waited for the lock until now.
            channel.remove(handler)
            try:
                await self._settle(channel)
            except BackendError as error:
                logger.warning(
                    "channel %s: the backend goes on sending it: %s", channel.full_name, error
                )

    def _add(self, channel: Channel, handler: Handler, options: Options) -> bool:
        for subscription in channel.subscriptions:
            if subscription.handler == handler:
                subscription.replace(options)
                return False
        new = Subscription(
            self.context, self._tasks, channel.name, channel.full_name, handler, options
        )
        channel.subscriptions = [*channel.subscriptions, new]
        return True

    async def _settle(self, channel: Channel) -> None:
        """Have the adapter receive *channel* exactly while it has subscribers."""
        adapter = self._adapter
        wanted = bool(channel.subscriptions)
        if adapter is None or wanted is channel.received:
            return
        if wanted:
            channel.heard = SequenceTracker()
            await adapter.subscribe(channel.full_name)
            channel.received = True
        else:
            channel.received = False
            await adapter.unsubscribe(channel.full_name)

    def _forget_idle(self) -> None:
        for known in self._by_name.values():
            for name, channel in list(known.items()):
                if channel.is_idle:
                    del known[name], self._by_full_name[channel.full_name]
        self._many = max(_MANY, 2 * len(self._by_full_name))

    # What the adapter calls.

    def messages(self, channel: str, payloads: Sequence[bytes]) -> None:
        found = self._by_full_name.get(channel)
        if found is not None and self._delivering and found.subscriptions:
            found.receive(payloads)

    def gap(self, channel: str) -> None:
        found = self._by_full_name.get(channel)
        if found is not None and self._delivering and found.subscriptions:
            logger.info("channel %s: messages may have been missed", channel)
            found.gap()
