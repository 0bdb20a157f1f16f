"""`free_port`."""

from __future__ import annotations

import socket

from corekit.testing import free_port, ports


def test_ports_differ_and_can_be_listened_on() -> None:
    """Each call finds another port, where a server can listen at once."""
    found = [free_port() for _ in range(20)]
    assert len({*found}) == 20
    for port in found:
        with socket.create_server(("127.0.0.1", port)) as server:
            assert server.getsockname()[1] == port


def test_a_port_that_somebody_has_is_left_out(monkeypatch) -> None:
    """One that is listened on is passed over."""
    taken, free = free_port(), free_port()
    monkeypatch.setattr(ports, "_ports", iter([taken, free]))
    with socket.create_server(("127.0.0.1", taken)):
        assert free_port() == free
