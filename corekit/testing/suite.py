"""What the suites have in common: a clock, adapters that are opened and closed, guarantees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import pytest

from ..adapters import Guarantee
from ..clock import SYSTEM_CLOCK, Clock
from .clock import VirtualClock


class _Openable(Protocol):
    async def open(self) -> None: ...

    async def close(self) -> None: ...


class _Declaring(Protocol):
    guarantees: frozenset[Guarantee]


T = TypeVar("T", bound=_Openable)


class AdapterSuite:
    """The clock of a suite, and the switch for clauses that not every adapter promises.

    The clauses take real time, unless `virtual` says that the adapter lives in this process and
    goes by the clock in its context only.
    """

    virtual = False
    """Whether to run in virtual time; `self.clock` must then be handed to the adapter."""

    clock: Clock

    @pytest.fixture(name="clock")
    def clock_of_the_test(self) -> Clock:
        """Return the clock that the test runs on."""
        return VirtualClock() if self.virtual else SYSTEM_CLOCK

    @pytest.fixture(autouse=True)
    def prepare(self, clock: Clock) -> None:
        """Begin every test on its clock."""
        self.begin(clock)

    def begin(self, clock: Clock) -> None:
        """Begin a test that runs on *clock*; suites give it names that no other test uses."""
        self.clock = clock

    def need(self, adapter: _Declaring, *guarantees: Guarantee) -> None:
        """Skip the test unless *adapter* declares all *guarantees*."""
        for guarantee in guarantees:
            if guarantee not in adapter.guarantees:
                pytest.skip(f"the adapter does not declare {guarantee.name}")


@asynccontextmanager
async def opened(adapters: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Open *adapters* one after the other; close all of them at the end, opened or not."""
    try:
        for adapter in adapters:
            await adapter.open()
        yield adapters
    finally:
        for adapter in adapters:
            await adapter.close()
