"""What a broker's URL says."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from corekit.adapters import AdapterContext
from corekit.arguments import shown
from corekit.config import BackendURL
from corekit.errors import ConfigurationError

DEFAULT_PORT = 7650

#: The longest path of a socket that the system takes, in bytes.
LONGEST_PATH = 107

DURABILITIES = ("full", "relaxed")

_OPTIONS = ("timeout", "connect_timeout", "durability")
_KEYS = ("server_key", "key_file")


@dataclass(frozen=True, slots=True)
class Keys:
    """The CURVE keys of a connection, in Z85."""

    server: bytes
    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach a broker. Equal settings lead to the same broker."""

    text: str
    """The URL as logs and errors show it."""

    host: str | None
    port: int
    path: str
    """The socket, for a broker on this machine; empty if *host* or *name* say where it is."""

    name: str
    """The name of a broker that is started on first use; empty for others."""

    timeout: float
    """How long a call waits for its answer, in seconds."""

    connect_timeout: float
    """How long `open` tries to reach the broker, in seconds."""

    durability: str
    """What the queue's publisher relies on: "full" or "relaxed"."""

    idle: float
    """When a broker started by this client stops for want of clients, in seconds."""

    keys: Keys | None

    @classmethod
    def parse(cls, url: BackendURL, context: AdapterContext) -> Settings:
        """Return what *url* says; raises ConfigurationError if it says it badly."""
        local = url.scheme == "zmq+local"
        options = (*_OPTIONS, "idle") if local else (*_OPTIONS, *_KEYS)
        url.refuse_other_options(*options)
        if url.username is not None or url.password is not None:
            raise ConfigurationError(f"{url}: a broker takes no user and password, but keys")
        host, port = _address(url) if url.scheme == "zmq" else (None, 0)
        durability = url.options.get("durability", "full")
        if durability not in DURABILITIES:
            raise ConfigurationError(
                f"{url}: durability must be one of {', '.join(DURABILITIES)}, "
                f"not {shown(durability)}"
            )
        return cls(
            text=str(url),
            host=host,
            port=port,
            path=_socket_path(url) if url.scheme == "zmq+ipc" else "",
            name=_local_name(url, context) if local else "",
            timeout=url.seconds("timeout", default=5.0, least=0.05, most=3600),
            connect_timeout=url.seconds("connect_timeout", default=10.0, least=0.05, most=3600),
            durability=durability,
            idle=url.seconds("idle", default=60.0, least=0.1, most=1e9),
            keys=None if local else _keys(url),
        )


def _address(url: BackendURL) -> tuple[str, int]:
    if url.path.strip("/"):
        raise ConfigurationError(f"{url}: a broker's URL has no path; did you mean zmq+ipc://")
    if len(url.addresses) != 1 or not url.addresses[0].host:
        raise ConfigurationError(
            f"{url}: name one broker, as in zmq://127.0.0.1:{DEFAULT_PORT}; two do not share"
        )
    address = url.addresses[0]
    try:
        unspecified = ip_address(address.host).is_unspecified
    except ValueError:
        unspecified = address.host == "*"
    if unspecified:
        raise ConfigurationError(f"{url}: an address to listen on, not to connect to")
    return address.host, address.port or DEFAULT_PORT


def _socket_path(url: BackendURL) -> str:
    if url.addresses or not url.path.startswith("/") or url.path == "/":
        raise ConfigurationError(
            f"{url}: the path of the socket must be absolute, as in zmq+ipc:///run/shop/broker"
        )
    length = len(url.path.encode())
    if length > LONGEST_PATH:
        raise ConfigurationError(
            f"{url}: the path of a socket has at most {LONGEST_PATH} bytes, not {length}"
        )
    return url.path


def _local_name(url: BackendURL, context: AdapterContext) -> str:
    name = url.name or context.app
    # It becomes a directory's name.
    if "/" in name or name in {".", ".."} or len(name.encode()) > 100:
        raise ConfigurationError(
            f"{url}: the broker's name must have at most 100 bytes and no '/', not {shown(name)}"
        )
    return name


def _keys(url: BackendURL) -> Keys | None:
    server, own = url.options.get("server_key"), url.options.get("key_file")
    if server is None and own is None:
        return None
    if server is None or own is None:
        raise ConfigurationError(
            f"{url}: server_key (the file with the broker's public key) and key_file (the file "
            "with this client's secret key) go together"
        )
    secret = _key(url, "key_file", own, "secret-key")
    if stat.S_IMODE(os.stat(own).st_mode) & 0o077:
        raise ConfigurationError(f"{url}: others may read the secret key in {own}: chmod 600")
    # libzmq is loaded only where it is needed.
    from zmq import curve_public

    public = curve_public(secret)
    theirs = _key(url, "server_key", server, "public-key")
    return Keys(theirs, public, secret)


def _key(url: BackendURL, option: str, path: str, kind: str) -> bytes:
    """Return the key *kind* from the certificate at *path*, which `corekit broker keygen` wrote."""
    from zmq.utils import z85

    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{url}: {option} cannot be read: {error}") from error
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == kind:
            key = value.strip().strip('"').encode()
            try:
                z85.decode(key)
            except (ValueError, KeyError, struct.error):
                break
            if len(key) == 40:
                return key
    raise ConfigurationError(
        f"{url}: {option}: {path} holds no {kind} as 'corekit broker keygen' writes it"
    )
