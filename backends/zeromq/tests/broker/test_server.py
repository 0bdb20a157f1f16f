"""The broker over its socket: hostile peers, keys, signals, what it listens on."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from corekit_zeromq.broker import Broker, BrokerRefused, Limits, exits, security
from corekit_zeromq.broker.main import run
from corekit_zeromq.broker.query import ask_status
from corekit_zeromq.protocol import MAGIC, VERSION, Op, Reply, decode, encode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corekit.errors import BackendUnavailable

from ..batches import messages, publish
from ..values import VALUES
from .peer import Dealer, queue_publish

COMMAND = (sys.executable, "-m", "corekit_zeromq")
LIMITS = Limits(max_message=100_000, heartbeat=0.2, session_timeout=2.0)


class Running:
    """A broker in a thread of its own, on a port that the system chose."""

    def __init__(self, data: Path, **arguments: object) -> None:
        arguments.setdefault("limits", LIMITS)
        arguments.setdefault("listen", ["tcp://127.0.0.1:*"])
        self._broker = Broker(data=data, **arguments)  # type: ignore[arg-type]
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.wait(10)
        if self._error:
            raise self._error
        self.address = self._broker.addresses[0]

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            async with self._broker as broker:
                self._started.set()
                await broker.stopped

        try:
            asyncio.run(serve())
        except BaseException as error:
            self._error = error
            self._started.set()

    @property
    def url(self) -> str:
        return self.address.replace("tcp://", "zmq://")

    def call(self, function: str) -> None:
        self._loop.call_soon_threadsafe(getattr(self._broker, function))

    def close(self) -> None:
        self.call("stop")
        self._thread.join(10)
        assert self._error is None


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a broker for all tests here that leave it alive, which each of them must."""
    running = Running(tmp_path_factory.mktemp("broker") / "data")
    yield running
    assert works(running.address)
    running.close()


def works(address: str) -> bool:
    """Tell whether a new client is served."""
    with Dealer(address) as dealer:
        dealer.hello()
        dealer.send([Op.QUEUE_STATS, 1, "none"])
        answer = dealer.command(Reply.OK)
        dealer.send([Op.BYE])
        return answer == [Reply.OK, 1, [0, 0, 0, 0]]


def test_another_version_is_told(broker: Running) -> None:
    """With both versions in the text."""
    with Dealer(broker.address) as dealer:
        dealer.socket.send(encode(0, 0, [[Op.HELLO, MAGIC, 77, "what", "ever"]]))
        code, text = dealer.command(Reply.REFUSED)[1:]
    assert code == "version_mismatch"
    assert "77" in text
    assert str(VERSION) in text


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0" * 100,
        os.urandom(1000),
        b"\xdd\xff\xff\xff\xff",
        b"\x93\x01\x00\x91\x90",
        b"x" * 9_000,
    ],
)
def test_garbage_costs_the_session(broker: Running, garbage: bytes) -> None:
    """A stranger is ignored, a client loses its session and is told; the broker goes on."""
    with Dealer(broker.address) as dealer:
        dealer.socket.send(garbage)
        dealer.hello()
        dealer.socket.send(garbage)
        assert dealer.command(Reply.REFUSED)[1] == "serialization"
    assert works(broker.address)


def come_back(dealer: Dealer) -> list[Any]:
    """Say HELLO over the next connection, and return the WELCOME."""
    old = dealer.welcome
    dealer.welcome = []
    for _ in range(10):  # what is said before the connection breaks goes with it
        with contextlib.suppress(TimeoutError):
            return dealer.hello(*old[2:4], within=0.3)
    raise TimeoutError("it never came back")


def test_an_oversized_frame_closes_the_connection(broker: Running) -> None:
    """Nothing of it is kept; the client may come back, and its session goes on."""
    with Dealer(broker.address) as dealer:
        dealer.hello()
        dealer.socket.send(b"x" * (LIMITS.max_message + (1 << 20) + 1))
        assert come_back(dealer)[5] is True


def test_a_long_first_frame_closes_the_connection(broker: Running) -> None:
    """Who has not said HELLO yet has nothing long to say."""
    with Dealer(broker.address) as dealer:
        dealer.socket.send(b"x" * 70_000)
        assert come_back(dealer)[5] is False


