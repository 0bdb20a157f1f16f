"""Subscriptions whose session is lost, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from corekit_zeromq.cache import Cache
from corekit_zeromq.dispatch import MESSAGES_PER_TURN
from corekit_zeromq.protocol import Op, Reply
from corekit_zeromq.pub_sub import PubSub

from corekit.config import BackendURL
from corekit.errors import BackendRefused, BackendUnavailable
from corekit.testing import eventually
from corekit.testing.contexts import make_context

from .batches import messages
from .fake_broker import FakeBroker, opened
from .receiver import Receiver


def subscribed_at(seq: int) -> Any:
    """Answer SUBSCRIBE so."""
    return lambda command: [[Reply.OK, command[1], seq]]


async def lose_session(fake: FakeBroker) -> None:
    """Let the broker forget the session, and wait until the client has subscribed again."""
    before = len(fake.commands(Op.SUBSCRIBE))
    await fake.say([Reply.UNKNOWN], number=0)
    await fake.heard(Op.SUBSCRIBE, before + 1)


async def test_a_gap_is_told_though_the_session_is_lost_again() -> None:
    """The answer to SUBSCRIBE says that there is one: it need not wait for GAP, which may be lost.

    When GAP comes after all it is not told twice.
    """
    async with FakeBroker() as fake, opened(PubSub, fake.url, told := Receiver()) as pub_sub:
        await pub_sub.subscribe("c")
        fake.scripts[Op.SUBSCRIBE] = subscribed_at(7)
        await lose_session(fake)
        await eventually(lambda: told.arrived == [None])
        # The next session is asked for what follows, and knows nothing of what is missing.
        await lose_session(fake)
        assert fake.commands(Op.SUBSCRIBE)[-1][3:] == [1, 7]
        await fake.say(messages("c", 7, [b"seven"]))
        await eventually(lambda: told.arrived == [None, b"seven"])
        fake.scripts[Op.SUBSCRIBE] = subscribed_at(20)
        await lose_session(fake)
        await fake.say([Reply.GAP, "c", 20], messages("c", 20, [b"twenty"]))
        await eventually(lambda: told.arrived[2:] == [None, b"twenty"])
        await fake.say([Reply.GAP, "c", 30])
        await eventually(lambda: told.arrived[4:] == [None])


async def test_subscribing_again_waits_for_no_session() -> None:
    """A subscription that comes back by itself holds: whatever is missed meanwhile is a gap."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, Receiver()) as pub_sub:
        await pub_sub.subscribe("c")
        del fake.scripts[Op.SUBSCRIBE]
        await lose_session(fake)
        await asyncio.wait_for(pub_sub.subscribe("c"), 5)
        await lose_session(fake)
        await asyncio.wait_for(pub_sub.subscribe("c"), 5)


async def test_subscribing_again_after_a_refusal_begins_anew() -> None:
    """What the broker has refused to restore does not hold, until it is asked again and agrees."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, told := Receiver()) as pub_sub:
        await pub_sub.subscribe("c")
        fake.scripts[Op.SUBSCRIBE] = lambda command: [
            [Reply.FAIL, command[1], "backend_refused", "no"]
        ]
        await lose_session(fake)
        await eventually(lambda: told.arrived == [None])
        with pytest.raises(BackendRefused):
            await pub_sub.subscribe("c")
        fake.scripts[Op.SUBSCRIBE] = subscribed_at(5)
        await pub_sub.subscribe("c")
        await fake.say(messages("c", 5, [b"five"]))
        await eventually(lambda: told.arrived == [None, b"five"])


async def test_unsubscribing_overtakes() -> None:
    """A call of `subscribe` that waits when the channel is unsubscribed returns."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, Receiver()) as pub_sub:
        del fake.scripts[Op.SUBSCRIBE]
        waiting = asyncio.create_task(pub_sub.subscribe("c"))
        await fake.heard(Op.SUBSCRIBE)
        await pub_sub.unsubscribe("c")
        await asyncio.wait_for(waiting, 5)
        await fake.heard(Op.UNSUBSCRIBE)


@asynccontextmanager
async def beside_a_cache(fake: FakeBroker) -> AsyncIterator[tuple[PubSub, Cache]]:
    """Open a pub/sub with a subscription, and a cache on the same connection."""
    context = make_context()
    url = BackendURL.parse(fake.url)
    pub_sub, cache = PubSub(url, context), Cache(url, context)
    await cache.open()
    await pub_sub.open(Receiver())
    await pub_sub.subscribe("c")
    yield pub_sub, cache
    fake.answer(Op.CACHE_GET, [None])
    await cache.space("s").get("key")
    await cache.close()


async def test_closing_leaves_no_subscription() -> None:
    """Nor one that is being restored, on a connection that others go on with."""
    async with FakeBroker() as fake:
        async with beside_a_cache(fake) as (pub_sub, _):
            del fake.scripts[Op.SUBSCRIBE]
            await lose_session(fake)
            await pub_sub.close()
            fake.said.clear()
            await fake.say([Reply.UNKNOWN], number=0)
            await eventually(lambda: len(fake.hellos) == 3)
        assert fake.commands(Op.SUBSCRIBE) == []


async def test_what_closes_is_not_restored() -> None:
    """Also if the session is lost while what was published last is on its way."""
    async with FakeBroker() as fake:
        async with beside_a_cache(fake) as (pub_sub, _):
            fake.confirming = False
            closing = asyncio.create_task(pub_sub.close())
            await fake.heard(Op.UNSUBSCRIBE)
            fake.said.clear()
            await fake.say([Reply.UNKNOWN], number=0)
            await eventually(lambda: len(fake.hellos) == 2)
            fake.confirming = True
            await asyncio.wait_for(closing, 5)
        assert fake.commands(Op.SUBSCRIBE) == []


async def say_welcome_late(
    fake: FakeBroker, told: Receiver, meanwhile: Callable[..., object]
) -> None:
    """Say WELCOME behind more messages than a turn hands on, each time to *meanwhile*."""
    fake.scripts[Op.HELLO] = lambda _: None
    fake.resumes = True
    told.messages = meanwhile  # type: ignore[method-assign]
    (welcome,) = fake.welcome([])
    await fake.say(messages("c", 1, [b"1"] * MESSAGES_PER_TURN * 5), welcome)


async def test_a_welcome_of_a_link_that_has_ended_greets_no_other() -> None:
    """It may have waited behind messages: the link that it accepted is not there any more."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, told := Receiver()) as pub_sub:
        await pub_sub.subscribe("c")
        connection = pub_sub._client.connection
        heard = asyncio.Event()

        def end(*_: object) -> None:
            heard.set()
            connection.link.end(BackendUnavailable("lost"))

        await say_welcome_late(fake, told, end)
        await asyncio.wait_for(heard.wait(), 5)
        await eventually(lambda: not connection.dispatcher._backlog)
        assert not connection.link.is_up
        assert connection.link._link is None


async def test_a_closed_link_is_not_accepted() -> None:
    """A WELCOME that waits behind messages when the connection closes starts nothing."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, told := Receiver()) as pub_sub:
        await pub_sub.subscribe("c")
        connection = pub_sub._client.connection
        closing: list[asyncio.Task[None]] = []

        def end(*_: object) -> None:
            if not closing:
                closing.append(asyncio.create_task(connection.close()))

        await say_welcome_late(fake, told, end)
        await eventually(lambda: closing)
        await closing[0]
        assert not connection.link.is_up
        assert connection.link._ticker is None
