"""The clauses of the event queue suite about settling, counting and dead letters."""

from __future__ import annotations

import asyncio

import pytest

from ..adapters import Guarantee, QueueStats
from ..errors import BackendRefused
from .event_queue_deliveries import DeliveryClauses


class SettlementClauses(DeliveryClauses):
    """What becomes of messages that were delivered."""

    # Settling.

    async def test_acknowledged_messages_are_gone(self) -> None:
        """After `ack` the message is not counted, and comes to nobody any more."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(a, 1)
            await self.publish(a, 1)
            inbox.consumer.ack(*await inbox.take())
            await self.counts(b)
            await inbox.close()
            await self.nothing_more(self.consume(b, 5))

    async def test_released_messages_come_back(self) -> None:
        """A message given back unstarted comes again at once, with nothing counted."""
        async with self.adapters(2) as (a, b):
            inbox, other = self.consume(a, 1), self.consume(b, 0)
            await self.publish(a, 1)
            (first,) = await inbox.take()
            other.grant(1)
            inbox.consumer.release(first, started=False)
            (second,) = await other.take()
            assert (second.id, second.payload) == (first.id, first.payload)
            assert (second.attempt, second.deaths) == (1, 0)
            assert second.published_at == pytest.approx(first.published_at, abs=0.001)

    async def test_released_messages_keep_their_place(self) -> None:
        """Messages given back, in whatever order, come before those published after them."""
        async with self.adapters(1) as (a,):
            inbox = self.consume(a, 4)
            ids = await self.publish(a, 8)
            taken = await inbox.take(4)
            for index in (2, 0, 3, 1):
                inbox.consumer.release(taken[index], started=False)
            inbox.grant(8)
            assert [d.id for d in await inbox.take(8)] == ids

    async def test_released_work_counts_as_a_death(self) -> None:
        """COUNTED: each delivery given back after work had begun adds a death, and no attempt."""
        async with self.adapters(2) as (a, b):
            self.need(a, Guarantee.COUNTED)
            await self.publish(a, 1)
            inboxes = [self.consume(adapter, 0) for adapter in (a, b)]
            for deaths in range(4):
                inbox = inboxes[deaths % 2]
                inbox.grant(1)
                (delivery,) = await inbox.take()
                assert (delivery.attempt, delivery.deaths) == (1, deaths)
                inbox.consumer.release(delivery, started=True)

    async def test_a_retry_comes_after_its_delay(self) -> None:
        """DELAYED, COUNTED: a retry comes after its delay, with its id, as the next attempt."""
        async with self.adapters(2) as (a, b):
            self.need(a, Guarantee.DELAYED, Guarantee.COUNTED)
            inbox, other = self.consume(a, 1), self.consume(b, 0)
            await self.publish(a, 1)
            (first,) = await inbox.take()
            before = self.clock.monotonic()
            inbox.consumer.retry(first, delay=self.delay, error="ValueError: no")
            await self.counts(a, delayed=1)
            other.grant(1)
            (second,) = await other.take()
            assert self.clock.monotonic() - before >= self.delay * 0.99
            assert (second.id, second.attempt, second.deaths) == (first.id, 2, 0)
            assert second.payload == first.payload

    async def test_a_retry_without_delay_comes_at_once(self) -> None:
        """COUNTED: a retry after 0 seconds is deliverable at once."""
        async with self.adapters(1) as (a,):
            self.need(a, Guarantee.COUNTED)
            inbox = self.consume(a, 5)
            await self.publish(a, 1)
            for attempt in (1, 2, 3):
                (delivery,) = await inbox.take()
                assert delivery.attempt == attempt
                inbox.consumer.retry(delivery, delay=0.0, error="ValueError: no")

    async def test_a_retry_forgets_deaths(self) -> None:
        """COUNTED: deaths are counted in a row; a retry starts the count again."""
        async with self.adapters(1) as (a,):
            self.need(a, Guarantee.COUNTED)
            inbox = self.consume(a, 4)
            await self.publish(a, 1)
            inbox.consumer.release(*await inbox.take(), started=True)
            (delivery,) = await inbox.take()
            assert delivery.deaths == 1
            inbox.consumer.retry(delivery, delay=0.0, error="")
            (delivery,) = await inbox.take()
            assert (delivery.attempt, delivery.deaths) == (2, 0)

    async def test_a_waiting_retry_holds_up_nobody(self) -> None:
        """DELAYED: while one message waits for its retry, others are delivered."""
        async with self.adapters(1) as (a,):
            self.need(a, Guarantee.DELAYED)
            inbox = self.consume(a, 1)
            ids = await self.publish(a, 3)
            inbox.consumer.retry(*await inbox.take(), delay=20 * self.delay, error="")
            inbox.grant(2)
            assert [d.id for d in await inbox.take(2)] == ids[1:]

    async def test_settling_twice_is_ignored(self) -> None:
        """Only the first of several settlements of a delivery counts."""
        async with self.adapters(1) as (a,):
            inbox = self.consume(a, 5)
            await self.publish(a, 1)
            (delivery,) = await inbox.take()
            inbox.consumer.ack(delivery)
            inbox.consumer.release(delivery, started=True)
            inbox.consumer.retry(delivery, delay=0.0, error="")
            inbox.consumer.bury(delivery, error="")
            inbox.consumer.ack(delivery)
            await self.counts(a)
            await self.nothing_more(inbox)

    async def test_a_message_is_counted_where_it_is(self) -> None:
        """`stats` tells ready, delayed, in flight and dead apart; a new channel has none."""
        async with self.adapters(2) as (a, b):
            assert await b.stats(self.channel) == QueueStats(0, 0, 0, 0)
            self.need(a, Guarantee.DELAYED)
            inbox = self.consume(a, 2)
            await self.publish(a, 5)
            await a.publish(self.channel, next(self._ids), b"", delay=600)
            first, _ = await inbox.take(2)
            inbox.consumer.bury(first, error="E")
            await self.counts(b, ready=3, delayed=1, in_flight=1, dead=1)

    # Dead letters.

    async def test_buried_messages_are_kept(self) -> None:
        """A dead letter is kept with its payload, error, attempts and time; it is not delivered."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(a, 5)
            await a.publish(self.channel, "dies", b"payload")
            inbox.consumer.retry(*await inbox.take(), delay=0.0, error="ValueError: first")
            inbox.consumer.bury(*await inbox.take(), error="ValueError: é last")
            await self.counts(b, dead=1)
            (dead,) = await b.dead_letters(self.channel, 10)
            assert (dead.id, dead.payload, dead.error) == ("dies", b"payload", "ValueError: é last")
            assert dead.attempts == (2 if Guarantee.COUNTED in a.guarantees else dead.attempts)
            assert abs(dead.died_at - self.clock.time()) < 60
            await self.nothing_more(inbox)

    async def test_dead_letters_come_oldest_first(self) -> None:
        """`dead_letters` returns the oldest first, at most as many as were asked for."""
        async with self.adapters(1) as (a,):
            assert await a.dead_letters(self.channel, 10) == []
            ids = await self.bury(a, 5)
            assert [dead.id for dead in await a.dead_letters(self.channel, 3)] == ids[:3]
            assert [dead.id for dead in await a.dead_letters(self.channel, 10)] == ids

    async def test_requeued_messages_are_ordinary(self) -> None:
        """A requeued dead letter is the last in order, at attempt 1, and no dead letter."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(a, 2)
            await self.publish(a, 1)
            inbox.consumer.retry(*await inbox.take(), delay=0.0, error="")
            (delivery,) = await inbox.take()
            inbox.consumer.bury(delivery, error="E")
            await self.counts(b, dead=1)
            ids = await self.publish(b, 1)
            await b.requeue(self.channel, delivery.id)
            assert await b.dead_letters(self.channel, 10) == []
            inbox.grant(2)
            first, second = await inbox.take(2)
            assert [first.id, second.id] == [*ids, delivery.id]
            assert (second.payload, second.attempt, second.deaths) == (delivery.payload, 1, 0)

    async def test_an_unknown_dead_letter_cannot_be_requeued(self) -> None:
        """`requeue` of what is no dead letter raises BackendRefused and changes nothing."""
        async with self.adapters(1) as (a,):
            with pytest.raises(BackendRefused):
                await a.requeue(self.channel, "unknown")
            (alive,) = await self.publish(a, 1)
            with pytest.raises(BackendRefused):
                await a.requeue(self.channel, alive)
            await self.counts(a, ready=1)

    async def test_purging(self) -> None:
        """`purge` removes what is ready, delayed or dead, and leaves what is in flight."""
        async with self.adapters(2) as (a, b):
            self.need(a, Guarantee.DELAYED)
            await self.bury(a, 2)
            inbox = self.consume(a, 1)
            await self.publish(a, 4)
            (delivery,) = await inbox.take()
            await a.publish(self.channel, next(self._ids), b"", delay=self.delay)
            assert await b.purge(self.channel) == 3 + 1 + 2
            await self.counts(a, in_flight=1)
            inbox.grant(5)
            await asyncio.sleep(2 * self.delay)
            await self.nothing_more(inbox)
            inbox.consumer.release(delivery, started=False)
            assert (await inbox.take())[0].id == delivery.id
            assert await b.purge(self.channel) == 0
