"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import random
import socket
from itertools import cycle

#: Below the ports that systems give to outgoing connections: a server that is away for a moment
#: would lose its own to one of them.
_RANGE = range(16_000, 32_000)

_ports = cycle(random.sample(_RANGE, len(_RANGE)))


def free_port() -> int:
    """Return a port of the loopback interface that nobody has at the moment; each time another."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError  # it goes round for ever