def test_a_payload_that_is_too_large_is_refused(broker: Running) -> None:
    """By its request alone; the session goes on."""
    with Dealer(broker.address) as dealer:
        dealer.hello()
        dealer.send(queue_publish("id", b"x" * (LIMITS.max_message + 1)))
        assert dealer.command(Reply.OK)[2][0][0] == "message_too_large"
        dealer.send([Op.QUEUE_STATS, 2, "q"])
        assert dealer.command(Reply.OK) == [Reply.OK, 2, [0, 0, 0, 0]]


def test_a_message_of_many_parts(broker: Running) -> None:
    """It closes the connection: the protocol has none."""
    with Dealer(broker.address) as dealer:
        dealer.hello()
        dealer.socket.send_multipart([b""] * 50_000)
        assert works(broker.address)
        assert come_back(dealer)[5] is True


REQUESTS = [
    [Op.SUBSCRIBE, 1, "c", None],
    [Op.SUBSCRIBE, 1, "c", "epoch", 0],
    [Op.SUBSCRIBE, 1, "c", None, -1],
    [Op.SUBSCRIBE, 1, 5, None, 0],
    [Op.SUBSCRIBE, 1, "", None, 0],
    [Op.SUBSCRIBE, 1, "a\nb", None, 0],
    [Op.SUBSCRIBE, 1, "x" * 9000, None, 0],
    [Op.QUEUE_PUBLISH, 1, "", [["id", b""]]],
    [Op.QUEUE_PUBLISH, 1, "q", "id"],
    [Op.QUEUE_PUBLISH, 1, "q", "id", b"", 0, None],
    [Op.CLAIM, 1, 99, []],
    [Op.DEAD_LETTERS, 1, "q", -1],
    [Op.DEAD_LETTERS, 1, "q", None],
    [Op.REQUEUE, 1, "q", "unknown"],
    [Op.PURGE, 1, None],
    [Op.CACHE_GET, 1, "s", "key"],
    [Op.CACHE_GET, 1, "s", [5]],
    [Op.CACHE_SET, 1, "s", 1, {}, None],
    [Op.CACHE_SET, 1, "s", True, {"k": "text"}, None],
    [Op.CACHE_SET, 1, "s", True, [], None],
    [Op.CACHE_SET, 1, "s", True, {"k": b""}, 0],
    [Op.CACHE_SWAP, 1, "s", True, "k", b"", "version", None],
    [Op.LOCK_ACQUIRE, 1, "l", 0, None],
    [Op.LOCK_ACQUIRE, 1, "l", float("inf"), None],
    [Op.LOCK_ACQUIRE, 1, "l", 1, -1],
    [Op.LOCK_EXTEND, 1, "l", "owner", 1],
    [77, 1, "anything"],
    [["no", "number"], 1],
    [True, 1],
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: f"{one[0]!s}-{str(one[2:])[:30]}")
def test_a_bad_request_fails_alone(broker: Running, request_: list[object]) -> None:
    """It is answered with FAIL and a code; the session goes on."""
    with Dealer(broker.address) as dealer:
        dealer.hello()
        dealer.send(request_, [Op.QUEUE_STATS, 2, "never"])
        (failed, fine) = dealer.frame()
        assert failed[:2] == [Reply.FAIL, 1]
        assert failed[2] in {"invalid_argument", "message_too_large", "backend_refused"}
        assert fine == [Reply.OK, 2, [0, 0, 0, 0]]
        dealer.send([Op.BYE])


MESSAGES = [
    ["id", "text"],
    ["", b""],
    ["a\nb", b""],
    [5, b""],
    ["id"],
    ["id", b"", 0],
    ["id", b"", -1, None],
    ["id", b"", 1e18, None],
    ["id", b"", float("nan"), None],
    ["id", b"", True, None],
    ["id", b"", 0, 5],
    ["id", b"", 0, "x" * 1_00_000],
    ["id", b"", 0, None, None],
    {},
    None,
    "ab",
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: str(one)[:30])
def test_a_bad_message_fails_alone(broker: Running, message: object) -> None:
    """Its outcome is a code and a text; those beside it are queued, the session goes on."""
    with Dealer(broker.address) as dealer:
        dealer.hello()
        dealer.send([Op.QUEUE_PUBLISH, 1, "mixed", [["a", b""], message, ["b", b""]]])
        (_, rid, (before, (code, text), after)) = dealer.command(Reply.OK)
        assert (rid, before, after) == (1, None, None)
        assert code == "invalid_argument"
        assert text
        dealer.send([Op.PURGE, 2, "mixed"], [Op.BYE])
        assert dealer.command(Reply.OK) == [Reply.OK, 2, 2]


