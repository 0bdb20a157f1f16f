"""What the suite for pub/sub adapters sees of each process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from ..adapters import PubSubAdapter


@dataclass
class Process:
    """An adapter and what it was given: the part of one process."""

    adapter: PubSubAdapter
    arrived: dict[str, list[bytes | None]] = field(default_factory=dict)
    """By channel: the payloads, and None for each gap."""

    late: list[str] = field(default_factory=list)
    """Channels of which something came when nothing may come any more."""

    ended: bool = False
    thread: int = field(default_factory=threading.get_ident)

    def messages(self, channel: str, payloads: Sequence[bytes]) -> None:
        """Take payloads, as `MessageReceiver` says."""
        self._check(channel)
        assert all(type(payload) is bytes for payload in payloads)
        self.arrived.setdefault(channel, []).extend(payloads)

    def gap(self, channel: str) -> None:
        """Take note of a gap, as `MessageReceiver` says."""
        self._check(channel)
        self.arrived.setdefault(channel, []).append(None)

    def _check(self, channel: str) -> None:
        assert type(channel) is str
        assert threading.get_ident() == self.thread
        if self.ended:
            self.late.append(channel)

    def payloads(self, channel: str) -> list[bytes]:
        """Return what arrived on *channel*, without the gaps."""
        return [payload for payload in self.arrived.get(channel, ()) if payload is not None]

    def has(self, channel: str, count: int) -> bool:
        """Tell whether *count* messages arrived on *channel*."""
        return len(self.payloads(channel)) >= count

    def check_order(self, channel: str) -> None:
        """Check that numbers arrived in order, each once, and that a gap is where some miss."""
        expected = 0
        is_told = False
        for payload in self.arrived[channel]:
            if payload is None:
                is_told = True
                continue
            number = int(payload)
            assert number >= expected, f"{number} came twice or late"
            assert number == expected or is_told, f"{expected} to {number - 1} are missing"
            expected, is_told = number + 1, False

    async def open(self) -> None:
        """Open the adapter, with this process as its receiver."""
        await self.adapter.open(self)

    async def close(self) -> None:
        """Close the adapter; nothing may arrive from now on."""
        self.ended = True
        await self.adapter.close()


async def cancelled(call: Callable[[], Awaitable[None]], turns: int) -> bool:
    """Make *call* and cancel it after so many turns of the loop; tell whether that ended it."""

    async def calling() -> None:
        await call()

    task = asyncio.create_task(calling())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        await task
    return task.cancelled()
