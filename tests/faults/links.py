"""Links between clients and a broker, and the ways in which they break for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from corekit.testing import Proxy


class Link(Proxy):
    """A link that breaks for a while."""

    async def suffer(self, kind: str, seconds: float) -> None:
        """Be broken in one of the ways of `KINDS`, and whole again after *seconds*."""
        try:
            await KINDS[kind](self, seconds)
        finally:
            self.restore()


async def _cut(link: Link, seconds: float) -> None:
    """Reset every connection, and refuse new ones."""
    link.refusing = True
    link.cut()
    await asyncio.sleep(seconds)


async def _reset(link: Link, seconds: float) -> None:
    """Reset every connection, again and again."""
    for _ in range(5):
        link.cut()
        await asyncio.sleep(seconds / 5)


async def _hold(link: Link, seconds: float) -> None:
    """Pass nothing on, and all of it afterwards, as a network does that was away."""
    link.hold()
    await asyncio.sleep(seconds)


async def _hold_requests(link: Link, seconds: float) -> None:
    """Hold what the client says, while it hears."""
    link.requests.holding = True
    await asyncio.sleep(seconds)


async def _hold_answers(link: Link, seconds: float) -> None:
    """Hold what the broker says, while it hears."""
    link.answers.holding = True
    await asyncio.sleep(seconds)


async def _drop(link: Link, seconds: float) -> None:
    """Throw everything away, and reset what has lost something."""
    link.requests.losing = link.answers.losing = True
    await asyncio.sleep(seconds)
    link.cut()


async def _drop_requests(link: Link, seconds: float) -> None:
    """Throw away what the client says, while it hears, and reset what has lost something."""
    link.requests.losing = True
    await asyncio.sleep(seconds)
    link.cut()


async def _drop_answers(link: Link, seconds: float) -> None:
    """Throw away what the broker says, while it hears, and reset what has lost something."""
    link.answers.losing = True
    await asyncio.sleep(seconds)
    link.cut()


async def _delay(link: Link, seconds: float) -> None:
    """Pass on small pieces, each late."""
    for direction in (link.requests, link.answers):
        direction.piece, direction.delay = 200, 0.02
    await asyncio.sleep(seconds)


async def _halve(link: Link, seconds: float) -> None:
    """Pass on half of what comes next, and end the connection."""
    link.requests.halving = link.answers.halving = True
    await asyncio.sleep(seconds)


KINDS: dict[str, Callable[[Link, float], Awaitable[None]]] = {
    "cut": _cut,
    "reset": _reset,
    "hold": _hold,
    "hold requests": _hold_requests,
    "hold answers": _hold_answers,
    "drop": _drop,
    "drop requests": _drop_requests,
    "drop answers": _drop_answers,
    "delay": _delay,
    "halve": _halve,
}
