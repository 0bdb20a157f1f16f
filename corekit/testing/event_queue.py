"""The suite for event queue adapters: each test is one clause of `corekit.adapters.event_queue`.

class TestMine(EventQueueSuite):
    def make_adapter(self) -> EventQueueAdapter:
        return my_queue(BackendURL.parse("mine://localhost"), make_context(clock=self.clock))
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ..adapters import Consumer, Delivery, EventQueueAdapter, Guarantee, QueueStats
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import BackendRefused, NotOpenError
from .clock import VirtualClock
from .waiting import eventually


class Inbox:
    """A receiver that keeps what it gets, and notes what an adapter must not do."""

    def __init__(self) -> None:
        self.received: list[Delivery] = []
        self.late: list[Delivery] = []
        #: What was wrong; an error raised to the adapter would be seen by nobody.
        self.faults: list[str] = []
        self.closed = False
        self._granted = 0
        self._read = 0
        self.adapter: EventQueueAdapter
        self.consumer: Consumer

    def deliveries(self, batch: Sequence[Delivery]) -> None:
        if self.closed:
            self.faults.append("the receiver was called after close had begun")
        self.received += batch
        if len(self.received) > self._granted:
            self.faults.append("more was delivered than was granted")

    def expired(self, delivery: Delivery) -> None:
        if self.closed:
            self.faults.append("the receiver was called after close had begun")
        self.late.append(delivery)

    @property
    def unread(self) -> int:
        """How many deliveries have not been taken."""
        return len(self.received) - self._read

    def grant(self, credit: int) -> None:
        """Grant *credit*, and remember it."""
        self._granted += credit
        self.consumer.grant(credit)

    async def take(self, count: int = 1, *, within: float = 10.0) -> list[Delivery]:
        """Wait for the next *count* deliveries and return them."""
        self._read += count
        await eventually(lambda: len(self.received) >= self._read, within=within)
        return self.received[self._read - count : self._read]

    async def close(self) -> None:
        """Close the consumer; whatever comes after that is a fault."""
        self.closed = True
        await self.consumer.close()


class EventQueueSuite:
    """What every event queue adapter does; inherit it and say how to make one.

    The clauses take real time, unless `virtual` says that the adapter lives in this process and
    goes by the clock in its context only.
    """

    virtual = False
    """Whether to run in virtual time; `self.clock` must then be handed to the adapter."""

    tick = 0.05
    """Longer than one call to the backend and the way back take, in seconds."""

    delay = 0.5
    """How long messages are held back, in seconds: several ticks, and more than is rounded away."""

    patience = 30.0
    """How long a death may go unnoticed, in seconds: more than the backend's session time-out."""

    clock: Clock

    def make_adapter(self) -> EventQueueAdapter:
        """Return a new adapter, not opened; each one plays a process of its own."""
        raise NotImplementedError

    async def kill(self, adapter: EventQueueAdapter) -> None:
        """Let the process that *adapter* plays die without a word."""
        pytest.skip("the suite is not told how to kill an adapter")

    async def cut(self, adapter: EventQueueAdapter) -> None:
        """Cut the connection of *adapter*, for a moment."""
        pytest.skip("the suite is not told how to cut a connection")

    async def restart(self) -> None:
        """Kill the backend and start it again on what it kept."""
        pytest.skip("the suite is not told how to restart the backend")

    @pytest.fixture(name="clock")
    def clock_of_the_test(self) -> Clock:
        """Return the clock that the test runs on."""
        return VirtualClock() if self.virtual else SYSTEM_CLOCK

    @pytest.fixture(autouse=True)
    def prepare(self, clock: Clock) -> None:
        """Give every test its clock and a channel that no other test uses."""
        self.begin(clock)

    def begin(self, clock: Clock) -> None:
        """Begin a test that runs on *clock*."""
        self.clock = clock
        self.channel = f"suite/queue/{secrets.token_hex(8)}"
        self._ids = map(f"{secrets.token_hex(4)}-{{}}".format, itertools.count())

    # -- publishing and delivering --

    async def test_a_message_is_delivered(self) -> None:
        """A message arrives as it was published: id, payload, attempt 1, no deaths, its time."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(b, 1)
            before = self.clock.time()
            assert await a.publish(self.channel, "the-id", b"payload") == "the-id"
            (delivery,) = await inbox.take()
            assert (delivery.id, delivery.payload) == ("the-id", b"payload")
            assert (delivery.attempt, delivery.deaths) == (1, 0)
            assert before - 5 <= delivery.published_at <= self.clock.time() + 5

    async def test_messages_wait_for_the_first_consumer(self) -> None:
        """What is published before anyone consumes is delivered to the first who does."""
        async with self._adapters(2) as (a, b):
            ids = await self._publish(a, 3)
            assert [d.id for d in await self._consume(b, 10).take(3)] == ids

    async def test_any_bytes_are_a_payload(self) -> None:
        """Payloads are opaque: empty ones, every byte, a megabyte."""
        async with self._adapters(1) as (a,):
            payloads = [b"", bytes(range(256)), b"\x00", b"\xff" * 1_000_000]
            inbox = self._consume(a, len(payloads))
            for payload in payloads:
                await a.publish(self.channel, next(self._ids), payload)
            assert [d.payload for d in await inbox.take(len(payloads))] == payloads

    async def test_channels_are_independent(self) -> None:
        """Channels are matched exactly, however alike their names are."""
        async with self._adapters(1) as (a,):
            inbox = self._consume(a, 10)
            for other in ("/", "/x", "x", "%2F", "é", "*", ".", " "):
                await a.publish(self.channel + other, next(self._ids), b"")
                assert (await a.stats(self.channel + other)).ready == 1
            await a.publish(self.channel[:-1], next(self._ids), b"")
            ids = await self._publish(a, 1)
            assert [d.id for d in await inbox.take()] == ids
            await self._nothing_more(inbox)
            for other in ("/", "/x", "x", "%2F", "é", "*", ".", " "):
                assert await a.purge(self.channel + other) == 1
            assert await a.purge(self.channel[:-1]) == 1

    async def test_messages_come_in_order(self) -> None:
        """One consumer gets messages in the order in which they were published."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(b, 7)
            published = asyncio.create_task(self._publish(a, 200))
            received = []
            for _ in range(200):
                (delivery,) = await inbox.take()
                received.append(delivery.id)
                inbox.consumer.ack(delivery)
                inbox.grant(1)
            assert received == await published

    async def test_many_publishes_at_once(self) -> None:
        """Overlapping publishes are all queued, and each message goes to exactly one consumer."""
        async with self._adapters(3) as (a, b, c):
            inboxes = [self._consume(adapter, 5) for adapter in (a, b, c)]
            async with asyncio.TaskGroup() as tasks:
                for _ in range(10):
                    tasks.create_task(self._publish(a, 15))
                    tasks.create_task(self._publish(b, 15))
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
            await self._counts(a)

    async def test_consumers_take_turns(self) -> None:
        """While several consumers have credit, none is left out."""
        async with self._adapters(2) as (a, b):
            inboxes = [self._consume(a, 50), self._consume(b, 50)]
            await asyncio.sleep(self.tick)
            await self._publish(a, 40)
            await eventually(lambda: sum(len(inbox.received) for inbox in inboxes) == 40)
            assert min(len(inbox.received) for inbox in inboxes) >= 5

    # -- credit --

    async def test_nothing_comes_without_credit(self) -> None:
        """A consumer begins with no credit and is given nothing until it grants some."""
        async with self._adapters(1) as (a,):
            inbox = self._consume(a, 0)
            await self._publish(a, 3)
            await self._nothing_more(inbox)
            inbox.grant(2)
            await inbox.take(2)
            await self._nothing_more(inbox)

    async def test_credit_adds_up(self) -> None:
        """Each grant comes on top of what is left, and lasts until it is used up."""
        async with self._adapters(1) as (a,):
            inbox = self._consume(a, 1)
            inbox.grant(2)
            await self._publish(a, 2)
            await inbox.take(2)
            inbox.grant(1)
            await self._publish(a, 4)
            await inbox.take(2)
            await self._nothing_more(inbox)

    async def test_revoked_credit_is_gone(self) -> None:
        """After `revoke` nothing is sent until more is granted."""
        async with self._adapters(1) as (a,):
            inbox = self._consume(a, 5)
            inbox.consumer.revoke()
            await asyncio.sleep(self.tick)
            ids = await self._publish(a, 3)
            await self._nothing_more(inbox)
            inbox.grant(1)
            assert [d.id for d in await inbox.take()] == ids[:1]
            await self._nothing_more(inbox)

    # -- settling --

    async def test_acknowledged_messages_are_gone(self) -> None:
        """After `ack` the message is not counted, and comes to nobody any more."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(a, 1)
            await self._publish(a, 1)
            inbox.consumer.ack(*await inbox.take())
            await self._counts(b)
            await inbox.close()
            await self._nothing_more(self._consume(b, 5))

    async def test_released_messages_come_back(self) -> None:
        """A message given back unstarted comes again at once, with nothing counted."""
        async with self._adapters(2) as (a, b):
            inbox, other = self._consume(a, 1), self._consume(b, 0)
            await self._publish(a, 1)
            (first,) = await inbox.take()
            other.grant(1)
            inbox.consumer.release(first, started=False)
            (second,) = await other.take()
            assert (second.id, second.payload) == (first.id, first.payload)
            assert (second.attempt, second.deaths) == (1, 0)
            assert second.published_at == pytest.approx(first.published_at, abs=0.001)

    async def test_released_messages_keep_their_place(self) -> None:
        """Messages given back, in whatever order, come before those published after them."""
        async with self._adapters(1) as (a,):
            inbox = self._consume(a, 4)
            ids = await self._publish(a, 8)
            taken = await inbox.take(4)
            for index in (2, 0, 3, 1):
                inbox.consumer.release(taken[index], started=False)
            inbox.grant(8)
            assert [d.id for d in await inbox.take(8)] == ids

    async def test_released_work_counts_as_a_death(self) -> None:
        """COUNTED: each delivery given back after work had begun adds a death, and no attempt."""
        async with self._adapters(2) as (a, b):
            self._need(a, Guarantee.COUNTED)
            await self._publish(a, 1)
            inboxes = [self._consume(adapter, 0) for adapter in (a, b)]
            for deaths in range(4):
                inbox = inboxes[deaths % 2]
                inbox.grant(1)
                (delivery,) = await inbox.take()
                assert (delivery.attempt, delivery.deaths) == (1, deaths)
                inbox.consumer.release(delivery, started=True)

    async def test_a_retry_comes_after_its_delay(self) -> None:
        """DELAYED, COUNTED: a retry comes after its delay, with its id, as the next attempt."""
        async with self._adapters(2) as (a, b):
            self._need(a, Guarantee.DELAYED, Guarantee.COUNTED)
            inbox, other = self._consume(a, 1), self._consume(b, 0)
            await self._publish(a, 1)
            (first,) = await inbox.take()
            before = self.clock.monotonic()
            inbox.consumer.retry(first, delay=self.delay, error="ValueError: no")
            await self._counts(a, delayed=1)
            other.grant(1)
            (second,) = await other.take()
            assert self.clock.monotonic() - before >= self.delay * 0.99
            assert (second.id, second.attempt, second.deaths) == (first.id, 2, 0)
            assert second.payload == first.payload

    async def test_a_retry_without_delay_comes_at_once(self) -> None:
        """COUNTED: a retry after 0 seconds is deliverable at once."""
        async with self._adapters(1) as (a,):
            self._need(a, Guarantee.COUNTED)
            inbox = self._consume(a, 5)
            await self._publish(a, 1)
            for attempt in (1, 2, 3):
                (delivery,) = await inbox.take()
                assert delivery.attempt == attempt
                inbox.consumer.retry(delivery, delay=0.0, error="ValueError: no")

    async def test_a_retry_forgets_deaths(self) -> None:
        """COUNTED: deaths are counted in a row; a retry starts the count again."""
        async with self._adapters(1) as (a,):
            self._need(a, Guarantee.COUNTED)
            inbox = self._consume(a, 4)
            await self._publish(a, 1)
            inbox.consumer.release(*await inbox.take(), started=True)
            (delivery,) = await inbox.take()
            assert delivery.deaths == 1
            inbox.consumer.retry(delivery, delay=0.0, error="")
            (delivery,) = await inbox.take()
            assert (delivery.attempt, delivery.deaths) == (2, 0)

    async def test_a_waiting_retry_holds_up_nobody(self) -> None:
        """DELAYED: while one message waits for its retry, others are delivered."""
        async with self._adapters(1) as (a,):
            self._need(a, Guarantee.DELAYED)
            inbox = self._consume(a, 1)
            ids = await self._publish(a, 3)
            inbox.consumer.retry(*await inbox.take(), delay=20 * self.delay, error="")
            inbox.grant(2)
            assert [d.id for d in await inbox.take(2)] == ids[1:]

    async def test_settling_twice_is_ignored(self) -> None:
        """Only the first of several settlements of a delivery counts."""
        async with self._adapters(1) as (a,):
            inbox = self._consume(a, 5)
            await self._publish(a, 1)
            (delivery,) = await inbox.take()
            inbox.consumer.ack(delivery)
            inbox.consumer.release(delivery, started=True)
            inbox.consumer.retry(delivery, delay=0.0, error="")
            inbox.consumer.bury(delivery, error="")
            inbox.consumer.ack(delivery)
            await self._counts(a)
            await self._nothing_more(inbox)

    async def test_a_message_is_counted_where_it_is(self) -> None:
        """`stats` tells ready, delayed, in flight and dead apart; a new channel has none."""
        async with self._adapters(2) as (a, b):
            assert await b.stats(self.channel) == QueueStats(0, 0, 0, 0)
            self._need(a, Guarantee.DELAYED)
            inbox = self._consume(a, 2)
            await self._publish(a, 5)
            await a.publish(self.channel, next(self._ids), b"", delay=600)
            first, _ = await inbox.take(2)
            inbox.consumer.bury(first, error="E")
            await self._counts(b, ready=3, delayed=1, in_flight=1, dead=1)

    # -- dead letters --

    async def test_buried_messages_are_kept(self) -> None:
        """A dead letter is kept with its payload, error, attempts and time; it is not delivered."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(a, 5)
            await a.publish(self.channel, "dies", b"payload")
            inbox.consumer.retry(*await inbox.take(), delay=0.0, error="ValueError: first")
            inbox.consumer.bury(*await inbox.take(), error="ValueError: é last")
            await self._counts(b, dead=1)
            (dead,) = await b.dead_letters(self.channel, 10)
            assert (dead.id, dead.payload, dead.error) == ("dies", b"payload", "ValueError: é last")
            assert dead.attempts == (2 if Guarantee.COUNTED in a.guarantees else dead.attempts)
            assert abs(dead.died_at - self.clock.time()) < 60
            await self._nothing_more(inbox)

    async def test_dead_letters_come_oldest_first(self) -> None:
        """`dead_letters` returns the oldest first, at most as many as were asked for."""
        async with self._adapters(1) as (a,):
            assert await a.dead_letters(self.channel, 10) == []
            ids = await self._bury(a, 5)
            assert [dead.id for dead in await a.dead_letters(self.channel, 3)] == ids[:3]
            assert [dead.id for dead in await a.dead_letters(self.channel, 10)] == ids

    async def test_requeued_messages_are_ordinary(self) -> None:
        """A requeued dead letter is the last in order, at attempt 1, and no dead letter."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(a, 2)
            await self._publish(a, 1)
            inbox.consumer.retry(*await inbox.take(), delay=0.0, error="")
            (delivery,) = await inbox.take()
            inbox.consumer.bury(delivery, error="E")
            await self._counts(b, dead=1)
            ids = await self._publish(b, 1)
            await b.requeue(self.channel, delivery.id)
            assert await b.dead_letters(self.channel, 10) == []
            inbox.grant(2)
            first, second = await inbox.take(2)
            assert [first.id, second.id] == [*ids, delivery.id]
            assert (second.payload, second.attempt, second.deaths) == (delivery.payload, 1, 0)

    async def test_an_unknown_dead_letter_cannot_be_requeued(self) -> None:
        """`requeue` of what is no dead letter raises BackendRefused and changes nothing."""
        async with self._adapters(1) as (a,):
            with pytest.raises(BackendRefused):
                await a.requeue(self.channel, "unknown")
            (alive,) = await self._publish(a, 1)
            with pytest.raises(BackendRefused):
                await a.requeue(self.channel, alive)
            await self._counts(a, ready=1)

    async def test_purging(self) -> None:
        """`purge` removes what is ready, delayed or dead, and leaves what is in flight."""
        async with self._adapters(2) as (a, b):
            self._need(a, Guarantee.DELAYED)
            await self._bury(a, 2)
            inbox = self._consume(a, 1)
            await self._publish(a, 4)
            (delivery,) = await inbox.take()
            await a.publish(self.channel, next(self._ids), b"", delay=self.delay)
            assert await b.purge(self.channel) == 3 + 1 + 2
            await self._counts(a, in_flight=1)
            inbox.grant(5)
            await asyncio.sleep(2 * self.delay)
            await self._nothing_more(inbox)
            inbox.consumer.release(delivery, started=False)
            assert (await inbox.take())[0].id == delivery.id
            assert await b.purge(self.channel) == 0

    # -- delay and deduplication --

    async def test_delayed_messages_wait(self) -> None:
        """DELAYED: a message is not delivered before its delay is over; others are."""
        async with self._adapters(2) as (a, b):
            self._need(a, Guarantee.DELAYED)
            inbox = self._consume(b, 5)
            before = self.clock.monotonic()
            await a.publish(self.channel, "late", b"", delay=self.delay)
            await a.publish(self.channel, "later", b"", delay=2 * self.delay)
            ids = await self._publish(a, 1)
            assert [d.id for d in await inbox.take()] == ids
            assert [d.id for d in await inbox.take()] == ["late"]
            assert self.clock.monotonic() - before >= self.delay * 0.99
            assert [d.id for d in await inbox.take()] == ["later"]
            assert self.clock.monotonic() - before >= 2 * self.delay * 0.99

    async def test_duplicates_are_dropped(self) -> None:
        """DEDUPLICATED: a second message with a `dedup_id` is not queued; the first id returns."""
        async with self._adapters(2) as (a, b):
            self._need(a, Guarantee.DEDUPLICATED)
            assert await a.publish(self.channel, "1", b"", dedup_id="x") == "1"
            assert await b.publish(self.channel, "2", b"", dedup_id="x") == "1"
            assert await b.publish(self.channel, "3", b"", dedup_id="y") == "3"
            inbox = self._consume(a, 5)
            assert [d.id for d in await inbox.take(2)] == ["1", "3"]
            assert await b.publish(self.channel, "4", b"", dedup_id="x") == "1"
            for delivery in inbox.received:
                inbox.consumer.ack(delivery)
            await self._counts(b)
            assert await b.publish(self.channel, "5", b"", dedup_id="x") == "1"
            await self._nothing_more(inbox)

    async def test_duplicates_are_told_by_channel(self) -> None:
        """DEDUPLICATED: one `dedup_id` on two channels is two messages."""
        async with self._adapters(1) as (a,):
            self._need(a, Guarantee.DEDUPLICATED)
            assert await a.publish(self.channel, "1", b"", dedup_id="x") == "1"
            assert await a.publish(self.channel + "2", "2", b"", dedup_id="x") == "2"
            assert await a.purge(self.channel + "2") == 1

    # -- the end of consumers, adapters, backends --

    async def test_a_closed_consumer_gives_back(self) -> None:
        """What a consumer has not settled when it closes goes to others, with nothing counted."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(a, 5)
            ids = await self._publish(a, 3)
            await inbox.take(3)
            await inbox.close()
            await inbox.close()
            again = await self._consume(b, 5).take(3)
            assert [d.id for d in again] == ids
            assert {(d.attempt, d.deaths) for d in again} == {(1, 0)}

    async def test_a_closed_consumer_is_not_called(self) -> None:
        """No receiver is called once `close` has begun; another on the channel gets all."""
        async with self._adapters(1) as (a,):
            inbox = self._consume(a, 100)

            async def publish_on_and_on() -> None:
                for _ in range(50):
                    await self._publish(a, 1)
                    await asyncio.sleep(self.tick / 25)

            publishing = asyncio.create_task(publish_on_and_on())
            await inbox.take(10)
            await inbox.close()
            await publishing
            assert len({d.id for d in await self._consume(a, 50).take(50)}) == 50

    async def test_closing_sends_settlements_first(self) -> None:
        """What was settled before a `close` stays settled."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(a, 10)
            await self._publish(a, 10)
            taken = await inbox.take(10)
            for delivery in taken[:6]:
                inbox.consumer.ack(delivery)
            for delivery in taken[6:]:
                inbox.consumer.bury(delivery, error="E")
            await inbox.close()
            await self._counts(b, dead=4)

    async def test_a_closed_adapter_gives_back(self) -> None:
        """`close` of the adapter closes its consumers."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(a, 5)
            ids = await self._publish(a, 3)
            await inbox.take(3)
            inbox.closed = True
            await a.close()
            assert [d.id for d in await self._consume(b, 5).take(3)] == ids

    async def test_a_closed_adapter_refuses(self) -> None:
        """Calls after `close` raise NotOpenError; `close` again, or unopened, does nothing."""
        async with self._adapters(1) as (a,):
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
        async with self._adapters(2) as (a, b):
            pending = [asyncio.create_task(self._publish(a, 20)) for _ in range(10)]
            await asyncio.sleep(0)
            await a.close()
            results = await asyncio.gather(*pending, return_exceptions=True)
            assert all(isinstance(r, NotOpenError | list) for r in results), results
            assert (await b.stats(self.channel)).ready >= sum(
                len(r) for r in results if isinstance(r, list)
            )

    async def test_cancelled_publishes_disturb_nobody(self) -> None:
        """A cancelled publish is queued or not, at most once; others go on."""
        async with self._adapters(1) as (a,):
            for steps in range(10):
                publishing = asyncio.create_task(a.publish(self.channel, f"c{steps}", b""))
                for _ in range(steps):
                    await asyncio.sleep(0)
                publishing.cancel()
                await asyncio.wait({publishing})
            ids = await self._publish(a, 1)
            inbox = self._consume(a, 20)
            await eventually(lambda: ids[0] in [d.id for d in inbox.received])
            received = [d.id for d in inbox.received]
            assert len(received) == len(set(received))

    async def test_a_dead_consumer_counts(self) -> None:
        """COUNTED: the deliveries of a process that died go to others, with a death each."""
        async with self._adapters(2) as (a, b):
            self._need(a, Guarantee.COUNTED)
            inbox = self._consume(a, 2)
            ids = await self._publish(a, 2)
            await inbox.take(2)
            inbox.closed = True
            await self.kill(a)
            again = await self._consume(b, 5).take(2, within=self.patience)
            assert [d.id for d in again] == ids
            assert {(d.attempt, d.deaths) for d in again} == {(1, 1)}

    async def test_a_cut_connection_comes_back(self) -> None:
        """After a lost connection consumers and their credit come back by themselves."""
        async with self._adapters(2) as (a, b):
            inbox = self._consume(a, 5)
            await self._publish(a, 1)
            inbox.consumer.ack(*await inbox.take())
            await self._counts(b)
            await self.cut(a)
            ids = await self._publish(b, 2)
            assert [d.id for d in await inbox.take(2, within=self.patience)] == ids

    async def test_confirmed_messages_survive(self) -> None:
        """PERSISTENT or DURABLE: what was confirmed, and not acknowledged, survives a restart."""
        async with self._adapters(1) as (a,):
            if not a.guarantees & {Guarantee.PERSISTENT, Guarantee.DURABLE}:
                pytest.skip("the adapter does not promise: persistent, durable")
            inbox = self._consume(a, 2)
            ids = await self._publish(a, 20)
            acknowledged, buried = await inbox.take(2)
            inbox.consumer.ack(acknowledged)
            inbox.consumer.bury(buried, error="E")
            await self._counts(a, ready=18, dead=1)
        await self.restart()
        async with self._adapters(1) as (a,):
            again = await self._consume(a, 50).take(18, within=self.patience)
            assert [d.id for d in again] == ids[2:]
            assert [d.id for d in await a.dead_letters(self.channel, 5)] == [buried.id]

    # -- helpers --

    @asynccontextmanager
    async def _adapters(self, count: int) -> AsyncIterator[list[Any]]:
        adapters: list[EventQueueAdapter] = [self.make_adapter() for _ in range(count)]
        self._inboxes: list[Inbox] = []
        try:
            for adapter in adapters:
                await adapter.open()
            yield adapters
        finally:
            for adapter in adapters:
                # One by one: what the first gives back goes to the others.
                for inbox in self._inboxes:
                    inbox.closed = inbox.closed or inbox.adapter is adapter
                await adapter.close()
        assert [fault for inbox in self._inboxes for fault in inbox.faults] == []

    def _consume(self, adapter: EventQueueAdapter, credit: int) -> Inbox:
        inbox = Inbox()
        inbox.adapter = adapter
        inbox.consumer = adapter.consume(self.channel, inbox)
        self._inboxes.append(inbox)
        if credit:
            inbox.grant(credit)
        return inbox

    async def _publish(self, adapter: EventQueueAdapter, count: int) -> list[str]:
        ids = []
        for _ in range(count):
            id = next(self._ids)  # noqa: A001 - it is the message's id in every other place too
            ids.append(await adapter.publish(self.channel, id, id.encode()))
        return ids

    async def _bury(self, adapter: EventQueueAdapter, count: int) -> list[str]:
        inbox = self._consume(adapter, count)
        ids = await self._publish(adapter, count)
        for number, delivery in enumerate(await inbox.take(count), 1):
            inbox.consumer.bury(delivery, error="E")
            await self._counts(adapter, in_flight=count - number, dead=number)
        await inbox.close()
        return ids

    async def _counts(self, adapter: EventQueueAdapter, **expected: int) -> None:
        """Wait until the channel holds just what is *expected*."""
        wanted = QueueStats(**{"ready": 0, "delayed": 0, "in_flight": 0, "dead": 0, **expected})
        deadline = self.clock.monotonic() + 10
        while (stats := await adapter.stats(self.channel)) != wanted:
            assert self.clock.monotonic() < deadline, f"{stats}, expected {wanted}"
            await asyncio.sleep(self.tick / 10)

    async def _nothing_more(self, inbox: Inbox) -> None:
        """Check that nothing but what was taken arrives."""
        await asyncio.sleep(2 * self.tick)
        assert not inbox.unread, "something arrived that should not"

    def _need(self, adapter: EventQueueAdapter, *guarantees: Guarantee) -> None:
        missing = set(guarantees) - adapter.guarantees
        if missing:
            pytest.skip(f"the adapter does not promise: {', '.join(sorted(missing))}")
