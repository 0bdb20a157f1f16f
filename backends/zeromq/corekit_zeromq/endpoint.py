"""Where a broker is to be reached, in ZeroMQ's notation."""

from __future__ import annotations

import asyncio
import socket

from corekit.errors import BackendUnavailable

from .settings import Settings


async def locate(settings: Settings) -> str:
    """Return the endpoint of the broker; the one of a local broker is started if need be.

    Raises BackendUnavailable.
    """
    if settings.name:
        from .local import find_or_start

        return await find_or_start(settings)
    if settings.host is None:
        return f"ipc://{settings.path}"
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise BackendUnavailable(
            f"{settings.text}: the host name cannot be resolved: {error}"
        ) from error
    family, _, _, _, address = found[0]
    host = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
    return f"tcp://{host}:{settings.port}"
