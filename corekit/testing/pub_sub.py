"""The suite for pub/sub adapters: each test is one clause of `corekit.adapters.pub_sub`.

An adapter's author writes:

    class TestMine(PubSubSuite):
        def make_adapter(self) -> PubSubAdapter:
            return my_pub_sub(BackendURL.parse("mine://localhost"), make_context(clock=self.clock))
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import pytest

from ..adapters import Guarantee, PubSubAdapter
from ..clock import Clock
from ..errors import BackendUnavailable, NotOpenError
from .pub_sub_process import Process, cancelled
from .suite import AdapterSuite, opened
from .waiting import eventually

#: Channels that differ from `name` in what some backends do not tell apart, or give a meaning.
_ALIKE = (
    "/",
    "/x",
    "x",
    ".x",
    "*",
    ".*",
    "/*",
    "?",
    "#",
    ">",
    ".>",
    "%2F",
    " ",
    "é",
    "\u0301",
    "'",
)


class PubSubSuite(AdapterSuite):
    """What every pub/sub adapter does; inherit it and say how to make one."""

    tick = 0.1
    """Longer than a message takes to arrive, in seconds."""

    patience = 10.0
    """The longest that is waited for what must happen, in seconds."""

    largest = 1_000_000
    """The size in bytes of a large payload that the adapter must carry."""

    burst = 5_000
    """How many messages are published at once."""

    def make_adapter(self) -> PubSubAdapter:
        """Return a new adapter, not opened; each one plays a process of its own."""
        raise NotImplementedError

    async def interrupt(self) -> None:
        """Cut the connections of all adapters, such that they can come back by themselves."""
        pytest.skip("the suite is not told how to interrupt connections")

    def begin(self, clock: Clock) -> None:
        super().begin(clock)
        self.name = f"suite/channel/{secrets.token_hex(8)}"

    # Who gets what.

    async def test_every_subscriber_gets_a_copy(self) -> None:
        """Each subscriber of the channel, in every process, gets each message once."""
        async with self.processes(3) as (a, b, c):
            for process in (a, b, c):
                await process.adapter.subscribe(self.name)
            await a.adapter.publish(self.name, b"1")
            await b.adapter.publish(self.name, b"2")
            await self._arrive(a, b, c, count=2)
            await asyncio.sleep(self.tick)
            for process in (a, b, c):
                assert sorted(process.payloads(self.name)) == [b"1", b"2"]

    async def test_nobody_else_gets_it(self) -> None:
        """Who did not subscribe gets nothing, and publishing to nobody is no error."""
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name + "other")
            await a.adapter.publish(self.name, b"1")
            await asyncio.sleep(self.tick)
            assert a.arrived == b.arrived == {}

    async def test_subscribing_is_effective_when_it_returns(self) -> None:
        """What is published after `subscribe` returned arrives, whoever publishes it."""
        for _ in range(5):
            async with self.processes(2) as (a, b):
                await b.adapter.subscribe(self.name)
                await a.adapter.publish(self.name, b"1")
                await self._arrive(b, count=1)

    async def test_the_past_does_not_arrive(self) -> None:
        """A subscriber does not get what had arrived at others before it subscribed."""
        async with self.processes(3) as (a, b, c):
            await b.adapter.subscribe(self.name)
            await a.adapter.publish(self.name, b"before")
            await self._arrive(b, count=1)
            await c.adapter.subscribe(self.name)
            await a.adapter.publish(self.name, b"after")
            await self._arrive(c, count=1)
            assert c.arrived[self.name] == [b"after"]

    async def test_subscribing_twice_is_subscribing_once(self) -> None:
        """Repeated and overlapping `subscribe` calls of a channel do not double its messages."""
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name)
            await asyncio.gather(*(b.adapter.subscribe(self.name) for _ in range(3)))
            await a.adapter.publish(self.name, b"1")
            await self._arrive(b, count=1)
            await asyncio.sleep(self.tick)
            assert b.arrived[self.name] == [b"1"]

    async def test_unsubscribing(self) -> None:
        """After `unsubscribe` has returned nothing published later arrives, for others it does."""
        async with self.processes(3) as (a, b, c):
            for process in (b, c):
                await process.adapter.subscribe(self.name)
            await b.adapter.subscribe(self.name)
            await b.adapter.unsubscribe(self.name)
            await a.adapter.publish(self.name, b"1")
            await self._arrive(c, count=1)
            await asyncio.sleep(self.tick)
            assert b.payloads(self.name) == []

    async def test_unsubscribing_unknown_channels(self) -> None:
        """`unsubscribe` of a channel that is not subscribed, also a second time, does nothing."""
        async with self.processes(1) as (a,):
            await a.adapter.unsubscribe(self.name)
            await a.adapter.subscribe(self.name)
            await a.adapter.unsubscribe(self.name)
            await a.adapter.unsubscribe(self.name)

    async def test_subscribing_again(self) -> None:
        """A channel can be subscribed again after it was unsubscribed."""
        async with self.processes(2) as (a, b):
            for count in (1, 2):
                await b.adapter.subscribe(self.name)
                await a.adapter.publish(self.name, b"%d" % count)
                await self._arrive(b, count=count)
                await b.adapter.unsubscribe(self.name)

    # Names and payloads.

    async def test_channels_are_matched_exactly(self) -> None:
        """No character of a channel is a wildcard, and similar channels never meet."""
        names = [self.name + end for end in _ALIKE] + [self.name, self.name.upper(), self.name[:-1]]
        async with self.processes(2) as (a, b):
            for name in names:
                await b.adapter.subscribe(name)
            for name in names:
                await a.adapter.publish(name, name.encode())
            await eventually(lambda: all(b.payloads(name) for name in names), within=self.patience)
            await asyncio.sleep(self.tick)
            assert {name: b.payloads(name) for name in names} == {
                name: [name.encode()] for name in names
            }

    async def test_long_channels(self) -> None:
        """Channels of several thousand bytes are told apart to the last character."""
        long = self.name + "/" + "ä" * 1500
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(long + "1")
            await a.adapter.publish(long + "2", b"2")
            await a.adapter.publish(long + "1", b"1")
            await eventually(lambda: b"1" in b.payloads(long + "1"), within=self.patience)
            await asyncio.sleep(self.tick)
            assert b.arrived == {long + "1": [b"1"]}

    async def test_payloads_arrive_as_they_are(self) -> None:
        """Any bytes are a payload: none at all, each byte, many."""
        payloads = [b"", b"\x00", bytes(range(256)), b"\xff" * self.largest, b"end"]
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name)
            for payload in payloads:
                await a.adapter.publish(self.name, payload)
            await self._arrive(b, count=len(payloads))
            assert sorted(b.payloads(self.name)) == sorted(payloads)

    async def test_many_channels(self) -> None:
        """Hundreds of channels of one process each get their own messages."""
        names = [f"{self.name}/{number}" for number in range(300)]
        async with self.processes(2) as (a, b):
            for name in names:
                await b.adapter.subscribe(name)
            for name in names:
                await a.adapter.publish(name, name.encode())
            await eventually(lambda: len(b.arrived) == len(names), within=self.patience)
            assert all(b.payloads(name) == [name.encode()] for name in names)

    # Order and loss.

    async def test_order_of_one_publisher(self) -> None:
        """ORDERED: messages of one publisher on a channel arrive in the order of its calls."""
        async with self.processes(2) as (a, b):
            self.need(a.adapter, Guarantee.ORDERED)
            await b.adapter.subscribe(self.name)
            for number in range(300):
                await a.adapter.publish(self.name, b"%d" % number)
            await self._arrive(b, count=300)
            assert b.payloads(self.name) == [b"%d" % number for number in range(300)]

    async def test_order_of_overlapping_calls(self) -> None:
        """ORDERED: payloads of overlapping calls are sent in the order of the calls."""
        async with self.processes(2) as (a, b):
            self.need(a.adapter, Guarantee.ORDERED)
            await b.adapter.subscribe(self.name)
            # Large and small ones in turn: a small one must not overtake.
            payloads = [b"%d" % number + b"." * (number % 2 * 50_000) for number in range(60)]
            await asyncio.gather(*(a.adapter.publish(self.name, payload) for payload in payloads))
            await self._arrive(b, count=60)
            assert b.payloads(self.name) == payloads

    async def test_a_burst_is_not_lost_silently(self) -> None:
        """Of many messages published at once each arrives, or a gap is told in its place."""
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name)
            await asyncio.gather(
                *(a.adapter.publish(self.name, b"%d" % number) for number in range(self.burst))
            )
            await self._no_silent_loss(b, self.burst)

    async def test_a_publisher_that_never_pauses(self) -> None:
        """One call after the other, without a pause: each arrives, or a gap is told."""
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name)
            for number in range(self.burst):
                await a.adapter.publish(self.name, b"%d" % number)
            await self._no_silent_loss(b, self.burst)

    async def test_cancelled_publish(self) -> None:
        """A cancelled `publish` was sent once or not at all, and disturbs no other one."""
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name)
            for turns in range(8):
                payload = b"cancelled %d" % turns
                await cancelled(partial(a.adapter.publish, self.name, payload), turns)
                await a.adapter.publish(self.name, b"%d" % turns)
            await eventually(
                lambda: {b"%d" % n for n in range(8)} <= {*b.payloads(self.name)},
                within=self.patience,
            )
            arrived = b.payloads(self.name)
            assert len(arrived) == len(set(arrived))
            assert [p for p in arrived if not p.startswith(b"c")] == [b"%d" % n for n in range(8)]

    async def test_cancelled_subscribe(self) -> None:
        """After a cancelled `subscribe` the channel can be subscribed, and others work."""
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name + "other")
            for turns in range(8):
                channel = f"{self.name}/{turns}"
                if await cancelled(partial(b.adapter.subscribe, channel), turns):
                    await a.adapter.publish(channel, b"unheard")
                    await a.adapter.publish(self.name + "other", b"1")
                    await self._arrive(b, count=turns + 1, channel=self.name + "other")
                    await asyncio.sleep(self.tick)
                    assert b.payloads(channel) == []
                else:
                    await a.adapter.publish(self.name + "other", b"1")
                await b.adapter.subscribe(channel)
                await a.adapter.publish(channel, b"heard")
                await self._arrive(b, count=1, channel=channel)

    async def test_coming_back(self) -> None:
        """After a lost connection subscriptions are back by themselves; what is lost is told."""
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name)
            await a.adapter.publish(self.name, b"0")
            await self._arrive(b, count=1)
            await self.interrupt()
            number = 0

            async def heard_again() -> bool:
                nonlocal number
                with suppress(BackendUnavailable):
                    await a.adapter.publish(self.name, b"%d" % (number + 1))
                    number += 1
                await asyncio.sleep(self.tick)
                return b"%d" % number in b.payloads(self.name)

            async with asyncio.timeout(6 * self.patience):
                while not await heard_again():
                    pass
            await self._no_silent_loss(b, number + 1)

    # Closing.

    async def test_closing(self) -> None:
        """Once `close` has begun the receiver is not called any more; others are undisturbed."""
        async with self.processes(3) as (a, b, c):
            for process in (b, c):
                await process.adapter.subscribe(self.name)
            for number in range(50):
                await a.adapter.publish(self.name, b"%d" % number)
            await b.close()
            await a.adapter.publish(self.name, b"50")
            await self._arrive(c, count=51)
            assert b.late == []

    async def test_closing_sends_what_was_published(self) -> None:
        """What was published before `close` arrives at the others."""
        async with self.processes(2) as (a, b):
            await b.adapter.subscribe(self.name)
            for number in range(50):
                await a.adapter.publish(self.name, b"%d" % number)
            await a.close()
            await self._arrive(b, count=50)

    async def test_closing_twice_or_unopened(self) -> None:
        """A second `close`, and one without `open`, does nothing."""
        await self.make_adapter().close()
        async with self.processes(1) as (a,):
            await a.adapter.subscribe(self.name)
            await a.close()
            await a.close()

    async def test_calls_need_an_open_adapter(self) -> None:
        """Before `open` and after `close` the calls raise NotOpenError."""
        unopened = Process(self.make_adapter())
        async with self.processes(1) as (closed,):
            await closed.close()
            for adapter in (unopened.adapter, closed.adapter):
                with pytest.raises(NotOpenError):
                    await adapter.publish(self.name, b"1")
                with pytest.raises(NotOpenError):
                    await adapter.subscribe(self.name)

    async def test_guarantees_are_declared(self) -> None:
        """`guarantees` is a frozenset of Guarantee, known before `open`."""
        guarantees = self.make_adapter().guarantees
        assert isinstance(guarantees, frozenset)
        assert all(isinstance(guarantee, Guarantee) for guarantee in guarantees)

    # What the clauses are made of.

    def processes(self, count: int) -> AbstractAsyncContextManager[Sequence[Process]]:
        """Open *count* adapters, each with a receiver, and close them at the end."""
        return opened([Process(self.make_adapter()) for _ in range(count)])

    async def _arrive(self, *processes: Process, count: int, channel: str | None = None) -> None:
        """Wait until each of *processes* has got *count* messages."""
        name = self.name if channel is None else channel
        for process in processes:
            await eventually(partial(process.has, name, count), within=self.patience)

    async def _no_silent_loss(self, process: Process, count: int) -> None:
        """Wait for the end of the messages 0 to *count* - 1; what is missing must be told."""
        arrived = process.arrived.setdefault(self.name, [])
        last = (b"%d" % (count - 1), None)
        await eventually(lambda: arrived and arrived[-1] in last, within=self.patience)
        if Guarantee.ORDERED in process.adapter.guarantees:
            process.check_order(self.name)
        else:
            assert None in arrived or len(set(arrived)) == count
