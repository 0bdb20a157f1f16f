"""The memory event queue against a model that anybody can check by eye."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from corekit.adapters import QueueStats
from corekit.errors import BackendRefused, QueueFull
from corekit.memory.event_queue import MemoryEventQueue, Queues
from corekit.testing import VirtualClock
from corekit.testing.contexts import make_context
from corekit.testing.event_queue import Inbox

BOUND = 6


class Modelled:
    """What a message should look like."""

    def __init__(self, number, dedup_id, now):
        self.id = f"m{number}"
        self.place = number
        self.dedup_id = dedup_id
        self.published = now
        self.attempt, self.deaths = 1, 0
        self.due = now
        self.holder = None
        self.delivery = None
        self.dead = False


class EventQueueMachine(RuleBasedStateMachine):
    """Two adapters with a consumer each; every step is checked against a list of messages."""

    def __init__(self):
        super().__init__()
        self.clock = VirtualClock()
        self.loop = self.clock.loop()
        self.queues = Queues()
        self.messages = []
        self.known = {}
        self.places = 0
        self.adapters = [self.new_adapter(), self.new_adapter()]
        self.inboxes = [self.new_inbox(adapter) for adapter in self.adapters]
        self.credit = [0, 0]

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    async def some_turns(self):
        for _ in range(5):
            await asyncio.sleep(0)

    def new_adapter(self):
        adapter = MemoryEventQueue(self.queues, make_context(clock=self.clock), BOUND)
        self.run(adapter.open())
        return adapter

    def new_inbox(self, adapter):
        inbox = Inbox()
        inbox.consumer = adapter.consume("c", inbox)
        return inbox

    @property
    def now(self):
        return self.clock.monotonic()

    @property
    def alive(self):
        return [m for m in self.messages if not m.dead]

    @property
    def ready(self):
        found = [m for m in self.alive if m.holder is None and m.due <= self.now]
        return sorted(found, key=lambda m: m.place)

    @property
    def held(self):
        return [m for m in self.alive if m.holder is not None]

    def settle_down(self):
        """Let deliveries arrive, and check that they are the right ones."""
        self.run(self.some_turns())
        arrived = [
            (n, inbox.received.pop(0))
            for n, inbox in enumerate(self.inboxes)
            for _ in range(len(inbox.received))
        ]
        expected = self.ready[: sum(self.credit)]
        assert sorted(d.id for _, d in arrived) == sorted(m.id for m in expected)
        by_id = {m.id: m for m in expected}
        order = {n: [by_id[d.id].place for number, d in arrived if number == n] for n in (0, 1)}
        for number, delivery in arrived:
            message = by_id[delivery.id]
            assert (delivery.attempt, delivery.deaths) == (message.attempt, message.deaths)
            assert delivery.payload == message.id.encode()
            message.holder, message.delivery = number, delivery
            self.credit[number] -= 1
        assert min(self.credit) >= 0
        for places in order.values():
            assert places == sorted(places)

    @rule(delay=st.sampled_from([0.0, 0.0, 0.0, 5.0]), dedup_id=st.sampled_from([None, None, "x"]))
    def publish(self, delay, dedup_id):
        self.places += 1
        message = Modelled(self.places, dedup_id, self.now)
        first = self.known.get(dedup_id)
        repeats = first is not None and (first in self.alive or self.now < first.published + 120)
        call = self.adapters[0].publish(
            "c", message.id, message.id.encode(), delay=delay, dedup_id=dedup_id
        )
        if repeats:
            assert self.run(call) == first.id
        elif len(self.alive) >= BOUND:
            with pytest.raises(QueueFull):
                self.run(call)
        else:
            message.due = self.now + delay
            assert self.run(call) == message.id
            self.messages.append(message)
            if dedup_id:
                self.known[dedup_id] = message
        self.settle_down()

    @rule(number=st.sampled_from([0, 1]), credit=st.integers(1, 3))
    def grant(self, number, credit):
        self.inboxes[number].grant(credit)
        self.credit[number] += credit
        self.settle_down()

    @rule(number=st.sampled_from([0, 1]))
    def revoke(self, number):
        self.inboxes[number].consumer.revoke()
        self.inboxes[number]._granted -= self.credit[number]
        self.credit[number] = 0
        self.settle_down()

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        how=st.sampled_from(["ack", "unstarted", "started", "retry", "retry at once", "bury"]),
    )
    def settle(self, data, how):
        message = data.draw(st.sampled_from(self.held))
        consumer, delivery = self.inboxes[message.holder].consumer, message.delivery
        message.holder = None
        if how == "ack":
            consumer.ack(delivery)
            self.messages.remove(message)
        elif how == "bury":
            consumer.bury(delivery, error="E")
            message.dead = True
            self.messages.remove(message)
            self.messages.append(message)
        elif how in {"unstarted", "started"}:
            consumer.release(delivery, started=how == "started")
            message.deaths += how == "started"
        else:
            delay = 5.0 if how == "retry" else 0.0
            consumer.retry(delivery, delay=delay, error="E")
            message.attempt, message.deaths, message.due = message.attempt + 1, 0, self.now + delay
        consumer.ack(delivery)
        self.settle_down()

    @rule(seconds=st.sampled_from([1.0, 10.0, 200.0]))
    def wait(self, seconds):
        end = self.now + seconds
        # One by one: what is due first comes first, wherever its place is.
        while dues := [m.due for m in self.alive if self.now < m.due <= end]:
            self.run(asyncio.sleep(min(dues) - self.now))
            self.settle_down()
        self.run(asyncio.sleep(max(0.0, end - self.now)))
        self.settle_down()

    @rule(number=st.sampled_from([0, 1]), how=st.sampled_from(["consumer", "adapter", "death"]))
    def end(self, number, how):
        inbox, adapter = self.inboxes[number], self.adapters[number]
        if how == "consumer":
            self.run(inbox.close())
        else:
            inbox.closed = True
            with self.queues.lock:
                adapter.end(died=how == "death")
            self.adapters[number] = self.new_adapter()
        for message in self.held:
            if message.holder == number:
                message.holder = None
                message.deaths += how == "death"
        assert inbox.faults == []
        self.credit[number] = 0
        self.inboxes[number] = self.new_inbox(self.adapters[number])
        self.settle_down()

    @rule(data=st.data())
    def requeue(self, data):
        dead = [m for m in self.messages if m.dead]
        if not dead:
            with pytest.raises(BackendRefused):
                self.run(self.adapters[1].requeue("c", "m1"))
            return
        message = data.draw(st.sampled_from(dead))
        call = self.adapters[1].requeue("c", message.id)
        if len(self.alive) >= BOUND:
            with pytest.raises(QueueFull):
                self.run(call)
            return
        self.run(call)
        self.places += 1
        message.place, message.dead, message.due = self.places, False, self.now
        message.attempt, message.deaths = 1, 0
        if message.dedup_id:
            other = self.known[message.dedup_id]
            if other not in self.alive and self.now >= other.published + 120:
                self.known[message.dedup_id] = message
        self.settle_down()

    @rule()
    def purge(self):
        gone = [m for m in self.messages if m.dead or m.holder is None]
        assert self.run(self.adapters[0].purge("c")) == len(gone)
        self.messages = [m for m in self.messages if m not in gone]
        self.settle_down()

    @invariant()
    def counts(self):
        dead = [m for m in self.messages if m.dead]
        held = len(self.held)
        ready = len(self.ready)
        stats = self.run(self.adapters[1].stats("c"))
        assert stats == QueueStats(ready, len(self.alive) - held - ready, held, len(dead))
        letters = self.run(self.adapters[0].dead_letters("c", 100))
        assert [letter.id for letter in letters] == [m.id for m in dead]

    def teardown(self):
        for inbox in self.inboxes:
            assert inbox.faults == []
            inbox.closed = True
        for adapter in self.adapters:
            self.run(adapter.close())
        self.run(asyncio.sleep(0))
        self.loop.close()


TestEventQueueModel = EventQueueMachine.TestCase
TestEventQueueModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
