"""The clauses of the event queue suite about publishing, delivering and credit."""

from __future__ import annotations

import asyncio

from ..adapters import Guarantee
from .event_queue_clauses import EventQueueClauses
from .waiting import eventually


class DeliveryClauses(EventQueueClauses):
    """How messages come to consumers."""

    # Publishing and delivering.

    async def test_a_message_is_delivered(self) -> None:
        """A message arrives as it was published: id, payload, attempt 1, no deaths, its time."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(b, 1)
            before = self.clock.time()
            assert await a.publish(self.channel, "the-id", b"payload") == "the-id"
            (delivery,) = await inbox.take()
            assert (delivery.id, delivery.payload) == ("the-id", b"payload")
            assert (delivery.attempt, delivery.deaths) == (1, 0)
            assert before - 5 <= delivery.published_at <= self.clock.time() + 5

    async def test_messages_wait_for_the_first_consumer(self) -> None:
        """What is published before anyone consumes is delivered to the first who does."""
        async with self.adapters(2) as (a, b):
            ids = await self.publish(a, 3)
            assert [d.id for d in await self.consume(b, 10).take(3)] == ids

    async def test_any_bytes_are_a_payload(self) -> None:
        """Payloads are opaque: empty ones, every byte, a megabyte."""
        async with self.adapters(1) as (a,):
            payloads = [b"", bytes(range(256)), b"\x00", b"\xff" * 1_000_000]
            inbox = self.consume(a, len(payloads))
            for payload in payloads:
                await a.publish(self.channel, next(self._ids), payload)
            assert [d.payload for d in await inbox.take(len(payloads))] == payloads

    async def test_channels_are_independent(self) -> None:
        """Channels are matched exactly, however alike their names are."""
        async with self.adapters(1) as (a,):
            inbox = self.consume(a, 10)
            for other in ("/", "/x", "x", "%2F", "é", "*", ".", " "):
                await a.publish(self.channel + other, next(self._ids), b"")
                assert (await a.stats(self.channel + other)).ready == 1
            await a.publish(self.channel[:-1], next(self._ids), b"")
            ids = await self.publish(a, 1)
            assert [d.id for d in await inbox.take()] == ids
            await self.nothing_more(inbox)
            for other in ("/", "/x", "x", "%2F", "é", "*", ".", " "):
                assert await a.purge(self.channel + other) == 1
            assert await a.purge(self.channel[:-1]) == 1

    async def test_messages_come_in_order(self) -> None:
        """One consumer gets messages in the order in which they were published."""
        async with self.adapters(2) as (a, b):
            inbox = self.consume(b, 7)
            published = asyncio.create_task(self.publish(a, 200))
            received = []
            for _ in range(200):
                (delivery,) = await inbox.take()
                received.append(delivery.id)
                inbox.consumer.ack(delivery)
                inbox.grant(1)
            assert received == await published

    async def test_many_publishes_at_once(self) -> None:
        """Overlapping publishes are all queued, and each message goes to exactly one consumer."""
        async with self.adapters(3) as (a, b, c):
            inboxes = [self.consume(adapter, 5) for adapter in (a, b, c)]
            async with asyncio.TaskGroup() as tasks:
                for _ in range(10):
                    tasks.create_task(self.publish(a, 15))
                    tasks.create_task(self.publish(b, 15))
            settled = 0
            while settled < 300:
                await eventually(lambda: any(inbox.unread for inbox in inboxes))
                for inbox in inboxes:
                    for delivery in await inbox.take(inbox.unread):
                        inbox.consumer.ack(delivery)
                        inbox.grant(1)
                        settled += 1
            ids = [d.id for inbox in inboxes for d in inbox.received]
            assert len(ids) == len(set(ids)) == 300
            await self.counts(a)

    async def test_consumers_take_turns(self) -> None:
        """While several consumers have credit, none is left out."""
        async with self.adapters(2) as (a, b):
            inboxes = [self.consume(a, 50), self.consume(b, 50)]
            await asyncio.sleep(self.tick)
            await self.publish(a, 40)
            await eventually(lambda: sum(len(inbox.received) for inbox in inboxes) == 40)
            assert min(len(inbox.received) for inbox in inboxes) >= 5

    # Credit.

    async def test_nothing_comes_without_credit(self) -> None:
        """A consumer begins with no credit and is given nothing until it grants some."""
        async with self.adapters(1) as (a,):
            inbox = self.consume(a, 0)
            await self.publish(a, 3)
            await self.nothing_more(inbox)
            inbox.grant(2)
            await inbox.take(2)
            await self.nothing_more(inbox)

    async def test_credit_adds_up(self) -> None:
        """Each grant comes on top of what is left, and lasts until it is used up."""
        async with self.adapters(1) as (a,):
            inbox = self.consume(a, 1)
            inbox.grant(2)
            await self.publish(a, 2)
            await inbox.take(2)
            inbox.grant(1)
            await self.publish(a, 4)
            await inbox.take(2)
            await self.nothing_more(inbox)

    async def test_revoked_credit_is_gone(self) -> None:
        """After `revoke` nothing is sent until more is granted."""
        async with self.adapters(1) as (a,):
            inbox = self.consume(a, 5)
            inbox.consumer.revoke()
            await asyncio.sleep(self.tick)
            ids = await self.publish(a, 3)
            await self.nothing_more(inbox)
            inbox.grant(1)
            assert [d.id for d in await inbox.take()] == ids[:1]
            await self.nothing_more(inbox)

    # Delay and deduplication.

    async def test_delayed_messages_wait(self) -> None:
        """DELAYED: a message is not delivered before its delay is over; others are."""
        async with self.adapters(2) as (a, b):
            self.need(a, Guarantee.DELAYED)
            inbox = self.consume(b, 5)
            before = self.clock.monotonic()
            await a.publish(self.channel, "late", b"", delay=self.delay)
            await a.publish(self.channel, "later", b"", delay=2 * self.delay)
            ids = await self.publish(a, 1)
            assert [d.id for d in await inbox.take()] == ids
            assert [d.id for d in await inbox.take()] == ["late"]
            assert self.clock.monotonic() - before >= self.delay * 0.99
            assert [d.id for d in await inbox.take()] == ["later"]
            assert self.clock.monotonic() - before >= 2 * self.delay * 0.99

    async def test_duplicates_are_dropped(self) -> None:
        """DEDUPLICATED: a second message with a `dedup_id` is not queued; the first id returns."""
        async with self.adapters(2) as (a, b):
            self.need(a, Guarantee.DEDUPLICATED)
            assert await a.publish(self.channel, "1", b"", dedup_id="x") == "1"
            assert await b.publish(self.channel, "2", b"", dedup_id="x") == "1"
            assert await b.publish(self.channel, "3", b"", dedup_id="y") == "3"
            inbox = self.consume(a, 5)
            assert [d.id for d in await inbox.take(2)] == ["1", "3"]
            assert await b.publish(self.channel, "4", b"", dedup_id="x") == "1"
            for delivery in inbox.received:
                inbox.consumer.ack(delivery)
            await self.counts(b)
            assert await b.publish(self.channel, "5", b"", dedup_id="x") == "1"
            await self.nothing_more(inbox)

    async def test_duplicates_are_told_by_channel(self) -> None:
        """DEDUPLICATED: one `dedup_id` on two channels is two messages."""
        async with self.adapters(1) as (a,):
            self.need(a, Guarantee.DEDUPLICATED)
            assert await a.publish(self.channel, "1", b"", dedup_id="x") == "1"
            assert await a.publish(self.channel + "2", "2", b"", dedup_id="x") == "2"
            assert await a.purge(self.channel + "2") == 1
