"""Encryption and who may connect: CURVE keys, an allow-list, and the ZAP handler that asks it.

ZAP fails open: a socket with keys but without a handler, or without a domain that is enforced, lets
strangers in. Hence all of it is set together here, the handler runs before the socket listens, and
at its start the broker tries to get in with a stranger's key.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from corekit.arguments import shown

from . import exits
from .exits import BrokerRefused

logger = logging.getLogger("corekit.broker.security")

_DOMAIN = b"corekit"
_HANDLER = "inproc://zeromq.zap.01"

#: How long the probe waits for its refusal, in seconds.
_PROBE = 5.0

_KEY_LENGTH = 40


def generate(directory: Path, name: str) -> tuple[Path, Path, str]:
    """Write a new pair of keys to *directory*: NAME.key (secret, mode 0600) and NAME.pub.

    Returns the two files and the public key. Raises BrokerRefused if one exists already.
    """
    public, secret = (key.decode() for key in zmq.curve_keypair())
    secret_file, public_file = directory / f"{name}.key", directory / f"{name}.pub"
    _create(secret_file, f'public-key = "{public}"\nsecret-key = "{secret}"\n', 0o600)
    _create(public_file, f'public-key = "{public}"\n', 0o644)
    return secret_file, public_file, public


def _create(path: Path, text: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise BrokerRefused(exits.CANNOT_CREATE, f"cannot create {path}: {error}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def read_secret(path: Path) -> bytes:
    """Return the secret key in *path*, as `generate` wrote it; raises BrokerRefused."""
    lines = _lines(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise BrokerRefused(exits.NO_PERMISSION, f"others may read the keys in {path}: chmod 600")
    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = value.strip().strip('"')
    secret, public = found.get("secret-key", ""), found.get("public-key", "")
    if not _is_key(secret) or not _is_key(public):
        raise BrokerRefused(
            exits.CONFIGURATION, f"{path} holds no keys as 'corekit broker keygen' writes them"
        )
    if zmq.curve_public(secret.encode()) != public.encode():
        raise BrokerRefused(
            exits.CONFIGURATION, f"{path}: the public key is not that of the secret key: swapped?"
        )
    return secret.encode()


def read_allowed(path: Path) -> dict[str, str]:
    """Return the names of the clients that may connect, by their public key.

    A line of the file is a public key and a name; a `#` and a blank begin a comment.
    Raises BrokerRefused, which names the line.
    """
    allowed: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        text = line.strip()
        # Keys may hold and begin with a '#', but hold no blanks.
        if not text or text == "#" or text.startswith("# "):
            continue
        key, _, name = text.partition(" ")
        if not _is_key(key):
            raise BrokerRefused(
                exits.CONFIGURATION, f"{path}, line {number}: {shown(key)} is not a public key"
            )
        if key in allowed:
            raise BrokerRefused(exits.CONFIGURATION, f"{path}, line {number}: the key is repeated")
        allowed[key] = name.strip()
    if not allowed:
        raise BrokerRefused(exits.CONFIGURATION, f"{path} holds no keys: nobody could connect")
    return allowed


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerRefused(exits.CONFIGURATION, f"cannot read {path}: {error}") from error


def _is_key(text: str) -> bool:
    if len(text) != _KEY_LENGTH or not text.isascii():
        return False
    try:
        return len(z85.decode(text.encode())) == 32
    except (KeyError, ValueError, struct.error):
        return False


class Authenticator:
    """Lets in whose key is on the list. `secret` is the broker's key."""

    def __init__(self, key_file: Path, allow_file: Path) -> None:
        self._allow_file = allow_file
        self._secret = read_secret(key_file)
        self._allowed: Mapping[str, str] = read_allowed(allow_file)
        self._socket: zmq.Socket[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Authenticator {len(self._allowed)} keys>"

    def allows(self, key: str) -> bool:
        """Whether the owner of the public key may have a session."""
        return key in self._allowed

    def reload(self) -> None:
        """Read the list again; if it is bad, that is logged and the old one stays."""
        try:
            self._allowed = read_allowed(self._allow_file)
        except BrokerRefused as error:
            logger.error("the list of keys stays as it was: %s", error)  # noqa: TRY400
        else:
            logger.info("%d keys may connect", len(self._allowed))

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Set up *socket*, which must not listen yet; only now may it."""
        context: zmq.Context[zmq.Socket[bytes]] = socket.context
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_HANDLER)
        socket.curve_secretkey = self._secret
        socket.curve_publickey = zmq.curve_public(self._secret)
        socket.curve_server = True
        socket.zap_domain = _DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the questions of the protected socket, in *loop*."""
        if self._socket is not None:
            loop.add_reader(int(self._socket.fd), self.answer)
            self.answer()

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer no more: from now on nobody gets in."""
        if self._socket is not None:
            loop.remove_reader(int(self._socket.fd))
            self.close()

    def close(self) -> None:
        """Close the handler's socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def answer(self) -> None:
        """Answer everything that was asked; also called regularly, should an edge be missed."""
        socket = self._socket
        while socket is not None and int(socket.events) & zmq.POLLIN:
            request = socket.recv_multipart(zmq.NOBLOCK)
            number = request[1] if len(request) > 1 else b""
            key = self._key_of(request)
            if key is not None and key in self._allowed:
                status = [b"200", b"OK", key.encode(), b""]
            else:
                status = [b"400", b"not on the list of keys", b"", b""]
            socket.send_multipart([b"1.0", number, *status], zmq.NOBLOCK)

    @staticmethod
    def _key_of(request: list[bytes]) -> str | None:
        """Return the key in a ZAP request, None if it is another kind of request.

        Its parts are version, number, domain, address, identity, mechanism, key.
        """
        if len(request) != 7 or request[0] != b"1.0" or request[2] != _DOMAIN:
            return None
        if request[5] != b"CURVE" or len(request[6]) != 32:
            return None
        return z85.encode(request[6]).decode()

    async def probe(self, address: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Try to get in at *address* with a stranger's key; raises BrokerRefused if that works."""
        stranger = context.socket(zmq.DEALER)
        stranger.linger = 0
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = zmq.curve_public(self._secret)
        monitor = stranger.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        try:
            stranger.connect(address)
            event = None
            async with asyncio.timeout(_PROBE):
                while event is None:
                    if monitor.poll(0):
                        event = parse_monitor_message(monitor.recv_multipart())["event"]
                    else:
                        self.answer()
                        await asyncio.sleep(0.005)
        except TimeoutError:
            raise BrokerRefused(
                exits.NO_PERMISSION, f"a stranger's key was not refused at {address} in time"
            ) from None
        finally:
            stranger.disable_monitor()
            monitor.close()
            stranger.close()
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            raise BrokerRefused(exits.NO_PERMISSION, f"{address} lets strangers in")
