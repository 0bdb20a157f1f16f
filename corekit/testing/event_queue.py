"""The suite for event queue adapters: each test is one clause of `corekit.adapters.event_queue`.

An adapter's author writes:

    class TestMine(EventQueueSuite):
        def make_adapter(self) -> EventQueueAdapter:
            return my_queue(BackendURL.parse("mine://localhost"), make_context(clock=self.clock))
"""

from __future__ import annotations

import asyncio

import pytest

from ..adapters import Guarantee
from ..errors import NotOpenError
from .event_queue_clauses import Inbox
from .event_queue_settlements import SettlementClauses
from .waiting import eventually

__all__ = ["EventQueueSuite", "Inbox"]


class EventQueueSuite(SettlementClauses):
    """What every event queue adapter does; inherit it and say how to make one."""

    # How consumers, adapters and backends end.

    async def test_a_closed_consumer_gives_back(self) -> None:
        """What a consumer has not settled when it closes goes to others, with nothing counted."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(a, 5)
            ids = await self.publish(a, 3)
            await inbox.take(3)
            await inbox.close()
            await inbox.close()
            again = await self.consume(b, 5).take(3)
            assert [d.id for d in again] == ids
            assert {(d.attempt, d.deaths) for d in again} == {(1, 0)}

    async def test_a_closed_consumer_is_not_called(self) -> None:
        """No receiver is called once `close` has begun; another on the channel gets all."""
        async with self.adapters(1) as (a,):
            inbox = self.consume(a, 100)

            async def publish_on_and_on() -> None:
                for _ in range(50):
                    await self.publish(a, 1)
                    await asyncio.sleep(self.tick / 25)

            publishing = asyncio.create_task(publish_on_and_on())
            await inbox.take(10)
            await inbox.close()
            await publishing
            assert len({d.id for d in await self.consume(a, 50).take(50)}) == 50

    async def test_closing_sends_settlements_first(self) -> None:
        """What was settled before a `close` stays settled."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(a, 10)
            await self.publish(a, 10)
            taken = await inbox.take(10)
            for delivery in taken[:6]:
                inbox.consumer.ack(delivery)
            for delivery in taken[6:]:
                inbox.consumer.bury(delivery, error="E")
            await inbox.close()
            await self.counts(b, dead=4)

    async def test_a_closed_adapter_gives_back(self) -> None:
        """`close` of the adapter closes its consumers."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(a, 5)
            ids = await self.publish(a, 3)
            await inbox.take(3)
            inbox.closed = True
            await a.close()
            assert [d.id for d in await self.consume(b, 5).take(3)] == ids

    async def test_a_closed_adapter_refuses(self) -> None:
        """Calls after `close` raise NotOpenError; `close` again, or unopened, does nothing."""
        async with self.adapters(1) as (a,):
            await a.close()
            await a.close()
            for call, *arguments in (
                (a.publish, "1", b""),
                (a.stats,),
                (a.dead_letters, 1),
                (a.requeue, "1"),
                (a.purge,),
            ):
                with pytest.raises(NotOpenError):
                    await call(self.channel, *arguments)
            with pytest.raises(NotOpenError):
                a.consume(self.channel, Inbox())
        await self.make_adapter().close()

    async def test_a_publish_that_is_pending_at_close(self) -> None:
        """A publish that is pending when `close` begins is queued, or raises NotOpenError."""
        async with self.adapters(2) as (a, b):
            pending = [asyncio.create_task(self.publish(a, 20)) for _ in range(10)]
            await asyncio.sleep(0)
            await a.close()
            results = await asyncio.gather(*pending, return_exceptions=True)
            assert all(isinstance(r, NotOpenError | list) for r in results), results
            assert (await b.stats(self.channel)).ready >= sum(
                len(r) for r in results if isinstance(r, list)
            )

    async def test_cancelled_publishes_disturb_nobody(self) -> None:
        """A cancelled publish is queued or not, at most once; others go on."""
        async with self.adapters(1) as (a,):
            for steps in range(10):
                publishing = asyncio.create_task(a.publish(self.channel, f"c{steps}", b""))
                for _ in range(steps):
                    await asyncio.sleep(0)
                publishing.cancel()
                await asyncio.wait({publishing})
            ids = await self.publish(a, 1)
            inbox = self.consume(a, 20)
            await eventually(lambda: ids[0] in [d.id for d in inbox.received])
            received = [d.id for d in inbox.received]
            assert len(received) == len(set(received))

    async def test_a_dead_consumer_counts(self) -> None:
        """COUNTED: the deliveries of a process that died go to others, with a death each."""
        async with self.adapters(2) as (a, b):
            self.need(a, Guarantee.COUNTED)
            inbox = self.consume(a, 2)
            ids = await self.publish(a, 2)
            await inbox.take(2)
            inbox.closed = True
            await self.kill(a)
            again = await self.consume(b, 5).take(2, within=self.patience)
            assert [d.id for d in again] == ids
            assert {(d.attempt, d.deaths) for d in again} == {(1, 1)}

    async def test_a_cut_connection_comes_back(self) -> None:
        """After a lost connection consumers and their credit come back by themselves."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(a, 5)
            await self.publish(a, 1)
            inbox.consumer.ack(*await inbox.take())
            await self.counts(b)
            await self.cut(a)
            ids = await self.publish(b, 2)
            assert [d.id for d in await inbox.take(2, within=self.patience)] == ids

    async def test_confirmed_messages_survive(self) -> None:
        """PERSISTENT or DURABLE: what was confirmed, and not acknowledged, survives a restart."""
        async with self.adapters(1) as (a,):
            if not a.guarantees & {Guarantee.PERSISTENT, Guarantee.DURABLE}:
                pytest.skip("the adapter declares neither PERSISTENT nor DURABLE")
            inbox = self.consume(a, 2)
            ids = await self.publish(a, 20)
            acknowledged, buried = await inbox.take(2)
            inbox.consumer.ack(acknowledged)
            inbox.consumer.bury(buried, error="E")
            await self.counts(a, ready=18, dead=1)
        await self.restart()
        async with self.adapters(1) as (a,):
            again = await self.consume(a, 50).take(18, within=self.patience)
            assert [d.id for d in again] == ids[2:]
            assert [d.id for d in await a.dead_letters(self.channel, 5)] == [buried.id]
