"""Pub/sub: every instance that listens to a channel gets each message."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from .. import names
from ..adapters import PubSubAdapter
from ..arguments import async_function, flag
from .channels import Channels
from .context import ManagerContext
from .envelope import EVERYBODY, NOT_SELF, ONLY_SELF
from .subscription_options import GapHandler, Handler, Options


class PubSubManager:
    """Tells all instances of the App, as `app.pub_sub_manager`.

    Delivery is at most once: what is lost is told to the subscriber by `on_gap`. Messages of one
    instance on one channel arrive in the order of its `publish` calls. Calls may overlap.
    """

    def __init__(self, context: ManagerContext) -> None:
        #: Shared with the sync messages, which have channels of their own on the same adapter.
        self.channels = Channels(context)
        self._known = self.channels.known(names.CHANNEL)

    def __repr__(self) -> str:
        state = "open" if self.channels.gate.is_open else "closed"
        return f"<PubSubManager {self.channels.context.app!r} {state}>"

    async def open(self, adapter: PubSubAdapter) -> None:
        """Open *adapter*, new and not opened yet, and take up all subscriptions.

        Raises what the adapter raises; *adapter* is then closed, as after a cancelled call.
        """
        await self.channels.open(adapter)

    async def close(self) -> None:
        """Close the adapter; subscriptions are kept for the next `open`.

        Messages that wait for a handler are dropped. Handlers that run, and messages whose
        transaction has committed, have five seconds to end; then they are cancelled. On a closed
        manager it does nothing.
        """
        await self.channels.close()

    async def publish(
        self,
        channel: str,
        message: Any,
        *,
        skip_self: bool = True,
        only_self: bool = False,
        transaction: Any = None,
    ) -> None:
        """Send *message* to the subscribers of *channel* in every instance of the App.

        *skip_self*: not to this App instance's own subscribers (those of other instances in the
        same process get it). *only_self*: to these only; it wins over *skip_self*. The message is
        written in this call: changing it afterwards changes nothing.

        Returns when the message is on its way, in order, maybe before it arrived. With
        *transaction* it returns at once, and the message leaves after the outermost commit, never
        on rollback. If the backend is away then, it is tried again for half a minute (and may
        arrive twice if the backend's answer got lost); an error in the log, with the channel, says
        that it was given up.

        Raises InvalidName or InvalidType; SerializationError or MessageTooLarge; NotOpenError;
        in all these cases nothing was sent. While the connection is down it waits for a bounded
        time, then raises BackendUnavailable: the message will not be sent, and subscribers see
        a gap with the next one. Cancelled, it was sent or was not.
        """
        known = self._known.get(channel) if type(channel) is str else None
        if known is None:
            name = names.checked("channel", channel)
            self.channels.gate.check()
            known = self.channels.channel(names.CHANNEL, name)
        if skip_self is True and only_self is False:
            audience = NOT_SELF
        elif flag("only_self", only_self):
            flag("skip_self", skip_self)
            audience = ONLY_SELF
        else:
            audience = NOT_SELF if flag("skip_self", skip_self) else EVERYBODY
        if transaction is None:
            await known.publish(message, audience)
        else:
            self.channels.defer(known, message, audience, transaction)

    async def subscribe(
        self,
        channel: str,
        handler: Handler,
        *,
        debounce: float | timedelta = 0,
        max_wait: float | timedelta | None = None,
        buffer: int = 1000,
        on_gap: GapHandler | None = None,
    ) -> None:
        """Call `await handler(message)` for each message on *channel*, in order, one at a time.

        What is published after this call returned arrives. Before the App is started the
        subscription is remembered; it is kept when the App is stopped and started again, but what
        was published meanwhile is not told. Subscribing the same handler (by `==`) again replaces
        its options: what is buffered is kept, what is being debounced is handled at once. Each
        handler gets a message of its own, which it may change.

        *debounce*: seconds without an equal message (same values and types) after which the
        message is handled, once for all of them; different messages do not disturb each other,
        and are handled in the order in which their time was over. *max_wait*: the longest that a
        message is held back, from the first of the equal ones; None: as long as they keep coming.

        *buffer*: how many messages may wait for the handler, debounced ones included. Beyond it
        the oldest are dropped and the gap is told.

        *on_gap*: called as `on_gap(channel)`, plain or async, where messages were missed: between
        the messages before and those after, never beside the handler. Messages that were dropped
        here, lost on the way (including one whose publish failed), unreadable, or not replayed
        after a lost connection are told, once per gap. A loss before the first message that is
        heard of a publisher can only be told by the backend.

        An error in *handler* or *on_gap* is logged, and the next message is handled.

        Raises InvalidName, InvalidType (a handler that is not async, too) or InvalidArgument; and
        when the App is started BackendUnavailable or WrongLoop. Failed or cancelled, nothing has
        changed.
        """
        name = names.checked("channel", channel)
        async_function("handler", handler)
        options = Options.checked(
            debounce=debounce, max_wait=max_wait, buffer=buffer, on_gap=on_gap
        )
        await self.channels.subscribe(self.channels.channel(names.CHANNEL, name), handler, options)

    async def unsubscribe(self, channel: str, handler: Handler) -> None:
        """Call *handler* no more for *channel*; an unknown one is ignored.

        Messages that are buffered or debounced for it are dropped; a call that runs ends
        undisturbed, also the one that unsubscribes itself. Works before the App is started, too.

        Raises InvalidName, InvalidType and WrongLoop, but never for a backend that is away.
        """
        known = self._known.get(names.checked("channel", channel))
        if known is not None:
            await self.channels.unsubscribe(known, handler)
