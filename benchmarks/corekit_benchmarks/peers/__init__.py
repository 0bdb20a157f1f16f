"""What people would use instead, behind the same small clients.

One module for each library, written as its documentation advises. It imports the library at its
top, so it can be imported only where that is installed.
"""

from __future__ import annotations

from importlib import import_module

from ..contracts import Component, Offer, Peer

#: The modules, in the order in which they are told.
PEERS = (
    "cashews",
    "aiocache",
    "nats",
    "redis",
    "aio_pika",
    "taskiq",
    "arq",
    "dramatiq",
    "asyncio_lock",
    "pyzmq",
    "etcd",
)


def load_peer(name: str) -> Peer:
    """Return the peer in the module *name*; raises ImportError if its library is not installed."""
    peer: Peer = import_module(f".{name}", __name__).PEER
    return peer


def find_offer(name: str, offer: str, component: Component) -> Offer:
    """Return one offer of a peer; raises LookupError if it has none of that name."""
    for each in load_peer(name).offers:
        if each.name == offer and each.component == component:
            return each
    raise LookupError(f"the peer {name!r} offers no {offer!r}")
