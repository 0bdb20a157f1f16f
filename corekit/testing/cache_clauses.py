"""What the clauses of the cache suite are made of: its settings, adapters and spaces."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from ..adapters import CacheAdapter, CacheSpace, Guarantee
from ..clock import SYSTEM_CLOCK, Clock
from .clock import VirtualClock


class CacheClauses:
    """The settings of a suite, and how its tests come to adapters and spaces."""

    virtual = False
    """Whether to run in virtual time; `self.clock` must then be handed to the adapter."""

    meets: bool | None = None
    """Whether two adapters meet in one store; None: if they declare `Guarantee.SHARED`."""

    lifetime = 0.4
    """The lifetime that entries are written with, in seconds; longer than a few calls take."""

    collected_within = 10.0
    """How long an entry may outlive its lifetime, in seconds."""

    few: ClassVar[Mapping[str, Any]] = {}
    """Options of a space that has room for 8 entries; empty if the store has none such."""

    clock: Clock

    def make_adapter(self) -> CacheAdapter:
        """Return a new adapter, not opened; each one plays a process of its own."""
        raise NotImplementedError

    @pytest.fixture(name="clock")
    def clock_of_the_test(self) -> Clock:
        """Return the clock that the test runs on."""
        return VirtualClock() if self.virtual else SYSTEM_CLOCK

    @pytest.fixture(autouse=True)
    def prepare(self, clock: Clock) -> None:
        """Give every test its clock and a name that no other test uses."""
        self.clock = clock
        self.name = f"suite-{secrets.token_hex(8)}/cache/a"

    @asynccontextmanager
    async def adapters(self, count: int) -> AsyncIterator[list[CacheAdapter]]:
        """Open *count* adapters."""
        adapters = [self.make_adapter() for _ in range(count)]
        try:
            for adapter in adapters:
                await adapter.open()
            yield adapters
        finally:
            for adapter in adapters:
                await adapter.close()

    @asynccontextmanager
    async def space(self, *needed: Guarantee) -> AsyncIterator[CacheSpace]:
        """Open an adapter, which must declare what is *needed*, and give one of its spaces."""
        async with self.adapters(1) as (adapter,):
            for guarantee in needed:
                self.need(adapter, guarantee)
            yield adapter.space(self.name)

    def need(self, adapter: CacheAdapter, guarantee: Guarantee) -> None:
        """Skip the test unless *adapter* declares *guarantee*."""
        if guarantee not in adapter.guarantees:
            pytest.skip(f"the adapter does not declare {guarantee.name}")

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
