"""etcd locks and cache beside the bare client: rates, and the four ratios that are the goals.

The bare client is etcd3aio's. Every form is measured in small portions, in turns, so that a slower
moment of the machine meets all of them alike; medians over the portions count.

    python benchmarks/etcd_speed.py [NODES]
"""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from etcd3aio import Etcd3Client

from corekit import App

ROUNDS = 20
PORTION = 50
IN_FLIGHT = 64
WAITERS = 100

Form = Callable[[], Awaitable[object]]


def servers() -> Any:
    """Return the module of the backend's tests that starts etcd."""
    path = Path(__file__).parents[1] / "backends/etcd/tests/servers.py"
    spec = importlib.util.spec_from_file_location("servers", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["servers"] = module
    spec.loader.exec_module(module)
    return module


async def medians(forms: dict[str, Form], portion: int = PORTION) -> dict[str, float]:
    """Return the median time of one call of each form, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, form in forms.items():
            start = time.perf_counter()
            for _ in range(portion):
                await form()
            times[name].append((time.perf_counter() - start) / portion)
    return {name: statistics.median(each) for name, each in times.items()}


async def locks(app: App, bare: Etcd3Client) -> None:
    """Measure taking and releasing a free lock."""

    async def ours() -> None:
        lease = await app.lock_manager.acquire("key")
        await lease.release()

    async def section() -> None:
        async with app.lock_manager.lock("key"):
            pass

    async def theirs() -> None:
        lock = bare.lock("key", ttl=10)
        await lock.acquire()
        await lock.release()

    async def two_writes() -> None:
        await bare.kv.put("bare", b"1")
        await bare.kv.put("bare", b"2")

    await ours()
    found = await medians(
        {"two bare writes": two_writes, "ours": ours, "ours, renewing": section, "etcd3aio": theirs}
    )
    show(found)
    goal("acquire+release / two bare writes", found["two bare writes"] / found["ours"], 0.8)
    goal("acquire+release / etcd3aio's lock", found["etcd3aio"] / found["ours"], 1.5)


async def hand_over(app: App, other: App, bare: Etcd3Client) -> None:
    """Pass one lock through waiters of two instances; each does a bare write while it has it."""
    released = 0.0
    taken: list[float] = []
    writes: list[float] = []

    async def wait(manager: Any) -> None:
        nonlocal released
        lease = await manager.acquire("handed", 60)
        if released:
            taken.append(time.perf_counter() - released)
        start = time.perf_counter()
        await bare.kv.put("bare", b"1")
        writes.append(time.perf_counter() - start)
        released = time.perf_counter()
        await lease.release()

    first = await app.lock_manager.acquire("handed", 60)
    async with asyncio.TaskGroup() as tasks:
        for number in range(WAITERS):
            tasks.create_task(wait((app, other)[number % 2].lock_manager))
        await asyncio.sleep(2)
        await first.release()
    middle = statistics.median(taken)
    print(
        f"{'hand-over, from release() to the next':40}{1 / middle:10,.0f}/s{middle * 1e3:9.3f} ms"
    )
    goal("hand-over in bare writes", middle / statistics.median(writes), 3, at_most=True)


async def caches(app: App, bare: Etcd3Client) -> None:
    """Measure reading one key, and writing many at once."""
    value = b"x" * 256
    await app.cache.set("key", value)
    await bare.kv.put("bare", value)
    found = await medians(
        {"bare get": lambda: bare.kv.get("bare"), "cache.get": lambda: app.cache.get("key")}
    )
    show(found)
    goal("cache.get in bare gets", found["cache.get"] / found["bare get"], 1.5, at_most=True)

    async def bare_puts() -> None:
        await asyncio.gather(*(bare.kv.put(f"bare{n}", value) for n in range(IN_FLIGHT)))

    async def our_puts() -> None:
        await asyncio.gather(*(app.cache.set(f"key{n}", value, 60) for n in range(IN_FLIGHT)))

    found = await medians({"64 bare puts at once": bare_puts, "64 cache.set at once": our_puts}, 5)
    show({name: each / IN_FLIGHT for name, each in found.items()})
    goal("cache.set / bare put", found["64 bare puts at once"] / found["64 cache.set at once"], 0.7)


def show(found: dict[str, float]) -> None:
    """Print rates and times."""
    for name, seconds in found.items():
        print(f"{name:40}{1 / seconds:10,.0f}/s{seconds * 1e3:9.3f} ms")


def goal(name: str, ratio: float, bound: float, *, at_most: bool = False) -> None:
    """Print a ratio beside its goal."""
    met = ratio <= bound if at_most else ratio >= bound
    sign = "<=" if at_most else ">="
    print(f"  {name:38}{ratio:10.2f}  goal {sign} {bound}  {'met' if met else 'MISSED'}")


async def measure(cluster: Any) -> None:
    """Measure everything on a cluster that runs."""
    addresses = [node.address for node in cluster.nodes]
    async with (
        Etcd3Client(addresses) as bare,
        App("bench", cache=cluster.url, lock=cluster.url) as app,
        App("bench", cache=cluster.url, lock=cluster.url) as other,
    ):
        await locks(app, bare)
        await hand_over(app, other, bare)
        await caches(app, bare)


def main() -> None:
    """Start etcd, measure, stop it."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory() as directory:
        cluster = servers().Etcd(Path(directory), size)
        try:
            cluster.start()
            asyncio.run(measure(cluster))
        finally:
            cluster.kill()


if __name__ == "__main__":
    main()
