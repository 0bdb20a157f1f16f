"""The suite for event queue adapters finds what it is there to find."""

# ruff: noqa: A002 - the adapters' methods have a parameter `id`

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import suppress

import pytest

from corekit.adapters import DeadMessage, Delivery, QueueStats
from corekit.config import BackendURL
from corekit.errors import BackendRefused
from corekit.memory.event_queue import MemoryConsumer, MemoryEventQueue, Queues
from corekit.testing import VirtualClock
from corekit.testing.contexts import make_context
from corekit.testing.event_queue import EventQueueSuite

CLAUSES = sorted(name for name in dir(EventQueueSuite) if name.startswith("test_"))


def broken_clauses(adapter_class):
    """Return the clauses that fail for adapters of *adapter_class*, without their `test_`."""

    class Suite(EventQueueSuite):
        virtual = True

        def make_adapter(self):
            return adapter_class(self.queues, make_context(clock=self.clock), 1000)

        async def kill(self, adapter):
            with adapter.queues.lock:
                adapter.end(died=True)

    broken = set()
    for clause in CLAUSES:
        suite, clock = Suite(), VirtualClock()
        suite.queues = Queues()
        suite.begin(clock)
        try:
            clock.run(asyncio.wait_for(getattr(suite, clause)(), 1000))
        except pytest.skip.Exception:
            pass
        except (Exception, pytest.fail.Exception):
            broken.add(clause.removeprefix("test_"))
    return broken


class Faulty(MemoryEventQueue):
    """Return a memory adapter whose consumers are of another class."""

    consumer_class = MemoryConsumer

    def consume(self, channel, receiver):
        consumer = super().consume(channel, receiver)
        consumer.__class__ = self.consumer_class
        return consumer


def with_consumer(**methods):
    """Return a memory adapter whose consumers have some methods of their own."""
    consumer_class = type("Consumer", (MemoryConsumer,), methods)
    return type("Faulty", (Faulty,), {"consumer_class": consumer_class})


def with_adapter(**methods):
    """Return a memory adapter that has some methods of its own."""
    return type("Faulty", (MemoryEventQueue,), methods)


def changed(**changes):
    """Return a memory adapter that hands deliveries on with some fields changed."""

    def deliver(self):
        receive = self._receiver.deliveries

        class Changing:
            @staticmethod
            def deliveries(batch):
                receive(
                    [
                        Delivery(
                            **{
                                **{name: getattr(d, name) for name in Delivery.__slots__},
                                **{name: change(d) for name, change in changes.items()},
                            }
                        )
                        for d in batch
                    ]
                )

        kept, self._receiver = self._receiver, Changing
        try:
            MemoryConsumer._deliver(self)
        finally:
            self._receiver = kept

    return with_consumer(_deliver=deliver)


async def _publish_without_delay(self, channel, id, payload, *, delay=0.0, dedup_id=None):
    return await MemoryEventQueue.publish(self, channel, id, payload, dedup_id=dedup_id)


async def _publish_duplicates(self, channel, id, payload, *, delay=0.0, dedup_id=None):
    return await MemoryEventQueue.publish(self, channel, id, payload, delay=delay)


async def _publish_new_id(self, channel, id, payload, *, delay=0.0, dedup_id=None):
    await MemoryEventQueue.publish(self, channel, id, payload, delay=delay, dedup_id=dedup_id)
    return id


async def _publish_global_dedup(self, channel, id, payload, *, delay=0.0, dedup_id=None):
    if dedup_id is not None:
        known = self.queues.__dict__.setdefault("global_dedup", {})
        if known.setdefault(dedup_id, id) != id:
            return known[dedup_id]
    return await MemoryEventQueue.publish(
        self, channel, id, payload, delay=delay, dedup_id=dedup_id
    )


async def _publish_twice(self, channel, id, payload, *, delay=0.0, dedup_id=None):
    await MemoryEventQueue.publish(self, channel, id, payload, delay=delay)
    return await MemoryEventQueue.publish(
        self, channel, id, payload, delay=delay, dedup_id=dedup_id
    )


async def _publish_by_prefix(self, channel, id, payload, **options):
    return await MemoryEventQueue.publish(self, channel[:28], id, payload, **options)


