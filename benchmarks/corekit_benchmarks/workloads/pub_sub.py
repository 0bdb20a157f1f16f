"""Pub/sub: throughput, fan-out, and latency at rest and under load."""

from __future__ import annotations

import itertools

from ..contracts import LOST, MEDIAN, P99, RATE, About, Link, PubSubClient, Sample, Stage, Workload
from ..settings import Settings
from .flow import Flow, Outcome, Publish, Receipts, flood, pace, settle

#: What is on its way at most: messages, and all together about so many bytes.
_WINDOW = 10_000
_WINDOW_BYTES = 8 * 1024 * 1024

#: More subscribers than these share the window: what is on its way are deliveries.
_UNDIVIDED = 4

#: The most processes that subscribers are spread over.
_PROCESSES = 10

#: Messages a second "at rest".
_AT_REST = 200

#: One publisher and one subscriber differ by a third from the next two that do the same.
_TIMES = 4

_ROLES = ("publisher", "subscriber")


class Throughput:
    """As many messages as go through, to one subscriber process or to several."""

    def __init__(self, about: About, *, fan_out: bool) -> None:
        self.about = about
        self._fan_out = fan_out

    def __repr__(self) -> str:
        return f"<Throughput {self.about.name}>"

    async def run(self, stage: Stage) -> Sample:
        settings = stage.settings
        subscribers = settings.subscribers if self._fan_out else 1
        publishers = settings.processes if stage.shared else 1
        outcome = await _flow(stage, publishers, subscribers)
        return Sample({"rate": outcome.rate * subscribers, "lost": outcome.lost})

    async def publisher(self, client: PubSubClient, link: Link, settings: Settings) -> None:
        """Publish as fast as it goes."""
        await flood(link, settings, _in_turn(client))
        await client.flush()

    async def subscriber(self, client: PubSubClient, link: Link, settings: Settings) -> None:
        """Count."""
        subscribers = settings.subscribers if self._fan_out else 1
        receipts = Receipts(link, _window(settings, subscribers))
        await client.subscribe(receipts.note)
        link.send(ready=True)
        await receipts.until_told()
        await settle(link, receipts, client.flush)


class Latency:
    """From publishing to the handler's call, one message after another or at a rate."""

    def __init__(self, about: About, *, loaded: bool) -> None:
        self.about = about
        self._loaded = loaded

    def __repr__(self) -> str:
        return f"<Latency {self.about.name}>"

    async def run(self, stage: Stage) -> Sample:
        outcome = await _flow(stage, 1, 1)
        return Sample({"lost": outcome.lost}, outcome.latencies)

    async def publisher(self, client: PubSubClient, link: Link, settings: Settings) -> None:
        """Publish at a rate."""
        rate = settings.rate if self._loaded else _AT_REST
        await pace(link, settings, _in_turn(client), rate, overlapping=self._loaded)
        await client.flush()

    async def subscriber(self, client: PubSubClient, link: Link, settings: Settings) -> None:
        """Note how long each message took."""
        receipts = Receipts(link, _window(settings, 1))
        await client.subscribe(receipts.note_latency)
        link.send(ready=True)
        await receipts.until_told()
        await settle(link, receipts, client.flush)


def _in_turn(client: PubSubClient) -> Publish:
    publish, channels = client.publish, itertools.cycle(client.channels)
    return lambda body: publish(next(channels), body)


async def _flow(stage: Stage, publishers: int, subscribers: int) -> Outcome:
    consumers = [
        await stage.start("subscriber", number % _PROCESSES) for number in range(subscribers)
    ]
    producers = [await stage.start("publisher") for _ in range(publishers)]
    for role in (*consumers, *producers):
        await role.receive()
    # A message is off its way when the slowest has it.
    return await Flow(producers, consumers, total=min).run(_window(stage.settings, subscribers))


def _window(settings: Settings, subscribers: int) -> int:
    most = min(_WINDOW, _WINDOW_BYTES // max(1, settings.payload))
    return max(10, most * _UNDIVIDED // max(_UNDIVIDED, subscribers))


WORKLOADS: tuple[Workload, ...] = (
    Throughput(
        About(
            "pub_sub.throughput",
            "pub_sub",
            "one subscriber process, {payload} B, {in_flight} in flight, "
            "channels: {channels}, publishers: {processes}",
            (RATE, LOST),
            roles=_ROLES,
            repeat_times=_TIMES,
            scales={
                "payload": (64, 1024, 16_384),
                "in_flight": (1, 8, 64),
                "channels": (1, 100, 10_000),
            },
        ),
        fan_out=False,
    ),
    Throughput(
        About(
            "pub_sub.fan_out",
            "pub_sub",
            "deliveries to {subscribers} subscribers in processes of their own, ten at most; "
            "{payload} B, {in_flight} in flight",
            (RATE, LOST),
            roles=_ROLES,
            scales={"subscribers": (1, 10, 100)},
        ),
        fan_out=True,
    ),
    Latency(
        About(
            "pub_sub.latency",
            "pub_sub",
            f"publish to handler at rest: {_AT_REST} messages a second, {{payload}} B",
            (MEDIAN, P99, LOST),
            roles=_ROLES,
            repeat_times=_TIMES,
        ),
        loaded=False,
    ),
    Latency(
        About(
            "pub_sub.latency_under_load",
            "pub_sub",
            "publish to handler under load: {rate} messages a second, {payload} B",
            (MEDIAN, P99, LOST),
            roles=_ROLES,
        ),
        loaded=True,
    ),
)
