"""Several real processes on one broker, through the public interface."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from corekit import App, ForkedProcess
from corekit.testing import eventually

from .processes import BrokerProcess, run_client

SUBSCRIBER = """
import asyncio, sys
from corekit import App

async def main(url):
    async with App("shop", backend=url) as app:
        seen = []
        async def handler(message):
            seen.append(message)
            if message == "end":
                print(len(seen), seen[:3], flush=True)
        await app.pub_sub_manager.subscribe("c", handler, buffer=10_000)
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""

WORKER = """
import asyncio, json, os, sys
from corekit import App

async def main(url):
    app = App("shop", backend=url)
    async def process(message, context):
        print(json.dumps([context.id, context.attempt]), flush=True)
        if message == "hang":
            await asyncio.sleep(60)
    app.event_queue.subscribe("q", process, concurrency=4)
    async with app:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""

HOLDER = """
import asyncio, sys
from corekit import App

async def main(url):
    async with App("shop", backend=url) as app:
        lease = await app.lock_manager.acquire("n", ttl=60)
        print(lease.token, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""


async def line(process: subprocess.Popen[bytes]) -> str:
    """Return the next line that *process* prints."""
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).decode().strip()


async def started(code: str, broker: BrokerProcess, count: int) -> list[subprocess.Popen[bytes]]:
    """Start *count* clients and wait until they are ready."""
    clients = [run_client(code, broker.url) for _ in range(count)]
    for client in clients:
        assert await line(client) == "ready"
    return clients


def end(clients: list[subprocess.Popen[bytes]]) -> None:
    """Let clients end in order."""
    for client in clients:
        client.communicate(timeout=20)
        assert client.returncode == 0


async def test_every_process_hears_every_message(broker: BrokerProcess) -> None:
    """Three subscriber processes get all of 3,000 messages of a fourth, in order."""
    clients = await started(SUBSCRIBER, broker, 3)
    async with App("shop", backend=broker.url) as app:
        for number in range(2999):
            await app.pub_sub_manager.publish("c", number)
        await app.pub_sub_manager.publish("c", "end")
        for client in clients:
            assert await line(client) == "3000 [0, 1, 2]"
    end(clients)


async def test_messages_of_a_killed_worker_go_to_another(broker: BrokerProcess) -> None:
    """What a worker held when it was killed is done by another one, as the same attempt."""
    (first,) = await started(WORKER, broker, 1)
    async with App("shop", backend=broker.url, worker_mode="-") as app:
        ids = [await app.event_queue.publish("q", "hang") for _ in range(4)]
        begun = [json.loads(await line(first)) for _ in range(4)]
        assert begun == [[id_, 1] for id_ in ids]
        first.kill()
        first.communicate()
        (second,) = await started(WORKER, broker, 1)
        again = [json.loads(await line(second)) for _ in range(4)]
        assert sorted(again) == sorted(begun)
        second.kill()
        second.communicate()


async def test_a_worker_survives_a_restart_of_the_broker(broker: BrokerProcess) -> None:
    """Four workers go on after the broker was killed; each message is done."""
    clients = await started(WORKER, broker, 4)
    done: list[Any] = []

    async def read(client: subprocess.Popen[bytes]) -> None:
        while text := await line(client):
            done.append(json.loads(text)[0])

    reading = [asyncio.create_task(read(client)) for client in clients]
    async with App("shop", backend=broker.url, worker_mode="-") as app:
        ids = [await app.event_queue.publish("q", "x") for _ in range(50)]
        await asyncio.to_thread(broker.restart)
        ids += [await app.event_queue.publish("q", "x") for _ in range(50)]
        await eventually(lambda: set(done) == set(ids))
    end(clients)
    await asyncio.gather(*reading)


async def test_a_killed_holder_frees_its_lock(broker: BrokerProcess) -> None:
    """The lock of a process that was killed is free when its session has ended, with its token."""
    holder = run_client(HOLDER, broker.url)
    token = int(await line(holder))
    async with App("shop", backend=broker.url) as app:
        acquiring = asyncio.create_task(app.lock_manager.acquire("n", wait=20))
        await asyncio.sleep(0.1)
        assert not acquiring.done()
        holder.kill()
        holder.communicate()
        assert (await acquiring).token > token


# Python 3.12 warns of forks beside threads; whether one dares to is not ours to say.
forking = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@forking
async def test_a_forked_child_is_refused(broker: BrokerProcess) -> None:
    """A child that was forked with an open App is told so; the parent's connection is untouched."""
    async with App("shop", backend=broker.url) as app:
        await app.cache.set("k", 1)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                asyncio.run(_use(app))
            except ForkedProcess:
                os.write(writing, b"refused")
            except BaseException as error:
                os.write(writing, repr(error).encode())
            finally:
                os._exit(0)
        await asyncio.to_thread(os.waitpid, child, 0)
        assert os.read(reading, 1000) == b"refused"
        os.close(reading)
        os.close(writing)
        assert await app.cache.get("k") == 1


async def _use(app: App) -> None:
    await app.cache.get("k")


@forking
async def test_an_app_of_its_own_after_the_fork(broker: BrokerProcess) -> None:
    """A forked child may start an App of its own, while the parent's stays open."""
    async with App("shop", backend=broker.url) as app:
        await app.cache.set("k", 1)
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if asyncio.run(_read(broker.url)) == 1 else 2
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await app.cache.set("k", 2)
        assert await app.cache.get("k") == 2


async def _read(url: str) -> object:
    async with App("shop", backend=url) as app:
        return await app.cache.get("k")


def test_an_app_that_is_never_stopped(broker: BrokerProcess) -> None:
    """A program that ends without stopping its App ends soon, and not with an error."""
    code = f"""
import asyncio
from corekit import App

async def main():
    app = App("shop", backend={broker.url!r})
    await app.start()
    await app.cache.set("k", 1)
    print("ok", flush=True)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=10, check=False
    )
    assert done.stdout == b"ok\n"
    assert done.returncode == 0


@pytest.mark.parametrize("signal_name", ["kill", "terminate"])
async def test_a_publisher_that_ends(broker: BrokerProcess, signal_name: str) -> None:
    """Whatever end a subscriber process comes to, the others hear the rest."""
    first, second = await started(SUBSCRIBER, broker, 2)
    async with App("shop", backend=broker.url) as app:
        await app.pub_sub_manager.publish("c", 0)
        getattr(first, signal_name)()
        first.communicate()
        for number in range(1, 50):
            await app.pub_sub_manager.publish("c", number)
        await app.pub_sub_manager.publish("c", "end")
        assert await line(second) == "51 [0, 1, 2]"
    end([second])
