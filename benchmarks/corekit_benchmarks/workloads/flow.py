"""Messages from producers to consumers: as fast as they go, or at a fixed rate.

The director passes on to the producers what the consumers have handled, so that never more than a
window of messages is on its way: what is measured is what can be kept up, and nobody is punished
for buffers that overflow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..contracts import Link, Role
from ..settings import Settings
from .load import now, thinned

Publish = Callable[[bytes], Awaitable[object]]

#: A consumer tells of every so many messages, a few times for each window.
_REPORTS_PER_WINDOW = 10

#: After this long without any message, in seconds, what is missing counts as lost.
_QUIET = 3.0

#: What a message says that is not to be timed, instead of when it was sent.
_UNTIMED = b"0"

#: How often a consumer that is nearly done looks at its count, in seconds.
_POLL = 0.002


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a flow."""

    sent: int
    warm_up: int
    """How many of them were sent before `begin`."""

    handled: int
    """By each consumer, or by all together if they share the messages."""

    begin: float
    """When the first message was published, except for those of the warm-up."""

    end: float
    """When the last one was handled, or acknowledged if the consumers tell that."""

    latencies: list[float]
    """From the publishing of a message to its handling; sorted."""

    confirmations: list[float]
    """How long each publish took, of those that were timed; sorted."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin

    @property
    def rate(self) -> float:
        """How many messages a second were handled by each."""
        return max(0, self.handled - self.warm_up) / self.seconds

    @property
    def lost(self) -> float:
        """The share of messages that did not come; a second delivery makes up for none."""
        return max(0, self.sent - self.handled) / max(1, self.sent)


# ---------------------------------------------------------------- the roles


async def flood(link: Link, settings: Settings, publish: Publish, *, warm_up: bool = True) -> None:
    """Publish as fast as it goes, `in_flight` calls at a time, as long as there is room.

    *warm_up*: first `in_flight` messages that do not count; some libraries open a connection for
    each call that is under way, once.
    """
    link.send(ready=True)
    window = (await link.receive())["window"]
    body = bytes(settings.payload)
    warm = settings.in_flight if warm_up else 0
    await _warm_up(publish, body, warm)
    room, sent, allowed = asyncio.Event(), warm, window
    is_over = False

    async def listen() -> None:
        nonlocal allowed
        while True:
            allowed = (await link.receive())["handled"] + window
            room.set()

    def end() -> None:
        nonlocal is_over
        is_over = True
        room.set()

    async def some() -> None:
        nonlocal sent
        while now() < deadline:
            if sent >= allowed:
                if is_over:
                    return
                room.clear()
                await room.wait()
            else:
                sent += 1
                await publish(body)

    listening = asyncio.create_task(listen())
    begin = now()
    deadline = begin + settings.duration
    # One timer for all that wait: a time limit for each would cost more than what is measured.
    timer = asyncio.get_running_loop().call_later(settings.duration, end)
    await asyncio.gather(*(some() for _ in range(settings.in_flight)))
    timer.cancel()
    listening.cancel()
    link.send(sent=sent, warm=warm, begin=begin, confirmations=[])


async def pace(
    link: Link, settings: Settings, publish: Publish, rate: float, *, overlapping: bool
) -> None:
    """Publish *rate* messages a second, each with its time.

    *overlapping*: also while earlier calls, `in_flight` at most, have not returned, so that a slow
    one does not delay the next. The first ones, as many as can be under way, are not timed.
    """
    link.send(ready=True)
    await link.receive()
    confirmations: list[float] = []
    sent = warm = settings.in_flight if overlapping else 1
    await _warm_up(publish, _UNTIMED.ljust(settings.payload), warm)
    places = asyncio.Semaphore(settings.in_flight)

    async def one(at: float) -> None:
        async with places:
            await publish(repr(at).encode().ljust(settings.payload))
        confirmations.append(now() - at)

    begin = due = now()
    async with asyncio.TaskGroup() as group:
        while due < begin + settings.duration:
            sent += 1
            if overlapping:
                group.create_task(one(now()))
            else:
                await one(now())
            due += 1 / rate
            await asyncio.sleep(max(0, due - now()))
    link.send(sent=sent, warm=warm, begin=begin, confirmations=thinned(confirmations))


async def _warm_up(publish: Publish, body: bytes, count: int) -> None:
    await asyncio.gather(*(publish(body) for _ in range(count)))


class Receipts:
    """What one consumer has handled."""

    def __init__(self, link: Link, window: int) -> None:
        self._link = link
        self._every = self._due = max(1, window // _REPORTS_PER_WINDOW)
        self.count = 0
        self.latencies: list[float] = []

    def __repr__(self) -> str:
        return f"<Receipts count={self.count}>"

    def note(self, body: bytes) -> None:
        """Count a message; tell the director of every so many."""
        self.count += 1
        if self.count == self._due:
            self._due += self._every
            self.report()

    def note_latency(self, body: bytes) -> None:
        """Count a message, and how long it was on its way."""
        if at := float(body):
            self.latencies.append(now() - at)
        self.note(body)

    def report(self) -> None:
        """Tell the director how many there are."""
        self._link.send(handled=self.count, at=now())

    async def until_told(self) -> None:
        """Tell of what comes, of each single message when the producers are done, until told."""
        await self._link.receive()
        reporting = asyncio.create_task(self._report_changes())
        await self._link.receive()
        reporting.cancel()

    async def _report_changes(self) -> None:
        told = None
        while True:
            if self.count != told:
                told = self.count
                self.report()
            await asyncio.sleep(_POLL)


async def settle(link: Link, receipts: Receipts, settled: Callable[[], Awaitable[None]]) -> None:
    """Tell when everything is *settled*, with what was found."""
    await settled()
    link.send(settled=now(), latencies=thinned(receipts.latencies))


# ---------------------------------------------------------------- the director


class Flow:
    """Directs one flow from *producers* to *consumers*, which have told `ready`.

    *total* says from the counts of all consumers how many messages are off their way.
    """

    def __init__(
        self,
        producers: Sequence[Role],
        consumers: Sequence[Role],
        total: Callable[[Sequence[int]], int],
    ) -> None:
        self._producers = producers
        self._consumers = consumers
        self._total = total
        self._counts = [0] * len(consumers)
        self._settled: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self.handled_at = 0.0

    def __repr__(self) -> str:
        return f"<Flow handled={self._counts}>"

    @property
    def handled(self) -> int:
        """How many messages are off their way."""
        return self._total(self._counts)

    async def run(self, window: int) -> Outcome:
        """Let it flow until all is handled, or nothing moves any more."""
        share = max(1, window // len(self._producers))
        for producer in self._producers:
            producer.send(window=share)
        async with asyncio.TaskGroup() as group:
            listening = [
                group.create_task(self._listen(number)) for number in range(len(self._consumers))
            ]
            ends = [await producer.receive() for producer in self._producers]
            sent = sum(end["sent"] for end in ends)
            self._tell_consumers(finish=True)
            await self._all(sent)
            self._tell_consumers(stop=True)
            await asyncio.wait(listening)
        settled = max(each["settled"] for each in self._settled)
        return Outcome(
            sent=sent,
            warm_up=sum(end["warm"] for end in ends),
            handled=self.handled,
            begin=min(end["begin"] for end in ends),
            # If something is missing, it was waited for in vain before anybody settled.
            end=self.handled_at if self.handled < sent else max(self.handled_at, settled),
            latencies=sorted(each for end in self._settled for each in end["latencies"]),
            confirmations=sorted(each for end in ends for each in end["confirmations"]),
        )

    async def _listen(self, number: int) -> None:
        while "settled" not in (message := await self._consumers[number].receive()):
            self._counts[number] = message["handled"]
            self.handled_at = max(self.handled_at, message["at"])
            self._changed.set()
            for producer in self._producers:
                producer.send(handled=self.handled // len(self._producers))
        self._settled.append(message)

    async def _all(self, sent: int) -> None:
        while self.handled < sent:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), _QUIET)
            except TimeoutError:
                return

    def _tell_consumers(self, **values: bool) -> None:
        for consumer in self._consumers:
            consumer.send(**values)
