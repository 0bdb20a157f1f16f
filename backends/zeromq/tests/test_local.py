"""`zmq+local://`: the broker that is started on first use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from corekit_zeromq.event_queue import EventQueue
from corekit_zeromq.local import Place
from corekit_zeromq.lock import Lock

from corekit.config import BackendURL
from corekit.errors import BackendRefused, ConfigurationError
from corekit.testing import eventually
from corekit.testing.contexts import make_context

from .fake_broker import opened
from .processes import run_client

#: A client that uses the broker for as long as its standard input is open.
CLIENT = """
import asyncio, sys
from corekit.config import BackendURL
from corekit.testing.contexts import make_context
from corekit_zeromq.lock import Lock

async def main(url):
    lock = Lock(BackendURL.parse(url), make_context())
    await lock.open()
    print("open", flush=True)
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    while not ended.done():
        grant = await lock.acquire("n", 1.0, None)
        await lock.release(grant)
        print("used", flush=True)
        await asyncio.wait([ended], timeout=0.05)
    await lock.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test a state directory of its own, and end the brokers that were started in it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield tmp_path
    for process in brokers(tmp_path):
        process.kill()
        process.wait()


def brokers(state: Path) -> list[psutil.Process]:
    """Return the brokers whose data is below *state*."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "corekit_zeromq" in line and any(part.startswith(str(state)) for part in line):
            found.append(process)
    return [process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE]


async def test_the_first_starts_it_and_others_find_it(state: Path) -> None:
    """The first use starts a broker, the second finds it; it has a session of its own."""
    async with opened(Lock, "zmq+local://shop") as first:
        (process,) = brokers(state)
        async with opened(Lock, "zmq+local://shop") as second:
            assert brokers(state) == [process]
            grant = await first.acquire("n", 5.0, 0)
            assert await second.acquire("n", 5.0, 0) is None
            await first.release(grant)
        assert os.getsid(process.pid) == process.pid


async def test_it_belongs_to_its_user(state: Path) -> None:
    """Directories, journal and socket are closed to others."""
    async with opened(Lock, "zmq+local://shop"):
        place = Place("shop")
        assert place.directory == state / "corekit" / "shop"
        for directory in (state / "corekit", place.directory, place.data):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        address = place.address()
        assert address is not None
        assert stat.S_IMODE(os.stat(address).st_mode) & 0o077 == 0
        assert stat.S_IMODE(place.log.stat().st_mode) & 0o022 == 0


async def test_names_are_apart(state: Path) -> None:
    """Another name is another broker; without a name the App's is taken."""
    async with opened(Lock, "zmq+local://one"), opened(Lock, "zmq+local://"):
        assert len(brokers(state)) == 2
        assert Place(make_context().app).data.exists()


async def test_long_paths_of_sockets(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the state directory's path is too long for a socket, another place is found."""
    monkeypatch.setenv("XDG_STATE_HOME", str(state / ("x" * 100)))
    async with opened(Lock, "zmq+local://shop"):
        address = Place("shop").address()
        assert address is not None
        assert len(address) <= 107
        assert stat.S_IMODE(Path(address).parent.stat().st_mode) == 0o700


async def test_it_outlives_its_starter_and_stops_when_idle(state: Path) -> None:
    """The broker stays when its starter has gone, and ends when nobody uses it any more."""
    client = run_client(CLIENT, "zmq+local://shop?idle=1")
    assert client.stdout is not None
    assert client.stdout.readline() == b"open\n"
    client.kill()
    client.communicate()
    (process,) = brokers(state)
    async with opened(Lock, "zmq+local://shop?idle=1"):
        assert brokers(state) == [process]
    await eventually(lambda: not brokers(state), within=30)
    async with opened(Lock, "zmq+local://shop?idle=1"):
        assert len(brokers(state)) == 1


async def test_messages_outlive_it(state: Path) -> None:
    """What was published is there after the broker was killed and started again."""
    async with opened(EventQueue, "zmq+local://shop") as queue:
        await queue.publish("q", "the-id", b"payload")
        (process,) = brokers(state)
        process.kill()
        process.wait()
        assert (await queue.stats("q")).ready == 1
        assert brokers(state) != [process]


async def test_eight_at_once(state: Path) -> None:
    """Eight processes at first use, in several rounds, start exactly one broker each round."""
    for number in range(4):
        clients = [run_client(CLIENT, f"zmq+local://race{number}") for _ in range(8)]
        for client in clients:
            assert client.stdout is not None
            assert await asyncio.to_thread(client.stdout.readline) == b"open\n"
        running = [p for p in brokers(state) if any(f"race{number}/" in a for a in p.cmdline())]
        assert len(running) == 1
        for client in clients:
            client.communicate()
            assert client.returncode == 0


async def test_killed_while_in_use(state: Path) -> None:
    """When the broker is killed, its eight clients go on with one new broker within seconds."""
    clients = [run_client(CLIENT, "zmq+local://shop") for _ in range(8)]
    for client in clients:
        assert client.stdout is not None
        assert await asyncio.to_thread(client.stdout.readline) == b"open\n"
    (process,) = brokers(state)
    process.kill()
    process.wait()
    killed = time.monotonic()
    await eventually(lambda: brokers(state))
    for client in clients:
        assert client.stdout is not None
        # Two uses: the first line may be from before.
        for _ in range(2):
            assert await asyncio.to_thread(client.stdout.readline) == b"used\n"
    assert time.monotonic() - killed < 15
    assert len(brokers(state)) == 1
    for client in clients:
        client.communicate()
        assert client.returncode == 0


async def test_a_starter_that_is_killed(state: Path) -> None:
    """Starters that die at any moment leave neither a second broker nor a lock behind."""
    for delay in (0.1, 0.2, 0.3, 0.4):
        client = run_client(CLIENT, "zmq+local://shop")
        await asyncio.sleep(delay)
        client.send_signal(signal.SIGKILL)
        client.communicate()
    async with opened(Lock, "zmq+local://shop") as lock:
        assert await lock.acquire("other", 5.0, 0) is not None
        # A second one, begun by a starter in its last moment, finds the data taken and ends.
        await eventually(lambda: len(brokers(state)) == 1)


async def test_a_broker_that_cannot_start(state: Path) -> None:
    """If the broker cannot start, opening fails soon, with the end of its log in the text."""
    place = Place("shop")
    place.make()
    place.data.write_text("in the way")
    begun = time.monotonic()
    lock = Lock(BackendURL.parse("zmq+local://shop"), make_context())
    with pytest.raises(BackendRefused) as info:
        await lock.open()
    assert time.monotonic() - begun < 5
    assert "is not a directory" in str(info.value)
    assert str(place.log) in str(info.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_a_directory_of_another_user(state: Path) -> None:
    """A directory that belongs to another user is not used."""
    place = Place("shop")
    place.make()
    os.chown(place.directory, 12345, 12345)
    lock = Lock(BackendURL.parse("zmq+local://shop?connect_timeout=1"), make_context())
    with pytest.raises(ConfigurationError):
        await lock.open()


def test_it_can_be_the_first_thing_a_program_does(state: Path) -> None:
    """A program that opens, works and ends leaves no warning and no zombie."""
    code = """
import asyncio, json
from corekit import App

async def main():
    async with App("shop", backend="zmq+local://shop?idle=1") as app:
        await app.cache.set("k", 1)
        async with app.lock_manager.lock("n") as lease:
            print(json.dumps([await app.cache.get("k"), lease.token]))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=30, check=False
    )
    assert done.stderr == b""
    assert json.loads(done.stdout) == [1, 1]