@pytest.mark.parametrize(
    "command",
    [
        [Op.PUBLISH, "c", b"payload"],
        [Op.PUBLISH, "c", [b"payload"]],
        [Op.PUBLISH, "c", 1, "text"],
        [Op.PUBLISH, "c", 1, b""],
        [Op.PUBLISH, "c", 0, b"batch"],
        [Op.PUBLISH, "c", 6, b"batch"],
        [Op.PUBLISH, "c", True, b"batch"],
        [Op.PUBLISH, None, 1, b"batch"],
        [Op.CREDIT, 1, 5],
        [Op.ACK, 7, []],
        [Op.CONSUME, -1, "q"],
        [Op.CONSUME, "one", "q"],
        [Op.QUEUE_STATS, "rid", "q"],
        [Op.LOCK_ABANDON, "rid"],
        [Op.HELLO, MAGIC, VERSION, b"", b"", 0, {}],
        ["text"],
        [None],
        [[]],
    ],
    ids=str,
)
def test_a_bad_command_ends_the_session(broker: Running, command: list[object]) -> None:
    """What cannot be answered ends its sender's session, with a reason.

    What a newer client tells is ignored.
    """
    with Dealer(broker.address) as dealer:
        dealer.hello()
        dealer.send(command, [Op.QUEUE_STATS, 2, "never"])
        first = dealer.frame()[0]
        if type(command[0]) is int or command[0] == Op.HELLO:
            assert first[0] in {Reply.REFUSED, Reply.OK}
        dealer.send([Op.BYE])
    assert works(broker.address)


def test_credit_is_bounded(broker: Running) -> None:
    """No number of deliveries that a client wishes for makes the broker send without bound."""
    with Dealer(broker.address) as dealer:
        dealer.hello()
        dealer.send([Op.CONSUME, 1, "credit"], *[[Op.CREDIT, 1, 1 << 61]] * 10)
        dealer.send([Op.QUEUE_PUBLISH, 1, "credit", [["id", b""]]])
        assert dealer.command(Reply.DELIVERIES)[1] == 1
        dealer.send([Op.CREDIT, 1, -1])
        assert dealer.command(Reply.REFUSED)[1] == "invalid_argument"


def test_a_routing_id_is_no_identity(broker: Running) -> None:
    """Who comes with another client's routing id gets nothing of its session."""
    with Dealer(broker.address, identity=b"victim") as victim:
        victim.hello()
        victim.send([Op.SUBSCRIBE, 1, "secret", None, 0])
        victim.command(Reply.OK)
        with Dealer(broker.address, identity=b"victim") as thief:
            thief.send(publish("secret", b"x"))
            assert thief.frame() == [[Reply.UNKNOWN]]
        victim.send(publish("secret", b"mine"))
        assert victim.command(Reply.MESSAGES) == messages("secret", 1, [b"mine"])


def test_guessed_sessions(broker: Running) -> None:
    """Right id with a wrong secret, wrong id, both unknown: a new session each time."""
    with Dealer(broker.address) as dealer, Dealer(broker.address) as thief:
        _, _, session, secret, *_ = dealer.hello()
        for guess in (
            (session, bytes(16)),
            (bytes(16), secret),
            (session, secret[:-1]),
            (b"", b""),
        ):
            welcome = thief.hello(*guess)
            assert welcome[5] is False
            assert welcome[2] != session


def test_what_is_not_zeromq(broker: Running) -> None:
    """Other programs that connect are cut off, and hurt nobody."""
    host, port = broker.address.removeprefix("tcp://").split(":")
    sockets = []
    for greeting in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01" + bytes(200),
        b"",
    ):
        sockets += [socket.create_connection((host, int(port))) for _ in range(20)]
        sockets[-1].sendall(greeting)
    with Dealer(broker.address) as other:
        other.socket.close()
    for kind in (zmq.SUB, zmq.PUSH, zmq.REP):
        wrong = zmq.Context.instance().socket(kind)
        wrong.linger = 0
        wrong.connect(broker.address)
        wrong.close()
    assert works(broker.address)
    for one in sockets:
        one.close()


COMMANDS = st.tuples(st.sampled_from([*Op, 99]), st.lists(VALUES, max_size=8)).map(
    lambda one: [one[0], *one[1]]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(COMMANDS, max_size=5), st.booleans())
