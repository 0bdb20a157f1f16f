"""Memory of a connection: where it reads to, and what the system holds of what was sent."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

#: Where connections read to, in bytes. The same memory each time: asyncio would get as much anew
#: for whatever comes, and the system's work for that takes longer than a small frame.
BUFFER_SIZE = 256 * 1024

#: What may be on its way through a socket of the file system, in bytes: several full frames. The
#: usual 208 KiB count the system's own overhead and do not hold two, so that most would leave in
#: pieces, for each of which the other side has to be waited for. The system may allow less.
_SEND_BUFFER = 1024 * 1024


def widen(transport: asyncio.BaseTransport) -> None:
    """Let a whole frame leave at once. TCP sees to that itself, from what its connection needs."""
    connection: socket.socket = transport.get_extra_info("socket")
    if connection.family == socket.AF_UNIX:
        with suppress(OSError):  # a system that refuses what it could have cut
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
