"""What a workload needs of its subject, and what a workload is.

Each component has one small client. corekit (`application.py`) and every peer (`peers/`) implement
it as their own documentation advises, so a workload is written once and says nothing about whom it
measures. Hot calls are attributes that may be the library's own bound methods: no layer of ours is
measured along.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .settings import Settings

Component = Literal["cache", "pub_sub", "event_queue", "lock"]


class CacheClient(Protocol):
    """A cache."""

    @property
    def get(self) -> Callable[[str], Awaitable[object]]:
        """Return the value of a key."""
        ...

    @property
    def set(self) -> Callable[[str, bytes, int], Awaitable[object]]:
        """Keep a value for some seconds."""
        ...

    @property
    def delete(self) -> Callable[[str], Awaitable[object]]:
        """Remove a key."""
        ...

    def cached(
        self, fn: Callable[[int], Awaitable[bytes]], *, once: bool
    ) -> Callable[[int], Awaitable[object]]:
        """Return *fn* with its results cached for an hour.

        *once*: with the library's protection, if it has any, against loading for many callers at
        once. Raises NotImplementedError if it does not cache functions.
        """
        ...


class PubSubClient(Protocol):
    """Pub/sub on `channels` channels."""

    @property
    def channels(self) -> Sequence[Any]:
        """The channels, as the library's own calls take them."""
        ...

    @property
    def publish(self) -> Callable[[Any, bytes], Awaitable[object]]:
        """Send something to a channel; returns when the library's own call does."""
        ...

    async def flush(self) -> None:
        """Return when everything published has left this process."""
        ...

    async def subscribe(self, handle: Callable[[bytes], None]) -> None:
        """Call *handle* for what is published to any channel after this call has returned."""
        ...


class QueueClient(Protocol):
    """A queue of work, of which each message is handled once."""

    async def publish(self, body: bytes) -> None:
        """Queue *body*; returns when it is confirmed, as the library's documentation advises."""
        ...

    async def consume(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        """Begin to handle messages, `in_flight` at a time; each is acknowledged afterwards."""
        ...

    async def settled(self) -> None:
        """Return when the acknowledgements of all handled messages have been sent."""
        ...

    async def purge(self) -> None:
        """Remove the queue with all that is in it."""
        ...


class LockClient(Protocol):
    """Locks with a lease of ten seconds."""

    async def turns(self, key: str, count: int) -> None:
        """Acquire and release *key*, *count* times."""
        ...

    async def section(self, key: str, inside: Callable[[], Awaitable[None]]) -> None:
        """Run *inside* under *key*, with the lease renewed if the library offers that."""
        ...


#: What opens a client: its arguments are a URL, a name that is new in each repetition, settings.
Opener = Callable[[str, str, Settings], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Offer:
    """One component of a peer."""

    name: str
    """What it is called in tables."""

    component: Component
    open: Opener
    promise: str
    """What it guarantees, in a few words: what its figures are to be compared with."""

    server: str | None = None
    """What it needs, by its name in `servers.SERVERS`; None: nothing outside of the process."""

    durable: bool = False
    """Whether what was confirmed survives a power cut, as it is set up here."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A library that people would use instead."""

    distributions: tuple[str, ...]
    """What is to be told by version."""

    statement: str
    """The Python statement by which a user imports it."""

    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a workload finds in each repetition."""

    name: str
    unit: Literal["/s", "s", "B", ""]
    better: Literal["more", "less"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one repetition found."""

    figures: dict[str, float]
    latencies: list[float] = field(default_factory=list)
    """Seconds, one for each operation that was timed; sorted."""


RATE = Figure("rate", "/s", "more")
LOST = Figure("lost", "", "less")

#: These two are taken from the latencies.
MEDIAN = Figure("median", "s", "less")
P99 = Figure("p99", "s", "less")


class Line(Protocol):
    """One end of the line between a role and who directs it."""

    def send(self, **values: Any) -> None:
        """Tell the other end."""
        ...

    async def receive(self) -> dict[str, Any]:
        """Return what the other end tells next."""
        ...


class Link(Line, Protocol):
    """The line as the role has it."""

    opening: Mapping[str, float]
    """What opening the role's client took, imports included: `time` in seconds, `memory` in bytes
    that stayed resident."""


class Role(Line, Protocol):
    """The line as the director has it; `receive` raises RoleFailed if the role did."""

    async def kill(self) -> None:
        """End the role's process as a power cut would."""
        ...


class Stage(Protocol):
    """Where the roles of one repetition run."""

    settings: Settings
    shared: bool
    """Whether the subject can be reached from several processes."""

    statement: str
    """The Python statement by which a user imports the subject."""

    async def start(self, role: str, process: int | None = None) -> Role:
        """Start *role*, in a process of its own if the subject can be reached from several.

        Those that name the same *process*, any number, share one.
        """
        ...

    def server_memory(self) -> int | None:
        """Return the resident bytes of the subject's server, None if it is not known."""
        ...


@dataclass(frozen=True, slots=True)
class About:
    """What a workload is called, and what it needs."""

    name: str
    component: Component | None
    """None: any; the subject's first is taken."""

    title: str
    """What is measured; names of settings stand in braces."""

    figures: tuple[Figure, ...]
    """The first one is compared."""

    roles: tuple[str, ...] = ("client",)
    """Its methods `async def role(client, link, settings)`; they run where users' code does."""

    needs_shared: bool = False
    """Whether it makes sense only if several processes can reach the subject."""

    repeat_at_most: int = 1000
    """Fewer repetitions where one says enough."""

    repeat_times: int = 1
    """So many times as many repetitions where one process differs from the next by more than the
    subjects do from each other; not for the points of curves."""

    repeat_within: float = math.inf
    """A subject whose repetition takes longer than so many seconds is not measured again: that is
    a time-out of its own, which does not vary."""

    scales: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The settings over which a full run draws a curve, with their values."""

    repeats_curves: bool = False
    """Whether the points of its curves are repeated as often as all else: a goal compares them."""


class Workload(Protocol):
    """One kind of load."""

    @property
    def about(self) -> About:
        """Its description."""
        ...

    async def run(self, stage: Stage) -> Sample:
        """Direct one repetition."""
        ...
