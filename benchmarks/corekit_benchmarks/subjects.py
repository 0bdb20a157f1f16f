"""Subjects: what is measured, one line of a table each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from corekit import memory
from corekit.adapters import AdapterContext, Guarantee
from corekit.config import BackendURL
from corekit.plugins import build_adapter, discover

from .contracts import Component

COMPONENTS: tuple[Component, ...] = ("cache", "pub_sub", "event_queue", "lock")

#: Guarantees that say how far figures can be compared, in the order in which they are told.
_TOLD = (
    Guarantee.DURABLE,
    Guarantee.PERSISTENT,
    Guarantee.ORDERED,
    Guarantee.REPLAYED,
    Guarantee.FENCED,
    Guarantee.FAIR,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """One implementation of one component: a corekit backend, or a peer's."""

    name: str
    component: Component
    url: str
    promise: str
    """What it guarantees, in a few words."""

    durable: bool
    shared: bool
    """Whether several processes can reach it."""

    peer: str | None = None
    """The module in `peers/`; None: corekit itself."""

    offer: str = ""
    """The name of the peer's offer."""

    statement: str = "import corekit"
    server: str = ""
    """The server's version and how it was started, if that was done here."""

    server_pid: int | None = None


def backend_subjects(
    backend: str, only: Component | None = None, *, server: str = "", server_pid: int | None = None
) -> Iterator[Subject]:
    """Yield a subject for each component that *backend*, a URL, offers, or for *only* that one.

    Raises what `build_adapter` raises if *only* is not offered, and for a backend that offers
    nothing.
    """
    url = BackendURL.parse(backend)
    discovery = discover({"corekit": memory})
    registry = discovery.adapters()
    context = AdapterContext("bench", f"bench-{os.getpid()}")
    offered = [each for each in COMPONENTS if registry.factory(each, url.scheme) is not None]
    for component in [only] if only else offered or COMPONENTS[:1]:
        adapter = build_adapter(discovery, registry, component, url, context)
        guarantees: frozenset[Guarantee] = adapter.guarantees
        yield Subject(
            name=str(url),
            component=component,
            url=backend,
            promise=", ".join(each for each in _TOLD if each in guarantees) or "-",
            durable=Guarantee.DURABLE in guarantees,
            shared=Guarantee.SHARED in guarantees,
            server=server,
            server_pid=server_pid,
        )