def test_random_commands_never_break_it(
    broker: Running, caplog: pytest.LogCaptureFixture, commands: list[list[object]], mutate: bool
) -> None:
    """Whatever a client sends: an answer, a refusal, or nothing; no exception in the loop."""
    with Dealer(broker.address) as dealer:
        dealer.hello()
        frame = bytearray(encode(1, 0, commands))
        if mutate:
            frame[len(frame) // 2] ^= 0x55
        dealer.socket.send(bytes(frame))
        dealer.socket.send(encode(2, 0, [[Op.QUEUE_STATS, 5, "never"], [Op.BYE]]))
        assert dealer.frame()
    assert "could not be handled" not in caplog.text


# -- keys


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, bytes]:
    """Make keys of a broker, of a client on the list, and of one that is not."""
    found = {}
    for name in ("broker", "known", "other"):
        _, _, public = security.generate(tmp_path, name)
        found[name] = public.encode()
        found[name + " secret"] = security.read_secret(tmp_path / f"{name}.key")
    (tmp_path / "allow").write_text(f"# who may connect\n\n{found['known'].decode()} a client \r\n")
    return found


def as_client(keys: dict[str, bytes], name: str, server: str = "broker") -> dict[str, bytes]:
    """Return the options of a socket with these keys."""
    return {
        "curve_serverkey": keys[server],
        "curve_publickey": keys[name],
        "curve_secretkey": keys[name + " secret"],
    }


def test_who_has_a_key_may_do_no_more(tmp_path: Path, keys: dict[str, bytes]) -> None:
    """Messages of many parts and oversized frames cost a key's owner the session, too."""
    broker = Running(
        tmp_path / "data", key_file=tmp_path / "broker.key", allow_file=tmp_path / "allow"
    )
    options = as_client(keys, "known")
    try:
        with Dealer(broker.address, **options) as bad, Dealer(broker.address, **options) as good:
            good.hello()
            bad.hello()
            bad.socket.send_multipart([b""] * 50_000)
            assert bad.command(Reply.REFUSED)[1] == "serialization"
            bad.hello()
            bad.socket.send(b"x" * (LIMITS.max_message + (1 << 20) + 1))
            assert come_back(bad)[5] is True
            good.send([Op.QUEUE_STATS, 1, "none"])
            assert good.command(Reply.OK) == [Reply.OK, 1, [0, 0, 0, 0]]
    finally:
        broker.close()


def test_keys(tmp_path: Path, keys: dict[str, bytes]) -> None:
    """Only a client with a key on the list gets in; after a reload a removed one is out."""
    broker = Running(
        tmp_path / "data", key_file=tmp_path / "broker.key", allow_file=tmp_path / "allow"
    )
    try:
        with Dealer(broker.address, **as_client(keys, "known")) as known:
            assert known.hello()[5] is False
            for options in ({}, as_client(keys, "other"), as_client(keys, "known", "other")):
                stranger = Dealer(broker.address, **options)
                with pytest.raises(TimeoutError):
                    stranger.hello(within=0.5)
                stranger.close()
            (tmp_path / "allow").write_text("nonsense")
            broker.call("reload")
            known.send([Op.QUEUE_STATS, 1, "q"])
            assert known.command(Reply.OK)
            (tmp_path / "allow").write_text(f"{keys['other'].decode()} other")
            broker.call("reload")
            assert known.command(Reply.REFUSED)[1] == "authentication_failed"
    finally:
        broker.close()


def test_the_probe_notices_an_open_door(
    tmp_path: Path, keys: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a stranger's key gets in, the broker does not start."""
    monkeypatch.setattr(security.Authenticator, "_key_of", lambda *_: keys["known"].decode())
    with pytest.raises(BrokerRefused, match="strangers") as raised:
        Running(tmp_path / "data", key_file=tmp_path / "broker.key", allow_file=tmp_path / "allow")
    assert raised.value.status == exits.NO_PERMISSION


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "short\n",
        "{key}\n{key} again\n",
        "\n{key}x name\n",
        "{key[:39]}\\n",
    ],
)
def test_lists_of_keys_that_are_bad(tmp_path: Path, keys: dict[str, bytes], text: str) -> None:
    """Each is refused with the file's name."""
    (tmp_path / "bad").write_text(text.replace("{key}", keys["known"].decode()))
    with pytest.raises(BrokerRefused, match="bad"):
        security.read_allowed(tmp_path / "bad")


