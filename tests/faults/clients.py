"""The programs of the fault tests, over the public interface: what they do is in their history.

    clients.py KIND NAME DIRECTORY URL OPTIONS

OPTIONS is a JSON object. A client prints "ready" when it is at work, and ends in order when its
standard input does.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from history import Recorder

from corekit import App, LockLost, OutcomeUnknown
from corekit.errors import CorekitError


class Client:
    """What each kind of client gets."""

    def __init__(self, name: str, directory: Path, url: str, options: dict[str, Any]) -> None:
        self.name = name
        self.url = url
        self.options = options
        self.record = Recorder(directory, name)
        self.random = random.Random(f"{options.get('seed', 0)}/{name}")  # noqa: S311 - repeatable
        self.ended = asyncio.Event()

    def app(self) -> App:
        """Return a new App, of the application that all clients play."""
        component = self.options.get("component", "backend")
        return App("faults", instance_id=self.name, **{component: self.url})

    def option(self, name: str, default: Any) -> Any:
        """Return an option."""
        return self.options.get(name, default)

    def pause(self, name: str, default: float) -> float:
        """Return a random time between 0 and twice that of the option."""
        return self.random.uniform(0, 2 * float(self.option(name, default)))

    def ready(self) -> None:
        """Tell the test that the client is at work."""
        print("ready", flush=True)  # noqa: T201 - this is how a program tells

    async def operate(self, op: str, call: Awaitable[Any], **facts: Any) -> None:
        """Record *call*, which is already made but not begun, and how it ended."""
        self.record(op, "call", **facts)
        try:
            result = await call
        except OutcomeUnknown as error:
            self.record(op, "unknown", error=str(error), **facts)
        except CorekitError as error:
            self.record(op, "fail", error=f"{type(error).__name__}: {error}", **facts)
            await asyncio.sleep(0.02)
        else:
            self.record(op, "ok", result=result, **facts)


async def publisher(client: Client) -> None:
    """Publish jobs, `width` at once, `count` of them if it is given."""
    channel, count = client.option("channel", "q"), client.option("count", None)
    numbers = itertools.count(1) if count is None else iter(range(1, count + 1))
    body = "x" * client.option("body", 200)

    async def publish() -> None:
        for number in numbers:
            key = f"{client.name}-{number}"
            facts = {"key": key, "channel": channel, "number": number}
            message = {**facts, "publisher": client.name, "body": body}
            message["deadly"] = client.option("deadly", False)
            call = app.event_queue.publish(
                channel, message, timeout=30, max_retries=client.option("max_retries", 3)
            )
            await client.operate("publish", call, **facts)
            if client.ended.is_set():
                return
            await asyncio.sleep(client.pause("pause", 0.0))

    async with client.app() as app:
        client.ready()
        await asyncio.gather(*(publish() for _ in range(client.option("width", 10))))
        await client.ended.wait()


async def consumer(client: Client) -> None:
    """Handle jobs; one that is deadly kills its worker."""
    app = client.app()

    async def process(message: dict[str, Any], context: Any) -> None:
        facts = {name: message[name] for name in ("key", "channel", "number", "publisher")}
        facts |= {"id": context.id, "attempt": context.attempt}
        client.record("handle", "call", **facts)
        if message["deadly"]:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            await asyncio.sleep(client.pause("work", 0.001))
        except BaseException:
            client.record("handle", "fail", **facts)
            raise
        client.record("handle", "ok", **facts)

    for channel in client.option("channels", ["q"]):
        concurrency = client.option("concurrency", 10)
        app.event_queue.subscribe(channel, process, concurrency=concurrency)
    async with app:
        client.ready()
        await client.ended.wait()


async def sender(client: Client) -> None:
    """Send numbered messages to all subscribers."""
    channel = client.option("channel", "c")
    async with client.app() as app:
        client.ready()
        for number in itertools.count(1):
            facts = {"key": f"{client.name}-{number}", "channel": channel, "number": number}
            message = {**facts, "publisher": client.name}
            await client.operate("send", app.pub_sub_manager.publish(channel, message), **facts)
            if client.ended.is_set():
                return
            await asyncio.sleep(client.pause("pause", 0.005))


async def subscriber(client: Client) -> None:
    """Record what comes, and what is told of what does not."""
    channel = client.option("channel", "c")

    async def receive(message: dict[str, Any]) -> None:
        client.record("receive", "ok", **message)

    async def told(channel: str) -> None:
        client.record("gap", "ok", channel=channel)

    async with client.app() as app:
        await app.pub_sub_manager.subscribe(channel, receive, on_gap=told)
        client.record("subscribe", "ok", channel=channel)
        client.ready()
        await client.ended.wait()


async def reader(client: Client) -> None:
    """Write and read a cache."""
    async with client.app() as app:
        client.ready()
        while not client.ended.is_set():
            await client.operate("set", app.cache.set(client.name, 1, 60))
            await client.operate("get", app.cache.get(client.name))
            await asyncio.sleep(client.pause("pause", 0.02))


async def contender(client: Client) -> None:
    """Take a lock, again and again, and use what it guards, which looks at the token."""
    name, ttl = client.option("key", "n"), client.option("ttl", 1.0)
    resource = Resource(client.option("resource", ""), client.name)
    async with client.app() as app:
        client.ready()
        while not client.ended.is_set():
            client.record("acquire", "call", name=name)
            facts: dict[str, Any] = {"name": name, "token": 0}
            try:
                async with app.lock_manager.lock(name, ttl=ttl, wait=30) as lease:
                    facts["token"] = lease.token
                    client.record("acquire", "ok", **facts)
                    await _work(client, resource, lease.token)
                    client.record("leave", "ok", **facts)
            except LockLost:
                client.record("work", "lost", **facts)
            except CorekitError as error:
                client.record("work", "fail", error=repr(error), **facts)
                await asyncio.sleep(0.02)
            else:
                client.record("work", "ok", **facts)
            await asyncio.sleep(client.pause("pause", 0.01))


async def _work(client: Client, resource: Resource, token: int) -> None:
    name = client.option("key", "n")
    for _ in range(client.option("uses", 5)):
        # A piece of work which does not give the loop a chance to cancel it before its end.
        time.sleep(client.pause("block", 0.01))  # noqa: ASYNC251
        resource.use(name, token)
        await asyncio.sleep(client.pause("work", 0.01))
        if client.ended.is_set():
            return


class Resource:
    """What a lock guards: it decides by the fencing token, as a database would."""

    def __init__(self, address: str, name: str) -> None:
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX) if address else None
        if self._socket is not None:
            self._socket.connect(address)

    def use(self, name: str, token: int) -> None:
        """Use it; whether it took the token is in its own history."""
        if self._socket is not None:
            line = json.dumps({"name": name, "token": token, "holder": self._name})
            self._socket.sendall(line.encode() + b"\n")
            self._socket.recv(1)


async def mixed(client: Client) -> None:
    """Do everything that the others do in one App, and tell what it costs the process."""
    app = client.app()
    name, heard = client.name, 0

    async def process(message: dict[str, Any], context: Any) -> None:
        await asyncio.sleep(0.001)
        client.record("handle", "ok", key=message["key"])

    async def receive(message: object) -> None:
        nonlocal heard
        heard += 1

    async def each(op: str, call: Callable[[int], Awaitable[Any]]) -> None:
        for number in itertools.count(1):
            await client.operate(op, call(number), key=f"{name}-{number}")
            if client.ended.is_set():
                return
            await asyncio.sleep(client.pause("pause", 0.01))

    async def locked(number: int) -> None:
        async with app.lock_manager.lock(f"lock-{number % 50}", ttl=5, wait=5):
            await asyncio.sleep(0)

    app.event_queue.subscribe("q", process, concurrency=20)
    async with app:
        await app.pub_sub_manager.subscribe("c", receive)
        publish = app.event_queue.publish
        send = app.pub_sub_manager.publish
        client.ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(each("publish", lambda n: publish("q", {"key": f"{name}-{n}"})))
            group.create_task(each("send", lambda n: send("c", {"n": n, "pad": "x" * 100})))
            group.create_task(each("set", lambda n: app.cache.set(f"k{n % 1000}", n, 60)))
            group.create_task(each("lock", locked))
            group.create_task(_gauge(client))
        # The queue runs dry while the others may still publish.
        await asyncio.sleep(client.option("drain", 2))
    client.record("heard", "ok", count=heard)


async def _gauge(client: Client) -> None:
    while not client.ended.is_set():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 - no disk
        client.record(
            "gauge",
            "ok",
            memory=pages * os.sysconf("SC_PAGE_SIZE"),
            files=len(os.listdir("/proc/self/fd")),
            threads=threading.active_count(),
            tasks=len(asyncio.all_tasks()),
        )
        with suppress(TimeoutError):
            await asyncio.wait_for(client.ended.wait(), 0.5)


KINDS = (publisher, consumer, sender, subscriber, reader, contender, mixed)


async def main(kind: str, name: str, directory: str, url: str, options: str) -> None:
    """Run one client."""
    client = Client(name, Path(directory), url, json.loads(options))
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(sys.stdin)
        client.ended.set()

    loop.add_reader(sys.stdin, end)
    await {one.__name__: one for one in KINDS}[kind](client)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
