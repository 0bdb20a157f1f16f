"""Subjects: what is measured, one line of a table each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from corekit import memory
from corekit.adapters import AdapterContext, Guarantee
from corekit.config import BackendURL
from corekit.errors import ConfigurationError
from corekit.plugins import build_adapter, discover

from .contracts import Component
from .peers import load_peer

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

#: Which server of ours stands behind a URL that names no address, and an address that its scheme
#: allows: to ask for the guarantees, any will do, as nothing connects to it.
_STARTED = {
    "zmq": ("zmq", "127.0.0.1:1"),
    "zmq+ipc": ("zmq, ipc", "/nowhere"),
    "etcd": ("etcd", "127.0.0.1:1"),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """One implementation of one component: a corekit backend, or a peer's."""

    name: str
    component: Component
    promise: str
    """What it guarantees, in a few words."""

    durable: bool
    shared: bool
    """Whether several processes can reach it."""

    statement: str
    """The Python statement by which a user imports it."""

    url: str = ""
    server: str | None = None
    """The server of `servers.SERVERS` that is started for it; its URL then takes the place of
    `url`."""

    server_pid: int | None = None
    peer: str | None = None
    """The module in `peers/`; None: corekit itself."""


def backend_subjects(backend: str, only: Component | None = None) -> list[Subject]:
    """Return a subject for each component that *backend*, a URL, offers, or for *only* that one.

    `zmq://`, `zmq+ipc://` and `etcd://` without an address mean a server that is started for the
    measurement.
    Raises ConfigurationError if *only*, or anything at all, is not offered.
    """
    url = BackendURL.parse(backend)
    server, address = _STARTED.get(url.scheme, (None, ""))
    if url.addresses or url.path:
        server = None
    elif server is not None:
        url = BackendURL.parse(f"{url.scheme}://{address}")
    discovery = discover({"corekit": memory})
    registry = discovery.adapters()
    context = AdapterContext("bench", f"bench-{os.getpid()}")
    offered = [each for each in COMPONENTS if registry.factory(each, url.scheme) is not None]
    subjects = []
    for component in [only] if only else offered or COMPONENTS[:1]:
        adapter = build_adapter(discovery, registry, component, url, context)
        guarantees: frozenset[Guarantee] = adapter.guarantees
        subjects.append(
            Subject(
                name=backend if server else str(url),
                component=component,
                promise=", ".join(each for each in _TOLD if each in guarantees) or "-",
                durable=Guarantee.DURABLE in guarantees,
                shared=Guarantee.SHARED in guarantees,
                statement="from corekit import App",
                url=backend,
                server=server,
            )
        )
    return subjects


def peer_subjects(names: Iterable[str]) -> tuple[list[Subject], dict[str, str]]:
    """Return a subject for each offer of the peers *names*, and why some peers have none."""
    subjects = []
    missing = {}
    for name in names:
        try:
            peer = load_peer(name)
        except ImportError as error:
            missing[name] = f"{error}: pip install 'corekit-benchmarks[peers]'"
            continue
        subjects += [
            Subject(
                name=offer.name,
                component=offer.component,
                promise=offer.promise,
                durable=offer.durable,
                shared=offer.server is not None,
                statement=peer.statement,
                server=offer.server,
                peer=name,
            )
            for offer in peer.offers
        ]
    return subjects, missing


def chosen_subjects(
    backends: Iterable[str], by_component: dict[Component, Iterable[str]]
) -> list[Subject]:
    """Return the subjects of *backends*, and of the URLs that are given for one component each.

    Raises ConfigurationError for a URL that is given twice for the same component.
    """
    subjects = [subject for url in backends for subject in backend_subjects(url)]
    for component, urls in by_component.items():
        subjects += [subject for url in urls for subject in backend_subjects(url, component)]
    seen = set()
    for subject in subjects:
        if (subject.component, subject.name) in seen:
            raise ConfigurationError(f"{subject.component}: {subject.name} is given twice")
        seen.add((subject.component, subject.name))
    return subjects
