"""Asking a broker for its status, without an event loop: for the command line."""

from __future__ import annotations

from typing import Any

import zmq

from corekit.adapters import AdapterContext
from corekit.clock import SYSTEM_CLOCK
from corekit.config import BackendURL
from corekit.errors import (
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
    SerializationError,
)

from ..protocol import MAGIC, VERSION, Op, Reply, decode, encode
from ..settings import Settings

_RID = 1


def ask_status(text: str, timeout: float) -> dict[str, Any]:
    """Return the state of the broker at the URL *text*, as the STATUS command gives it.

    Raises ConfigurationError, BackendUnavailable (nobody answers within *timeout* seconds), or
    BackendRefused.
    """
    url = BackendURL.parse(text, parameter="url")
    settings = Settings.parse(url, AdapterContext(app="status", instance_id="status"))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 500
    try:
        if settings.keys is not None:
            socket.curve_serverkey = settings.keys.server
            socket.curve_publickey = settings.keys.public
            socket.curve_secretkey = settings.keys.secret
        socket.ipv6 = True
        socket.connect(_endpoint(settings))
        return _ask(socket, settings.text, SYSTEM_CLOCK.monotonic() + timeout)
    finally:
        socket.close()
        context.term()


def _endpoint(settings: Settings) -> str:
    if settings.name:
        from ..local import Place

        path = Place(settings.name).address()
        if path is None:
            raise BackendUnavailable(f"{settings.text}: no such broker was started yet")
        return f"ipc://{path}"
    if settings.host is None:
        return f"ipc://{settings.path}"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"tcp://{host}:{settings.port}"


def _ask(socket: zmq.Socket[bytes], text: str, deadline: float) -> dict[str, Any]:
    hello = (Op.HELLO, MAGIC, VERSION, b"", b"", 0, {"name": "status"})
    socket.send(encode(0, 0, (hello,)))
    while True:
        left = deadline - SYSTEM_CLOCK.monotonic()
        if left <= 0 or not socket.poll(int(left * 1000) + 1):
            raise BackendUnavailable(f"{text}: no broker answers")
        try:
            commands = decode(socket.recv())[2]
        except SerializationError as error:
            raise ConfigurationError(f"{text}: what answers is no broker: {error}") from error
        for command in commands:
            match command:
                case [Reply.WELCOME, *_]:
                    socket.send(encode(1, 0, ((Op.STATUS, _RID),)))
                case [Reply.OK, rid, dict(state)] if rid == _RID:
                    socket.send(encode(2, 1, ((Op.BYE,),)))
                    return state
                case [Reply.REFUSED | Reply.FAIL, *_, reason]:
                    raise BackendRefused(f"{text}: {reason}")
                case _:
                    raise ConfigurationError(f"{text}: what answers is no broker of this version")
