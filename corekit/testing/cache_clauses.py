"""What the clauses of the cache suite are made of: its settings, adapters and spaces."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

import pytest

from ..adapters import CacheAdapter, CacheSpace, Guarantee
from ..clock import Clock
from .suite import AdapterSuite, opened


class CacheClauses(AdapterSuite):
    """The settings of a suite, and how its tests come to adapters and spaces."""

    meets: bool | None = None
    """Whether two adapters meet in one store; None: if they declare `Guarantee.SHARED`."""

    lifetime = 0.4
    """The lifetime that entries are written with, in seconds; longer than a few calls take."""

    collected_within = 10.0
    """How long an entry may outlive its lifetime, in seconds."""

    few: ClassVar[Mapping[str, Any]] = {}
    """Options of a space that has room for 8 entries; empty if the store has none such."""

    def make_adapter(self) -> CacheAdapter:
        """Return a new adapter, not opened; each one plays a process of its own."""
        raise NotImplementedError

    def begin(self, clock: Clock) -> None:
        super().begin(clock)
        self.name = f"suite-{secrets.token_hex(8)}/cache/a"

    def adapters(self, count: int) -> AbstractAsyncContextManager[Sequence[CacheAdapter]]:
        """Open *count* adapters, and close them at the end."""
        return opened([self.make_adapter() for _ in range(count)])

    @asynccontextmanager
    async def space(self, *needed: Guarantee) -> AsyncIterator[CacheSpace]:
        """Open an adapter, which must declare what is *needed*, and give one of its spaces."""
        async with self.adapters(1) as (adapter,):
            self.need(adapter, *needed)
            yield adapter.space(self.name)

    def need_meeting(self, adapter: CacheAdapter) -> None:
        """Skip the test unless two adapters meet in one store."""
        if self.meets is None:
            self.need(adapter, Guarantee.SHARED)
        elif not self.meets:
            pytest.skip("two adapters do not meet")

    async def value(self, space: CacheSpace, key: str) -> Any:
        """Return the value under *key*, which must be there."""
        stored = await space.get(key)
        assert stored is not None, f"there is no entry under {key!r}"
        return stored.value

    async def version(self, space: CacheSpace, key: str) -> object:
        """Return the version of the entry under *key*, which must be there."""
        stored = await space.get(key)
        assert stored is not None, f"there is no entry under {key!r}"
        assert stored.version is not None
        return stored.version

    async def until_collected(self, space: CacheSpace, key: str) -> None:
        """Wait until *key* has been collected: by then others could have been too."""
        deadline = self.clock.monotonic() + self.lifetime + self.collected_within
        while self.clock.monotonic() < deadline and await space.get(key) is not None:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(self.lifetime / 4)
        await asyncio.sleep(self.lifetime)