def test_secret_keys_are_guarded(tmp_path: Path, keys: dict[str, bytes]) -> None:
    """Made for their owner only, and never overwritten; swapped or readable ones are refused."""
    file = tmp_path / "broker.key"
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BrokerRefused):
        security.generate(tmp_path, "broker")
    text = file.read_text()
    file.write_text(
        text.replace("public", "x").replace("secret", "public").replace("x", "secret", 1)
    )
    with pytest.raises(BrokerRefused, match="swapped"):
        security.read_secret(file)
    file.write_text(text)
    file.chmod(0o644)
    with pytest.raises(BrokerRefused, match="chmod"):
        security.read_secret(file)


# -- what it listens on


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("tcp://0.0.0.0:7650", exits.CONFIGURATION),
        ("tcp://*:7650", exits.CONFIGURATION),
        ("tcp://[::]:7650", exits.CONFIGURATION),
        ("tcp://127.0.0.1@evil:7650", exits.USAGE),
        ("tcp://no.such.host.invalid:7650", exits.CONFIGURATION),
        ("tcp://127.0.0.1:70000", exits.USAGE),
        ("tcp://127.0.0.1", exits.USAGE),
        ("udp://127.0.0.1:1", exits.USAGE),
        ("", exits.USAGE),
        ("ipc://relative/path", exits.USAGE),
        ("ipc://@abstract", exits.CONFIGURATION),
        ("ipc:///" + "x" * 120, exits.CONFIGURATION),
        ("ipc:///no/such/directory/socket", exits.CANNOT_CREATE),
    ],
)
def test_addresses_that_do_not_do(tmp_path: Path, address: str, status: int) -> None:
    """Each is refused before anything listens, with the code that fits."""
    with pytest.raises(BrokerRefused) as raised:
        Running(tmp_path / "data", listen=[address])
    assert raised.value.status == status


def test_a_socket_in_the_file_system(tmp_path: Path) -> None:
    """Only its user can connect; a second broker does not steal it; what is stale is replaced."""
    path = tmp_path / "socket"
    broker = Running(tmp_path / "data", listen=[f"ipc://{path}", "tcp://127.0.0.1:0"])
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BrokerRefused) as raised:
        Running(tmp_path / "other", listen=[f"ipc://{path}"])
    assert raised.value.status == exits.IN_USE
    assert works(f"ipc://{path}")
    broker.close()
    stale = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    stale.bind(str(path))
    broker = Running(tmp_path / "data", listen=[f"ipc://{path}"])
    assert works(f"ipc://{path}")
    broker.close()
    stale.close()
    path.unlink(missing_ok=True)
    path.write_text("something else")
    with pytest.raises(BrokerRefused):
        Running(tmp_path / "data", listen=[f"ipc://{path}"])
    assert path.read_text() == "something else"


def test_a_port_in_use(tmp_path: Path, broker: Running) -> None:
    """The second one is refused; its directory is free again."""
    for _ in range(2):
        with pytest.raises(BrokerRefused) as raised:
            Running(tmp_path / "data", listen=[broker.address])
        assert raised.value.status == exits.IN_USE


# -- the command line


def test_status(broker: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """For people and as JSON; a broker that does not answer is an error soon."""
    assert run(["status", broker.url]) == 0
    assert "uptime" in capsys.readouterr().out
    assert run(["status", broker.url, "--json"]) == 0
    assert '"in_flight"' in capsys.readouterr().out or ask_status(broker.url, 5)["queue_count"] == 0
    with pytest.raises(BackendUnavailable):
        ask_status("zmq://127.0.0.1:1", 0.3)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--listen", "tcp://127.0.0.1:*"],
        ["--data", "x"],
        ["--listen", "tcp://127.0.0.1:*", "--data", ""],
        ["--listen", "tcp://127.0.0.1:*", "--data", "x", "--data", "y"],
        ["--listen", "tcp://127.0.0.1:*", "--data", "x", "--limit", "nonsense=5"],
        ["--listen", "tcp://127.0.0.1:*", "--data", "x", "--limit", "sessions=-1"],
        ["--listen", "tcp://127.0.0.1:*", "--data", "x", "--durability", "none"],
        ["--nonsense"],
        ["status"],
        ["keygen"],
    ],
)
def test_bad_arguments(arguments: list[str]) -> None:
    """Usage on standard error, exit code 64."""
    with pytest.raises(SystemExit) as raised:
        run(arguments)
    assert raised.value.code == exits.USAGE


