"""Processes that die: the broker on their machine knows at once, and for certain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from corekit_zeromq.broker.query import ask_status
from corekit_zeromq.process_identity import own_identity, start_time
from corekit_zeromq.protocol import Op, Reply

from corekit import App
from corekit.testing import eventually

from .broker.peer import Dealer
from .conftest import LIMITS
from .processes import BrokerProcess, run_client
from .test_processes import line

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open") or own_identity() is None,
    reason="the system does not tell of the death of processes",
)

#: Of the broker, in seconds; what is to be quicker than that takes less than `SOON`.
TIMEOUT = 10.0
SOON = 2.0

WORKER = """
import asyncio, json, sys
from corekit import App

async def main(url):
    app = App("shop", backend=url)
    async def process(message, context):
        print(json.dumps([message, context.attempt]), flush=True)
        await asyncio.sleep(600)
    app.event_queue.subscribe("q", process)
    async with app:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""

HOLDER = """
import asyncio, sys
from corekit import App

async def main(url, name):
    async with App("shop", backend=url) as app:
        await app.lock_manager.acquire(name, ttl=60)
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""

#: Holds a lock, and has a child with the same descriptors.
PARENT = """
import asyncio, os, sys, time
from corekit import App

async def main(url):
    async with App("shop", backend=url) as app:
        await app.lock_manager.acquire("n", ttl=60)
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        print(f"ready\\n{child}", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""

#: Takes 800 messages, and acknowledges them all, each in a frame, when it is told to.
ACKNOWLEDGER = """
import sys, time, zmq
from corekit_zeromq.process_identity import own_identity
from corekit_zeromq.protocol import MAGIC, VERSION, Op, Reply, decode, encode
from corekit import names

socket = zmq.Context().socket(zmq.DEALER)
socket.connect(f"tcp://127.0.0.1:{sys.argv[1]}")
info = {"process": own_identity()._asdict()}
socket.send(encode(0, 0, [[Op.HELLO, MAGIC, VERSION, b"", b"", 0, info]]))
tokens = []
while len(tokens) < 800:
    received, _, commands = decode(socket.recv())
    for command in commands:
        if command[0] == Reply.WELCOME:
            queue = names.full("shop", names.QUEUE, "q")
            socket.send(encode(1, 0, [[Op.CONSUME, 1, queue], [Op.CREDIT, 1, 800]]))
        elif command[0] == Reply.DELIVERIES:
            tokens += [delivery[0] for delivery in command[2]]
socket.send(encode(0, received, []))
print("ready", flush=True)
sys.stdin.readline()
for number, token in enumerate(tokens, 2):
    socket.send(encode(number, received, [[Op.ACK, 1, [token]]]))
time.sleep(0.2)  # they are on their way meanwhile
print("acknowledged", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """Return a broker whose sessions time out late."""
    process = BrokerProcess(
        tmp_path_factory.mktemp("patient") / "broker",
        session_timeout=TIMEOUT,
        # How soon deaths are noticed is looked at here, not how long messages wait after them.
        death_delay=0.001,
    )
    process.start()
    yield process
    process.kill()


class Clients:
    """Processes of a test."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    async def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one, and wait until it is ready."""
        process = run_client(code, *arguments)
        self._processes.append(process)
        assert await line(process) == "ready"
        return process

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Return the processes of this test, which are killed at its end."""
    clients = Clients()
    yield clients
    clients.end()


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that has nothing to do with the broker."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@asynccontextmanager
async def opened(broker: BrokerProcess) -> AsyncIterator[App]:
    """Open an App that handles nothing, on a broker whose queue is empty afterwards."""
    async with App("shop", backend=broker.url, worker_mode="-") as app:
        yield app
        await app.event_queue.purge("q")


async def sessions(broker: BrokerProcess) -> list[int | None]:
    """Return the process that is watched for each session."""
    state = await asyncio.to_thread(ask_status, broker.url, 5.0)
    return [one["process"] for one in state["clients"] if one["name"] != "status"]


async def only_we(broker: BrokerProcess) -> None:
    """Wait until the sessions of all other processes have ended."""
    async with asyncio.timeout(SOON):
        while set(await sessions(broker)) - {os.getpid()}:
            pass


def pidfds(broker: BrokerProcess) -> int:
    """Count the processes for which *broker* has a descriptor."""
    count = 0
    for file in Path(f"/proc/{broker.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += "pidfd" in os.readlink(file)
    return count


def identity_of(process: subprocess.Popen[bytes], **changes: object) -> dict[str, object]:
    """Return what *process* would say of itself, except for *changes*."""
    own = own_identity()
    assert own is not None
    started = start_time(process.pid)
    return {**own._asdict(), "pid": process.pid, "started": started, **changes}


async def test_messages_go_to_others_at_once(patient: BrokerProcess, clients: Clients) -> None:
    """What a killed worker held is delivered again, before anybody has even waited for the dead."""
    first = await clients.start(WORKER, patient.url)
    async with opened(patient) as app:
        await app.event_queue.publish("q", "hang")
        assert json.loads(await line(first)) == ["hang", 1]
        second = await clients.start(WORKER, patient.url)
        begun = time.monotonic()
        first.kill()
        assert json.loads(await line(second)) == ["hang", 1]
        assert time.monotonic() - begun < SOON
        assert first.returncode is None  # nobody has waited for it: it is a zombie


async def test_deaths_in_a_row(patient: BrokerProcess, clients: Clients) -> None:
    """A message goes on at once, also from one that died at the same time as the one before."""
    async with opened(patient) as app:
        workers = [await clients.start(WORKER, patient.url) for _ in range(4)]
        await app.event_queue.publish("q", "hang")
        for worker in workers:
            worker.kill()
        last = await clients.start(WORKER, patient.url)
        begun = time.monotonic()
        assert json.loads(await line(last)) == ["hang", 1]
        assert time.monotonic() - begun < SOON
        await eventually(lambda: pidfds(patient) == 2)  # of the last one, and of this process


async def test_many_deaths(patient: BrokerProcess, clients: Clients) -> None:
    """Each of five deaths, one after the other, is as quick as the first."""
    async with opened(patient) as app:
        worker = await clients.start(WORKER, patient.url)
        await app.event_queue.publish("q", "hang")
        assert json.loads(await line(worker)) == ["hang", 1]
        for _ in range(5):
            following = await clients.start(WORKER, patient.url)
            begun = time.monotonic()
            worker.kill()
            assert json.loads(await line(following)) == ["hang", 1]
            assert time.monotonic() - begun < SOON
            worker = following


async def test_locks_are_freed_at_once(patient: BrokerProcess, clients: Clients) -> None:
    """The lock of a killed process goes to whoever waits, not to one that died waiting."""
    holder = await clients.start(HOLDER, patient.url, "n")
    waiter = run_client(HOLDER, patient.url, "n")
    async with opened(patient) as app:
        await eventually(lambda: pidfds(patient) == 3)
        await asyncio.sleep(0.2)  # it waits now, or is on its way: both must do
        begun = time.monotonic()
        waiter.kill()
        holder.kill()
        async with app.lock_manager.lock("n", wait=TIMEOUT):
            assert time.monotonic() - begun < SOON
    waiter.communicate()


async def test_a_paused_process_has_its_time(broker: BrokerProcess, clients: Clients) -> None:
    """A process that is stopped is not dead: only the time-out ends its session."""
    first = await clients.start(WORKER, broker.url)
    async with opened(broker) as app:
        await app.event_queue.publish("q", "hang")
        assert json.loads(await line(first)) == ["hang", 1]
        second = await clients.start(WORKER, broker.url)
        begun = time.monotonic()
        first.send_signal(signal.SIGSTOP)
        assert json.loads(await line(second)) == ["hang", 1]
        # It had spoken a heartbeat ago.
        assert time.monotonic() - begun > LIMITS["session_timeout"] - LIMITS["heartbeat"]


async def test_what_a_dead_process_said_counts(patient: BrokerProcess, clients: Clients) -> None:
    """Acknowledgements on their way at the death are read before anything is delivered again."""
    async with opened(patient) as app:
        for _ in range(8):
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(app.event_queue.publish("q", number))
        worker = await clients.start(ACKNOWLEDGER, str(patient.port))
        patient.pause()
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
        assert await line(worker) == "acknowledged"
        worker.kill()
        worker.wait()
        patient.resume()
        await only_we(patient)
        stats = await app.event_queue.stats("q")
        assert (stats.ready, stats.in_flight) == (0, 0)


async def test_an_inherited_connection(patient: BrokerProcess, clients: Clients) -> None:
    """A child that keeps the connection of its dead parent open does not keep the session."""
    parent = await clients.start(PARENT, patient.url)
    child = int(await line(parent))
    try:
        async with opened(patient) as app:
            begun = time.monotonic()
            parent.kill()
            async with app.lock_manager.lock("n", wait=TIMEOUT):
                assert time.monotonic() - begun < SOON
    finally:
        os.kill(child, signal.SIGKILL)


async def test_sessions_of_one_process_share_a_descriptor(patient: BrokerProcess) -> None:
    """However many Apps a process has; without any there is none."""
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(opened(patient))
        assert await sessions(patient) == [os.getpid()] * 5
        assert pidfds(patient) == 1
    await eventually(lambda: pidfds(patient) == 0)


async def test_a_false_claim_ends_only_the_claimer(
    patient: BrokerProcess, victim: subprocess.Popen[bytes]
) -> None:
    """Who names another's process loses its session with that; the other has lost nothing."""
    async with opened(patient) as app:
        with Dealer(f"tcp://127.0.0.1:{patient.port}") as liar:
            await asyncio.to_thread(liar.hello, process=identity_of(victim))
            assert victim.pid in await sessions(patient)
            lease = await app.lock_manager.acquire("mine")
            victim.kill()
            await only_we(patient)
            liar.send([Op.QUEUE_STATS, 1, "q"])
            assert await asyncio.to_thread(liar.command, Reply.UNKNOWN) == [Reply.UNKNOWN]
            await lease.extend(10)
            assert await sessions(patient) == [os.getpid()]


@pytest.mark.parametrize(
    "changes",
    [
        {"started": 1},
        {"boot": "00000000-0000-0000-0000-000000000000"},
        {"namespace": 1},
        {"pid": (1 << 22) + 1},
        {"pid": 1 << 40},
        {"pid": -1},
        {"pid": True},
        {"pid": "1"},
        {"boot": None},
    ],
    ids=str,
)
async def test_claims_that_cannot_hold(
    patient: BrokerProcess, victim: subprocess.Popen[bytes], changes: dict[str, object]
) -> None:
    """A pid with another start time, of another boot, of another namespace is not watched.

    The session begins all the same, and does not end with the process that has this pid.
    """
    with Dealer(f"tcp://127.0.0.1:{patient.port}") as dealer:
        await asyncio.to_thread(dealer.hello, process=identity_of(victim, **changes))
        assert pidfds(patient) == 0
        victim.kill()
        victim.wait()
        dealer.send([Op.QUEUE_STATS, 1, "none"])
        assert (await asyncio.to_thread(dealer.command, Reply.OK))[2] == [0, 0, 0, 0]
        dealer.send([Op.BYE])


async def test_a_claim_can_be_taken_back(
    patient: BrokerProcess, victim: subprocess.Popen[bytes]
) -> None:
    """The last HELLO counts: a session may go on in another process."""
    address = f"tcp://127.0.0.1:{patient.port}"
    with Dealer(address) as first, Dealer(address) as second:
        welcome = await asyncio.to_thread(first.hello, process=identity_of(victim))
        await asyncio.to_thread(second.hello, *welcome[2:4])
        assert second.welcome[5] is True
        assert pidfds(patient) == 0
        victim.kill()
        victim.wait()
        second.send([Op.QUEUE_STATS, 1, "none"])
        assert (await asyncio.to_thread(second.command, Reply.OK))[2] == [0, 0, 0, 0]
        second.send([Op.BYE])


async def test_processes_that_end_in_order(patient: BrokerProcess, clients: Clients) -> None:
    """A worker that says good-bye gives its messages back without a death."""
    worker = await clients.start(WORKER, patient.url)
    worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert await sessions(patient) == []
