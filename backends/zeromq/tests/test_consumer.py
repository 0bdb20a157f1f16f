"""Consumers whose session is lost, and what became of their deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from corekit_zeromq.event_queue import EventQueue
from corekit_zeromq.protocol import Op, Reply

from corekit.adapters import Consumer, Delivery
from corekit.testing import eventually

from .fake_broker import FakeBroker, opened


class Inbox:
    """Keeps deliveries, and those that were told to be expired."""

    def __init__(self) -> None:
        self.taken: list[Delivery] = []
        self.late: list[Delivery] = []

    def deliveries(self, batch: Sequence[Delivery]) -> None:
        """Take deliveries."""
        self.taken += batch

    def expired(self, delivery: Delivery) -> None:
        """Take note."""
        self.late.append(delivery)


def batch(*tokens: bytes) -> list[list[Any]]:
    """Return deliveries with *tokens*, as the broker sends them."""
    return [[token, token.decode(), b"payload", 1, 0, 5.0] for token in tokens]


async def consuming(
    fake: FakeBroker, queue: EventQueue, *tokens: bytes, credit: int = 5
) -> tuple[Inbox, Consumer]:
    """Return a consumer that holds deliveries with *tokens*."""
    inbox = Inbox()
    consumer = queue.consume("q", inbox)
    consumer.grant(credit)
    await fake.heard(Op.CREDIT)
    await fake.say([Reply.DELIVERIES, 1, batch(*tokens)])
    await eventually(lambda: len(inbox.taken) == len(tokens))
    return inbox, consumer


async def lose_session(fake: FakeBroker) -> None:
    """Let the broker forget the session."""
    fake.said.clear()
    fake.epoch += 1
    await fake.say([Reply.UNKNOWN], number=0)


async def test_deliveries_are_claimed() -> None:
    """In a new session a consumer claims what it holds, and then goes on with the credit left.

    What is acknowledged afterwards has the new tokens.
    """
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a", b"b")
        fake.answer(Op.CLAIM, [b"a2", b"b2"])
        await lose_session(fake)
        ((_, _, number, tokens),) = await fake.heard(Op.CLAIM)
        assert (number, tokens) == (1, [b"a", b"b"])
        assert await fake.heard(Op.CREDIT) == [[Op.CREDIT, 1, 3]]
        first = next(frame for frame in reversed(fake.frames) if frame[0] == 1)
        assert [command[0] for command in first[2]] == [Op.CONSUME, Op.CLAIM]
        await eventually(lambda: not consumer._claims)  # type: ignore[attr-defined]
        consumer.ack(inbox.taken[1])
        assert await fake.heard(Op.ACK) == [[Op.ACK, 1, [b"b2"]]]
        assert inbox.late == []


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
async def test_what_is_given_back_comes_before_newer_credit(moment: str) -> None:
    """No credit is granted before what was given back, around the loss of a session, is back.

    Whoever handles in order would get something newer first.
    """
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a", b"b", credit=2)

        def give_back() -> None:
            for delivery in reversed(inbox.taken):
                consumer.release(delivery, started=False)
            consumer.grant(1)

        if moment == "before":
            fake.beating = fake.confirming = False
            give_back()
            await fake.heard(Op.CREDIT, 2)
        await lose_session(fake)
        fake.beating = fake.confirming = True
        ((_, rid, _, tokens),) = await fake.heard(Op.CLAIM)
        if moment == "meanwhile":
            give_back()
        await queue._client.connection.arrived(5)
        await fake.say([Reply.OK, rid, [token + b"2" for token in tokens]])
        await fake.heard(Op.CREDIT)
        *returned, credit = fake.said[2:]
        assert sorted(returned) == [[Op.RELEASE, 1, token, False] for token in (b"a2", b"b2")]
        assert credit == [Op.CREDIT, 1, 1]


async def test_a_refused_claim_is_told_when_it_is_settled() -> None:
    """A delivery that went to another is told as expired when it is settled, and not before."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a", b"b")
        fake.answer(Op.CLAIM, [None, b"b2"])
        await lose_session(fake)
        await fake.heard(Op.CLAIM)
        await eventually(lambda: not consumer._claims)  # type: ignore[attr-defined]
        assert inbox.late == []
        consumer.ack(inbox.taken[0])
        consumer.ack(inbox.taken[0])
        await eventually(lambda: inbox.late)
        assert inbox.late == inbox.taken[:1]
        assert fake.commands(Op.ACK) == []