async def _publish_to_the_front(self, channel, id, payload, *, delay=0.0, dedup_id=None):
    found = await MemoryEventQueue.publish(
        self, channel, id, payload, delay=delay, dedup_id=dedup_id
    )
    ready = self.queues.channel(channel).ready
    if len(ready) > 1 and ready[-1].id == id:
        ready.rotate(1)
    return found


def _release_to_the_end(self, delivery, *, started):
    message = self._taken.get(delivery.token)
    if message is not None:
        message.place = 10**9 + next(COUNTER)
    MemoryConsumer.release(self, delivery, started=started)


def _release_is_retry(self, delivery, *, started):
    MemoryConsumer.retry(self, delivery, delay=0.0, error="")


def _release_is_uncounted(self, delivery, *, started):
    MemoryConsumer.release(self, delivery, started=False)


def _release_is_a_death(self, delivery, *, started):
    MemoryConsumer.release(self, delivery, started=True)


def _retry_at_once(self, delivery, *, delay, error):
    MemoryConsumer.retry(self, delivery, delay=0.0, error=error)


def _retry_is_release(self, delivery, *, delay, error):
    message = self._taken.get(delivery.token)
    MemoryConsumer.retry(self, delivery, delay=delay, error=error)
    if message is not None:
        message.attempt -= 1


def _retry_keeps_deaths(self, delivery, *, delay, error):
    message = self._taken.get(delivery.token)
    MemoryConsumer.retry(self, delivery, delay=delay, error=error)
    if message is not None:
        message.deaths = delivery.deaths


def _bury_is_ack(self, delivery, *, error):
    MemoryConsumer.ack(self, delivery)


def _bury_without_error(self, delivery, *, error):
    MemoryConsumer.bury(self, delivery, error="")


def _ack_is_release(self, delivery):
    MemoryConsumer.release(self, delivery, started=False)


def _ack_later(self, delivery):
    self._adapter._loop.call_later(0.02, MemoryConsumer.ack, self, delivery)


def _settle_again(self, delivery):
    message = self._taken.pop(delivery.token, None)
    if message is not None:
        self._channel.in_flight -= 1
        self.__dict__.setdefault("gone", {})[delivery.token] = message
        return message
    gone = self.__dict__.get("gone", {})
    return gone.pop(delivery.token, None) if len(gone) else None


def _grant_at_least_ten(self, credit):
    MemoryConsumer.grant(self, max(credit, 10))


def _grant_instead(self, credit):
    with self._queues.lock:
        self._revoke()
    MemoryConsumer.grant(self, credit)


def _revoke_nothing(self):
    pass


def _take_all_turns(self, message):
    MemoryConsumer.take(self, message)
    waiting = self._channel.waiting
    if self.credit and len(waiting) > 1 and waiting[-1] is self:
        waiting.rotate(1)


async def _close_and_keep(self):
    with self._queues.lock:
        self._revoke()


async def _close_and_drop(self):
    with self._queues.lock:
        self._taken.clear()
        self.end(died=False)


async def _close_as_dead(self):
    with self._queues.lock:
        self.end(died=True)


async def _close_and_go_on(self):
    await asyncio.sleep(0.01)
    await MemoryConsumer.close(self)


def _end_uncounted(self, *, died):
    MemoryEventQueue.end(self, died=False)


async def _adapter_close_and_keep(self):
    self._loop = None


def _check_nothing(self):
    pass


async def _newest_dead_letters(self, channel, limit):
    dead = await MemoryEventQueue.dead_letters(self, channel, 10_000)
    return dead[::-1][:limit]


async def _all_dead_letters(self, channel, limit):
    return await MemoryEventQueue.dead_letters(self, channel, 10_000)


async def _dead_letters_without_attempts(self, channel, limit):
    dead = await MemoryEventQueue.dead_letters(self, channel, limit)
    return [DeadMessage(d.id, d.payload, d.error, 1, d.died_at) for d in dead]


async def _requeue_quietly(self, channel, id):
    with suppress(BackendRefused):
        await MemoryEventQueue.requeue(self, channel, id)


async def _requeue_as_it_was(self, channel, id):
    message = self.queues.channel(channel).dead.get(id)
    attempt = message.attempt if message else 0
    await MemoryEventQueue.requeue(self, channel, id)
    message.attempt = attempt


