"""Queues: throughput, latency at rest and under load, depth, and redelivery after a crash."""

from __future__ import annotations

import asyncio
from typing import Any

from ..contracts import (
    LOST,
    MEDIAN,
    P99,
    RATE,
    About,
    Figure,
    Line,
    Link,
    QueueClient,
    Role,
    Sample,
    Stage,
    Workload,
)
from ..settings import Settings
from .flow import Flow, Outcome, Receipts, flood, pace, settle
from .load import now

#: Messages on their way at most.
_WINDOW = 1_000

#: Messages a second "at rest".
_AT_REST = 100

#: While a queue is filled, a sign of life is given for every so many messages.
_SIGN = 100

#: How long `publish` took, until the message was confirmed.
CONFIRMED = Figure("publish confirmed, median", "s", "less")

_ROLES = ("producer", "consumer")


class Throughput:
    """Messages published and acknowledged, both at the same time."""

    about = About(
        "queue.throughput",
        "event_queue",
        "publish to acknowledged, {payload} B, {in_flight} in flight; "
        "producer and consumer processes: {processes} each",
        (RATE, LOST),
        roles=_ROLES,
        scales={"in_flight": (1, 8, 64, 256), "payload": (64, 1024, 16_384)},
    )

    async def run(self, stage: Stage) -> Sample:
        outcome = await _flow(stage, stage.settings.processes if stage.shared else 1)
        return Sample({"rate": outcome.rate, "lost": outcome.lost})

    async def producer(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Publish as fast as it goes."""
        await flood(link, settings, client.publish)
        await _purge_when_told(client, link)

    async def consumer(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Count and acknowledge."""
        await _consume(client, link)


class Latency:
    """From publishing to the handler's call, one message after another or at a rate."""

    def __init__(self, about: About, *, loaded: bool) -> None:
        self.about = about
        self._loaded = loaded

    def __repr__(self) -> str:
        return f"<Latency {self.about.name}>"

    async def run(self, stage: Stage) -> Sample:
        outcome = await _flow(stage, 1)
        confirmed = outcome.confirmations[len(outcome.confirmations) // 2]
        figures = {CONFIRMED.name: confirmed, "lost": outcome.lost}
        return Sample(figures, outcome.latencies)

    async def producer(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Publish at a rate."""
        rate = settings.rate if self._loaded else _AT_REST
        await pace(link, settings, client.publish, rate, overlapping=self._loaded)
        await _purge_when_told(client, link)

    async def consumer(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Note how long each message took."""
        await _consume(client, link, timed=True)


class Depth:
    """Throughput while many messages wait, and what they cost the server.

    A consumer that has enough to do may take more than is published meanwhile: the rate is the mean
    of both, since every message is published once and acknowledged once.
    """

    about = About(
        "queue.depth",
        "event_queue",
        "publishing and acknowledging, the mean of both, while {depth} messages wait, "
        "{payload} B, {in_flight} in flight",
        (
            RATE,
            Figure("published", "/s", "more"),
            Figure("acknowledged", "/s", "more"),
            Figure("filling", "/s", "more"),
            Figure("server memory for the depth", "B", "less"),
        ),
        roles=("producer", "consumer"),
        scales={"depth": (0, 10_000, 100_000, 1_000_000)},
        repeats_curves=True,
    )

    async def run(self, stage: Stage) -> Sample:
        producer = await stage.start("producer")
        await producer.receive()
        before = stage.server_memory()
        producer.send(fill=True)
        filled = await _told(producer, "seconds")
        after = stage.server_memory()
        consumer = await stage.start("consumer")
        for role in (producer, consumer):
            await role.receive()
        consumer.send(consume=True)
        outcome = await Flow([producer], [consumer], total=sum).run(_WINDOW)
        published, acknowledged = outcome.sent / outcome.seconds, outcome.rate
        figures = {
            "rate": (published + acknowledged) / 2,
            "published": published,
            "acknowledged": acknowledged,
        }
        if stage.settings.depth:
            figures["filling"] = stage.settings.depth / filled["seconds"]
            if before is not None and after is not None:
                figures["server memory for the depth"] = after - before
        await _purged(producer)
        return Sample(figures)

    async def producer(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Fill the queue; then publish as fast as it is emptied."""
        link.send(ready=True)
        await link.receive()
        body, begin, width = bytes(settings.payload), now(), settings.in_flight

        async def some(count: int) -> None:
            for done in range(count):
                await client.publish(body)
                if done % _SIGN == 0:
                    link.send(filling=True)

        await asyncio.gather(*(some(len(range(at, settings.depth, width))) for at in range(width)))
        link.send(seconds=now() - begin)
        # What is handled from the first message on is to be counted.
        await flood(link, settings, client.publish, warm_up=False)
        await _purge_when_told(client, link)

    async def consumer(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Count and acknowledge, once the producer has begun."""
        receipts = Receipts(link, _WINDOW)

        async def handle(body: bytes) -> None:
            receipts.note(body)

        async def at_once() -> None:
            """Wait for nothing: the rest of the depth is of no interest."""

        link.send(ready=True)
        await link.receive()
        await client.consume(handle)
        await receipts.until_told()
        await settle(link, receipts, at_once)


class Redelivery:
    """What a consumer was working on when it was killed."""

    about = About(
        "queue.redelivery",
        "event_queue",
        "from the kill -9 of a consumer until another one has its message",
        (Figure("delay", "s", "less"),),
        roles=("producer", "holder", "survivor"),
        needs_shared=True,
        repeat_within=20,
    )

    async def run(self, stage: Stage) -> Sample:
        holder = await stage.start("holder")
        await holder.receive()
        producer = await stage.start("producer")
        producer.send(publish=True)
        await holder.receive()
        survivor = await stage.start("survivor")
        await survivor.receive()
        killed = now()
        await holder.kill()
        delay = (await survivor.receive())["at"] - killed
        await _purged(producer)
        return Sample({"delay": delay})

    async def producer(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Publish one message."""
        await link.receive()
        await client.publish(bytes(settings.payload))
        await _purge_when_told(client, link)

    async def holder(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Take the message and never end."""

        async def hold(body: bytes) -> None:
            link.send(holds=True)
            await asyncio.Event().wait()

        await client.consume(hold)
        link.send(ready=True)
        await asyncio.Event().wait()

    async def survivor(self, client: QueueClient, link: Link, settings: Settings) -> None:
        """Tell when the message comes."""

        async def handle(body: bytes) -> None:
            link.send(at=now())

        await client.consume(handle)
        link.send(ready=True)
        await asyncio.Event().wait()


async def _flow(stage: Stage, processes: int) -> Outcome:
    consumers = [await stage.start("consumer") for _ in range(processes)]
    producers = [await stage.start("producer") for _ in range(processes)]
    for role in (*consumers, *producers):
        await role.receive()
    outcome = await Flow(producers, consumers, total=sum).run(_WINDOW)
    await _purged(producers[0])
    return outcome


async def _consume(client: QueueClient, link: Link, *, timed: bool = False) -> None:
    receipts = Receipts(link, _WINDOW)
    note = receipts.note_latency if timed else receipts.note

    async def handle(body: bytes) -> None:
        note(body)

    await client.consume(handle)
    link.send(ready=True)
    await receipts.until_told()
    await settle(link, receipts, client.settled)


async def _purge_when_told(client: QueueClient, link: Link) -> None:
    await _told(link, "purge")
    await client.purge()
    link.send(purged=True)


async def _purged(producer: Role) -> None:
    """Let *producer* remove what is left, so that the next repetition finds the server idle."""
    producer.send(purge=True)
    await _told(producer, "purged")


async def _told(line: Line, what: str) -> dict[str, Any]:
    while what not in (message := await line.receive()):
        pass
    return message


WORKLOADS: tuple[Workload, ...] = (
    Throughput(),
    Latency(
        About(
            "queue.latency",
            "event_queue",
            f"publish to handler at rest: {_AT_REST} messages a second, {{payload}} B",
            (MEDIAN, P99, CONFIRMED, LOST),
            roles=_ROLES,
        ),
        loaded=False,
    ),
    Latency(
        About(
            "queue.latency_under_load",
            "event_queue",
            "publish to handler under load: {rate} messages a second, {payload} B",
            (MEDIAN, P99, CONFIRMED, LOST),
            roles=_ROLES,
        ),
        loaded=True,
    ),
    Redelivery(),
    Depth(),
)