def test_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    """Exit code 0, soon; what was confirmed is there afterwards, the directory is free."""
    for life in range(2):
        process = subprocess.Popen(
            [*COMMAND, "--data", tmp_path / "data", "--listen", f"ipc://{tmp_path}/s"],
            stderr=subprocess.DEVNULL,
        )
        with Dealer(f"ipc://{tmp_path}/s") as dealer:
            dealer.hello()
            for n in range(100):
                dealer.send(queue_publish(f"m{life}-{n}", b"x" * 1000, rid=n))
            confirmed = 0
            while confirmed < 100:
                confirmed += sum(one[0] == Reply.OK for one in dealer.frame())
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
    broker = Running(tmp_path / "data")
    assert ask_status(broker.url, 5)["queues"]["q"]["ready"] == 200
    broker.close()


def test_it_stops_when_idle(tmp_path: Path) -> None:
    """After so long without a client, with exit code 0."""
    process = subprocess.run(
        [*COMMAND, "--data", tmp_path / "data", "--listen", f"ipc://{tmp_path}/s", "--idle", "0.3"],
        check=False,
        timeout=20,
        capture_output=True,
    )
    assert process.returncode == 0


def test_a_pause_of_the_broker_ends_no_session(tmp_path: Path) -> None:
    """Stopped for longer than the session time-out, it finds all its clients alive."""
    process = subprocess.Popen(
        [
            *COMMAND,
            *("--data", tmp_path / "data", "--listen", f"ipc://{tmp_path}/s"),
            *("--limit", "session_timeout=1", "--limit", "heartbeat=0.2"),
        ],
        stderr=subprocess.DEVNULL,
    )
    with Dealer(f"ipc://{tmp_path}/s") as dealer:
        dealer.hello()
        process.send_signal(signal.SIGSTOP)
        threading.Event().wait(1.5)
        process.send_signal(signal.SIGCONT)
        dealer.send([Op.QUEUE_STATS, 1, "q"])
        assert dealer.command(Reply.OK)
    process.terminate()
    assert process.wait(5) == 0


def test_a_journal_that_fails_ends_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed commit nothing of it is confirmed, and the status is that of an I/O error."""

    async def scenario() -> int:
        async with Broker(["tcp://127.0.0.1:*"], tmp_path / "data") as broker:

            def fail() -> None:
                raise sqlite3.OperationalError("disk I/O error")

            dealer = Dealer(broker.addresses[0])
            await asyncio.to_thread(dealer.hello)
            # This broker's journal only: the one that other tests share runs in this process too.
            monkeypatch.setattr(broker._journal, "commit", fail)
            dealer.send(queue_publish("id"))
            status = await asyncio.wait_for(broker.stopped, 5)
            while dealer.socket.poll(100):
                assert not any(one[0] == Reply.OK for one in decode(dealer.socket.recv())[2])
            dealer.close()
            return status

    assert asyncio.run(scenario()) == exits.IO_ERROR
    monkeypatch.undo()
    broker = Running(tmp_path / "data")
    assert ask_status(broker.url, 5)["queue_count"] == 0
    broker.close()


@pytest.mark.parametrize("step", ["tick", "finish", "next_alarm"])
def test_a_fault_of_its_own_ends_the_broker(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    """A turn that fails outside of a frame ends the broker with a critical line, not half of it."""

    async def scenario() -> int:
        async with Broker(["tcp://127.0.0.1:*"], tmp_path / "data") as broker:

            def fail(**_: object) -> None:
                raise LookupError("what a fault says")

            monkeypatch.setattr(broker._engine, step, fail)
            return await asyncio.wait_for(broker.stopped, 5)

    assert asyncio.run(scenario()) == exits.FAULT
    (line,) = [one for one in caplog.records if one.levelname == "CRITICAL"]
    assert line.getMessage() == "a turn failed, the broker ends: what a fault says"
    assert line.exc_info


def test_a_data_directory_that_goes_away_ends_the_broker(tmp_path: Path) -> None:
    """Removing the directory of a running broker ends it, with the status of an I/O error."""

    async def scenario() -> int:
        async with Broker(["tcp://127.0.0.1:*"], tmp_path / "data") as broker:
            shutil.rmtree(tmp_path / "data")
            return await asyncio.wait_for(broker.stopped, 5)

    assert asyncio.run(scenario()) == exits.IO_ERROR
