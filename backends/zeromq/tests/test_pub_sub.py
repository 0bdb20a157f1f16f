"""Subscriptions whose session is lost, and what is told of it."""

from __future__ import annotations

from typing import Any

from corekit_zeromq.protocol import Op, Reply
from corekit_zeromq.pub_sub import PubSub

from corekit.testing import eventually

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