async def test_what_was_settled_and_not_confirmed_is_settled_again() -> None:
    """Settling that may not have reached the broker is claimed and repeated, or told as expired."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a", b"b", b"c", b"d")
        fake.beating = fake.confirming = False
        consumer.ack(inbox.taken[0])
        consumer.retry(inbox.taken[1], delay=1.0, error="E")
        consumer.bury(inbox.taken[2], error="E")
        await fake.heard(Op.BURY)
        # By token: what the client holds comes last, in whatever order it was settled.
        fake.scripts[Op.CLAIM] = lambda command: [
            [Reply.OK, command[1], [None if t == b"c" else t + b"2" for t in command[3]]]
        ]
        await lose_session(fake)
        fake.confirming = True
        assert sorted((await fake.heard(Op.CLAIM))[0][3]) == [b"a", b"b", b"c", b"d"]
        assert await fake.heard(Op.ACK) == [[Op.ACK, 1, [b"a2"]]]
        assert await fake.heard(Op.RETRY) == [[Op.RETRY, 1, b"b2", 1.0, "E"]]
        assert inbox.late == [inbox.taken[2]]
        consumer.release(inbox.taken[3], started=True)
        assert await fake.heard(Op.RELEASE) == [[Op.RELEASE, 1, b"d2", True]]


async def test_what_is_settled_while_it_is_claimed() -> None:
    """Settling waits for the answer of the claim; a claim that got none is repeated."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a")
        await lose_session(fake)
        await fake.heard(Op.CLAIM)
        consumer.ack(inbox.taken[0])
        fake.answer(Op.CLAIM, [b"a3"])
        await lose_session(fake)
        assert await fake.heard(Op.ACK) == [[Op.ACK, 1, [b"a3"]]]


async def test_confirmed_settling_is_not_claimed() -> None:
    """What the broker has is not claimed again."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a", b"b")
        consumer.ack(inbox.taken[0])
        await fake.heard(Op.ACK)
        await queue._client.connection.arrived(5)
        fake.answer(Op.CLAIM, [b"b2"])
        await lose_session(fake)
        assert (await fake.heard(Op.CLAIM))[0][3] == [b"b"]


async def test_expired_deliveries_are_told() -> None:
    """EXPIRED reaches the receiver with the delivery that was settled."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.beating = fake.confirming = False
        inbox, consumer = await consuming(fake, queue, b"a")
        consumer.ack(inbox.taken[0])
        await fake.heard(Op.ACK)
        await fake.say([Reply.EXPIRED, 1, [b"a", b"unknown"]])
        await eventually(lambda: inbox.late == inbox.taken)


async def test_what_is_settled_in_one_turn_shares_a_frame() -> None:
    """Also after a rest: each frame of its own would cost the broker a turn."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a", b"b", b"c", b"d")
        a, b, c, d = inbox.taken
        consumer.ack(a)
        consumer.release(b, started=True)
        consumer.grant(2)
        consumer.ack(c)
        await fake.heard(Op.CREDIT, 2)
        assert fake.frames[-1][2] == [
            [Op.ACK, 1, [b"a", b"c"]],
            [Op.RELEASE, 1, b"b", True],
            [Op.CREDIT, 1, 2],
        ]
        consumer.ack(d)
        await fake.heard(Op.ACK, 2)
        assert fake.frames[-1][2] == [[Op.ACK, 1, [b"d"]]]


async def test_credit_is_counted() -> None:
    """Credit of one turn is one command; revoking ends it, for a new session too."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox = Inbox()
        consumer = queue.consume("q", inbox)
        consumer.grant(2)
        consumer.grant(3)
        assert await fake.heard(Op.CREDIT) == [[Op.CREDIT, 1, 5]]
        consumer.revoke()
        consumer.grant(4)
        await fake.heard(Op.CREDIT, 2)
        assert [command[0] for command in fake.said] == [
            Op.CONSUME,
            Op.CREDIT,
            Op.REVOKE,
            Op.CREDIT,
        ]
        await lose_session(fake)
        assert await fake.heard(Op.CREDIT) == [[Op.CREDIT, 1, 4]]