async def _purge_the_living(self, channel):
    found = self.queues.channel(channel)
    dead, found.dead = found.dead, {}
    count = await MemoryEventQueue.purge(self, channel)
    found.dead = dead
    return count


async def _purge_all(self, channel):
    count = await MemoryEventQueue.purge(self, channel)
    for adapter in self.queues.adapters:
        for consumer in adapter.consumers:
            count += len(consumer._taken)
            consumer._channel.in_flight -= len(consumer._taken)
            consumer._taken.clear()
    return count


async def _stats_of_this_adapter(self, channel):
    stats = await MemoryEventQueue.stats(self, channel)
    return QueueStats(
        stats.ready, stats.delayed, sum(len(c._taken) for c in self.consumers), stats.dead
    )


COUNTER = itertools.count()

#: Each fault, and the clauses that tell of it.
FAULTS = {
    "payloads are text": (
        changed(payload=lambda d: d.payload.decode("utf-8", "replace").encode()),
        {"any_bytes_are_a_payload"},
    ),
    "empty payloads are none": (
        changed(payload=lambda d: d.payload or b"\x00"),
        {"any_bytes_are_a_payload"},
    ),
    "attempts begin at 0": (
        changed(attempt=lambda d: d.attempt - 1),
        {
            "a_message_is_delivered",
            "a_closed_consumer_gives_back",
            "a_dead_consumer_counts",
            "a_retry_comes_after_its_delay",
            "a_retry_forgets_deaths",
            "a_retry_without_delay_comes_at_once",
            "released_messages_come_back",
            "released_work_counts_as_a_death",
            "requeued_messages_are_ordinary",
        },
    ),
    "published_at is the delivery": (
        changed(published_at=lambda d: 0.0),
        {"a_message_is_delivered"},
    ),
    "delays are ignored": (
        with_adapter(publish=_publish_without_delay),
        {"delayed_messages_wait", "a_message_is_counted_where_it_is"},
    ),
    "duplicates are queued": (
        with_adapter(publish=_publish_duplicates),
        {"duplicates_are_dropped"},
    ),
    "a duplicate gets its own id": (
        with_adapter(publish=_publish_new_id),
        {"duplicates_are_dropped"},
    ),
    "dedup ids are global": (
        with_adapter(publish=_publish_global_dedup),
        {"duplicates_are_told_by_channel"},
    ),
    "the last comes first": (
        with_adapter(publish=_publish_to_the_front),
        {
            "duplicates_are_dropped",
            "messages_come_in_order",
            "messages_wait_for_the_first_consumer",
            "released_messages_keep_their_place",
            "revoked_credit_is_gone",
            "a_waiting_retry_holds_up_nobody",
        },
    ),
    "released messages go to the end": (
        with_consumer(release=_release_to_the_end),
        {"released_messages_keep_their_place"},
    ),
    "a release is an attempt": (
        with_consumer(release=_release_is_retry),
        {
            "a_retry_forgets_deaths",
            "released_messages_come_back",
            "released_work_counts_as_a_death",
        },
    ),
    "deaths are not counted": (
        with_consumer(release=_release_is_uncounted),
        {"a_retry_forgets_deaths", "released_work_counts_as_a_death"},
    ),
    "every release is a death": (
        with_consumer(release=_release_is_a_death),
        {"released_messages_come_back"},
    ),
    "retries do not wait": (
        with_consumer(retry=_retry_at_once),
        {"a_retry_comes_after_its_delay", "a_waiting_retry_holds_up_nobody"},
    ),
    "retries are not counted": (
        with_consumer(retry=_retry_is_release),
        {
            "a_retry_comes_after_its_delay",
            "a_retry_forgets_deaths",
            "a_retry_without_delay_comes_at_once",
            "buried_messages_are_kept",
        },
    ),
    "a retry keeps the deaths": (
        with_consumer(retry=_retry_keeps_deaths),
        {"a_retry_forgets_deaths"},
    ),
    "there are no dead letters": (
        with_consumer(bury=_bury_is_ack),
        {
            "a_message_is_counted_where_it_is",
            "buried_messages_are_kept",
            "closing_sends_settlements_first",
            "dead_letters_come_oldest_first",
            "purging",
            "requeued_messages_are_ordinary",
        },
    ),
    "errors are not kept": (
        with_consumer(bury=_bury_without_error),
        {"buried_messages_are_kept"},
    ),
    "nothing is ever done": (
        with_consumer(ack=_ack_is_release),
        {
            "a_cut_connection_comes_back",
            "acknowledged_messages_are_gone",
            "closing_sends_settlements_first",
            "duplicates_are_dropped",
            "many_publishes_at_once",
            "messages_come_in_order",
            "settling_twice_is_ignored",
        },
    ),
    "close forgets what was settled": (
        with_consumer(ack=_ack_later),
        {"closing_sends_settlements_first", "settling_twice_is_ignored"},
    ),
    "the last settlement wins": (
        with_consumer(_settled=_settle_again),
        {"settling_twice_is_ignored"},
    ),
    "credit is a proposal": (
        with_consumer(grant=_grant_at_least_ten),
        None,
    ),
    "a grant replaces the one before": (
        with_consumer(grant=_grant_instead),
        {"credit_adds_up"},
    ),
    "credit cannot be taken back": (
        with_consumer(revoke=_revoke_nothing),
        {"revoked_credit_is_gone"},
    ),
    "one consumer has all turns": (
        with_consumer(take=_take_all_turns),
        {"consumers_take_turns"},
    ),
    "a closed consumer keeps its messages": (
        with_consumer(close=_close_and_keep),
        {"a_closed_consumer_gives_back", "a_closed_consumer_is_not_called"},
    ),
    "a closed consumer drops its messages": (
        with_consumer(close=_close_and_drop),
        {"a_closed_consumer_gives_back", "a_closed_consumer_is_not_called"},
    ),
    "closing counts as a death": (
        with_consumer(close=_close_as_dead),
        {"a_closed_consumer_gives_back"},
    ),
    "a closing consumer is called": (
        with_consumer(close=_close_and_go_on),
        {"a_closed_consumer_is_not_called"},
    ),
    "dying does not count": (
        with_adapter(end=_end_uncounted),
        {"a_dead_consumer_counts"},
    ),
    "a closed adapter keeps its messages": (
        with_adapter(close=_adapter_close_and_keep),
        {"a_closed_adapter_gives_back"},
    ),
    "a closed adapter works": (
        with_adapter(_check_open=_check_nothing),
        {"a_closed_adapter_refuses"},
    ),
    "the newest dead letter comes first": (
        with_adapter(dead_letters=_newest_dead_letters),
        {"dead_letters_come_oldest_first"},
    ),
    "the limit is ignored": (
        with_adapter(dead_letters=_all_dead_letters),
        {"dead_letters_come_oldest_first"},
    ),
    "dead letters forget their attempts": (
        with_adapter(dead_letters=_dead_letters_without_attempts),
        {"buried_messages_are_kept"},
    ),
    "an unknown dead letter is nothing": (
        with_adapter(requeue=_requeue_quietly),
        {"an_unknown_dead_letter_cannot_be_requeued"},
    ),
    "a requeued message keeps its attempts": (
        with_adapter(requeue=_requeue_as_it_was),
        {"requeued_messages_are_ordinary"},
    ),
    "purging leaves the dead": (with_adapter(purge=_purge_the_living), {"purging"}),
    "purging takes what is in flight": (
        with_adapter(purge=_purge_all),
        {"channels_are_independent", "purging"},
    ),
    "stats see one adapter": (
        with_adapter(stats=_stats_of_this_adapter),
        {"a_message_is_counted_where_it_is"},
    ),
    "messages are queued twice": (with_adapter(publish=_publish_twice), None),
    "channels are told by their beginning": (
        with_adapter(publish=_publish_by_prefix),
        {"channels_are_independent", "duplicates_are_told_by_channel"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault, caplog):
    """Each deliberately wrong adapter fails just the clauses that it breaks."""
    caplog.set_level(logging.CRITICAL)
    adapter_class, expected = FAULTS[fault]
    broken = broken_clauses(adapter_class)
    if expected is None:
        # So gross that many clauses stumble over it.
        assert len(broken) > len(CLAUSES) / 4
    else:
        assert broken == expected


def test_a_right_adapter_breaks_nothing():
    """The adapter that the wrong ones are made of passes."""
    assert broken_clauses(MemoryEventQueue) == set()
    assert broken_clauses(with_consumer()) == set()
    assert BackendURL.parse("memory://").scheme == "memory"
