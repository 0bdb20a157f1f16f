"""`corekit doctor`: what is installed, and whether backends answer."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from .. import memory
from ..adapters import (
    AdapterContext,
    CacheAdapter,
    Delivery,
    EventQueueAdapter,
    LockAdapter,
    PubSubAdapter,
)
from ..config import BackendURL
from ..errors import BackendUnavailable, CorekitError
from ..plugins import COMPONENTS, AdapterRegistry, Discovery, build_adapter, discover

_PATIENCE = 15.0
_APP = "corekit-doctor"


@dataclass
class Check:
    """One component of one backend."""

    url: str
    component: str
    guarantees: list[str] = field(default_factory=list)
    round_trip: float | None = None
    """Seconds; None if it failed."""

    error: str | None = None


@click.command()
@click.argument("urls", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(urls: Sequence[str], *, as_json: bool) -> None:
    """Tell which adapters are installed and which plugins failed.

    With URLS: whether each backend can be reached, what it guarantees, and how long a round trip
    takes. Exits with 1 if a plugin failed or a backend did not answer.
    """
    discovery = discover({"corekit": memory})
    registry = discovery.adapters()
    checks = asyncio.run(_checked(discovery, registry, [BackendURL.parse(url) for url in urls]))
    if as_json:
        click.echo(json.dumps(_as_json(discovery, registry, checks), indent=2))
    else:
        _show(discovery, registry, checks)
    if discovery.failures or any(check.error for check in checks):
        raise SystemExit(1)


async def _checked(
    discovery: Discovery, registry: AdapterRegistry, urls: Sequence[BackendURL]
) -> list[Check]:
    checks = []
    for url in urls:
        offered = [name for name in COMPONENTS if registry.factory(name, url.scheme) is not None]
        # A scheme that nobody offers is one failed check; its error says what to install.
        for component in offered or COMPONENTS[:1]:
            check = Check(str(url), component if offered else "-")
            checks.append(check)
            try:
                await _check(discovery, registry, component, url, check)
            except CorekitError as error:
                check.error = f"{type(error).__name__}: {error}"
    return checks


async def _check(
    discovery: Discovery, registry: AdapterRegistry, component: str, url: BackendURL, check: Check
) -> None:
    context = AdapterContext(_APP, f"doctor-{os.getpid()}-{os.urandom(4).hex()}")
    adapter = build_adapter(discovery, registry, component, url, context)
    try:
        async with asyncio.timeout(_PATIENCE):
            check.round_trip = await _ROUND_TRIPS[component](
                adapter, f"{_APP}/{os.urandom(8).hex()}"
            )
        check.guarantees = sorted(adapter.guarantees)
    except TimeoutError as error:
        raise BackendUnavailable(f"no answer within {_PATIENCE:g} s") from error
    finally:
        await adapter.close()


async def _cache_round_trip(adapter: CacheAdapter, name: str) -> float:
    await adapter.open()
    space = adapter.space(name)
    began = time.perf_counter()
    await space.get("absent")
    return time.perf_counter() - began


async def _pub_sub_round_trip(adapter: PubSubAdapter, name: str) -> float:
    arrived = asyncio.Event()

    class Receiver:
        def messages(self, channel: str, payloads: Sequence[bytes]) -> None:
            arrived.set()

        def gap(self, channel: str) -> None:
            pass

    await adapter.open(Receiver())
    await adapter.subscribe(name)
    began = time.perf_counter()
    await adapter.publish(name, b"doctor")
    await arrived.wait()
    return time.perf_counter() - began


async def _event_queue_round_trip(adapter: EventQueueAdapter, name: str) -> float:
    delivered: asyncio.Queue[Delivery] = asyncio.Queue()

    class Receiver:
        def deliveries(self, batch: Sequence[Delivery]) -> None:
            for delivery in batch:
                delivered.put_nowait(delivery)

        def expired(self, delivery: Delivery) -> None:
            pass

    await adapter.open()
    consumer = adapter.consume(name, Receiver())
    consumer.grant(1)
    began = time.perf_counter()
    await adapter.publish(name, os.urandom(16).hex(), b"doctor")
    consumer.ack(await delivered.get())
    took = time.perf_counter() - began
    await consumer.close()
    return took


async def _lock_round_trip(adapter: LockAdapter, name: str) -> float:
    await adapter.open()
    began = time.perf_counter()
    grant = await adapter.acquire(name, 10.0, 0.0)
    if grant is not None:
        await adapter.release(grant)
    return time.perf_counter() - began


_ROUND_TRIPS: dict[str, Any] = {
    "cache": _cache_round_trip,
    "pub_sub": _pub_sub_round_trip,
    "event_queue": _event_queue_round_trip,
    "lock": _lock_round_trip,
}


def _as_json(
    discovery: Discovery, registry: AdapterRegistry, checks: Sequence[Check]
) -> dict[str, Any]:
    return {
        "corekit": version("corekit"),
        "python": platform.python_version(),
        "distributions": discovery.loaded,
        "failures": {
            name: f"{type(error).__name__}: {error}" for name, error in discovery.failures.items()
        },
        "adapters": registry.schemes(),
        "checks": [asdict(check) for check in checks],
    }


def _show(discovery: Discovery, registry: AdapterRegistry, checks: Sequence[Check]) -> None:
    console = Console()
    console.print(f"corekit {version('corekit')}, Python {platform.python_version()}")
    schemes = registry.schemes()
    table = Table("scheme", "distribution", *COMPONENTS)
    for scheme in sorted({scheme for offered in schemes.values() for scheme in offered}):
        distribution = next(offered[scheme] for offered in schemes.values() if scheme in offered)
        released = discovery.loaded.get(distribution) or version("corekit")
        marks = ("yes" if scheme in schemes[component] else "-" for component in COMPONENTS)
        table.add_row(f"{scheme}://", f"{distribution} {released}", *marks)
    console.print(table)
    for name, error in discovery.failures.items():
        console.print(f"[red]{name} failed:[/red] {type(error).__name__}: {error}")
    if checks:
        console.print(_check_table(checks))


def _check_table(checks: Sequence[Check]) -> Table:
    table = Table("backend", "component", "round trip", "guarantees")
    for check in checks:
        if check.round_trip is None:
            table.add_row(check.url, check.component, "[red]failed[/red]", check.error)
        else:
            took = f"{check.round_trip * 1000:.3f} ms"
            table.add_row(check.url, check.component, took, ", ".join(check.guarantees))
    return table