async def test_deliveries_of_revoked_credit_use_up_none() -> None:
    """What was on its way when credit was revoked is not counted against what is granted later."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox = Inbox()
        consumer = queue.consume("q", inbox)
        consumer.grant(2)
        await fake.heard(Op.CREDIT)
        fake.confirming = fake.beating = False
        consumer.revoke()
        consumer.grant(2)
        await fake.heard(Op.CREDIT, 2)
        await fake.say([Reply.DELIVERIES, 1, batch(b"a", b"b")])
        await eventually(lambda: len(inbox.taken) == 2)
        fake.answer(Op.CLAIM, [None, None])
        await lose_session(fake)
        assert await fake.heard(Op.CREDIT) == [[Op.CREDIT, 1, 2]]


async def test_closing_gives_back() -> None:
    """Closing cancels the consumer once everything settled has been sent; then nothing comes."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a", b"b")
        consumer.ack(inbox.taken[0])
        closing = asyncio.create_task(consumer.close())
        await fake.heard(Op.CANCEL)
        await fake.say([Reply.DELIVERIES, 1, batch(b"c")])
        await closing
        assert [command[0] for command in fake.said[-2:]] == [Op.ACK, Op.CANCEL]
        consumer.ack(inbox.taken[1])
        consumer.grant(1)
        consumer.revoke()
        await consumer.close()
        assert len(inbox.taken) == 2


async def test_closing_while_the_session_is_lost() -> None:
    """A consumer that closes without a session still settles what it had settled."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"a", b"b")
        fake.beating = fake.confirming = False
        consumer.ack(inbox.taken[0])
        await fake.heard(Op.ACK)
        fake.answer(Op.CLAIM, [b"a2"])
        queue._client.connection.link._lost()
        closing = asyncio.create_task(consumer.close())
        await asyncio.sleep(0)
        fake.beating = fake.confirming = True
        fake.said.clear()
        await closing
        assert (await fake.heard(Op.CLAIM))[0][3] == [b"a"]
        # What is claimed would be given back by CANCEL.
        assert fake.said[-2:] == [[Op.ACK, 1, [b"a2"]], [Op.CANCEL, 1]]


async def test_what_expired_is_told_behind_a_delivery() -> None:
    """The frame that says that an ack came, too late, may bring something new before that."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox, consumer = await consuming(fake, queue, b"t0")
        fake.confirming = False
        consumer.ack(inbox.taken[0])
        await fake.heard(Op.ACK)
        fake.confirming = True
        news = [[Reply.DELIVERIES, 1, batch(b"t1")], [Reply.DELIVERIES, 1, batch(b"t2")]]
        await fake.say(*news, [Reply.EXPIRED, 1, [b"t0"]])
        await eventually(lambda: len(inbox.taken) == 3)
        assert [late.id for late in inbox.late] == ["t0"]


async def test_all_claims_are_in_the_first_frame() -> None:
    """However many consumers there are: the broker waits for the first frame only."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        inbox = Inbox()
        for number in range(300):
            queue.consume(f"q{number}", inbox)
        await fake.heard(Op.CONSUME, 300)
        for number in range(300):
            await fake.say([Reply.DELIVERIES, number + 1, batch(b"t%d" % number)])
        await eventually(lambda: len(inbox.taken) == 300)
        fake.frames.clear()
        fake.scripts[Op.CLAIM] = lambda command: [[Reply.OK, command[1], command[3]]]
        await lose_session(fake)
        await fake.heard(Op.CLAIM, 300)
        first = next(commands for number, _, commands in fake.frames if number)
        assert sum(command[0] == Op.CLAIM for command in first) == 300
