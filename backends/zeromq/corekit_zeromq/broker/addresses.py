"""What the broker listens on: `tcp://host:port` and `ipc:///path`, checked before ZeroMQ sees them.

ZeroMQ itself binds `tcp://*:70000` to some other port, and an `ipc` path over a live broker's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from corekit.arguments import shown

from . import exits
from .exits import BrokerRefused

#: The longest path of a socket that the system takes, in bytes.
_LONGEST_PATH = 107

_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+|\*):([0-9]{1,5}|\*)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to listen on."""

    text: str
    """As it was given."""

    hosts: tuple[str, ...]
    """The IP addresses behind the host's name; empty for a socket in the file system."""

    port: str
    """A number, or `*` for one that the system chooses."""

    path: Path | None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Return *text* with its host resolved; raises BrokerRefused."""
        if text.startswith("ipc://"):
            return cls(text, (), "", _socket_path(text))
        matched = _TCP.fullmatch(text)
        if matched is None:
            raise BrokerRefused(
                exits.USAGE,
                f"--listen must be tcp://host:port or ipc:///path, not {shown(text)}",
            )
        host, port = matched.groups()
        if port != "*" and not 0 <= int(port) <= 65535:
            raise BrokerRefused(exits.USAGE, f"the port of {text} must be 1 to 65535")
        return cls(
            text, _resolve(text, host.strip("[]")), "*" if port in {"0", "*"} else port, None
        )

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches it; every address behind the name counts."""
        return self.path is not None or all(ip_address(host).is_loopback for host in self.hosts)

    def zmq_addresses(self) -> list[str]:
        """Return it as ZeroMQ writes it, once for each address."""
        if self.path is not None:
            return [f"ipc://{self.path}"]
        return [
            f"tcp://[{host}]:{self.port}" if ":" in host else f"tcp://{host}:{self.port}"
            for host in self.hosts
        ]


def _resolve(text: str, host: str) -> tuple[str, ...]:
    if host == "*":
        return ("0.0.0.0",)  # noqa: S104 - asked for, and refused later without keys
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BrokerRefused(exits.CONFIGURATION, f"{text}: the host is unknown: {error}") from error
    return tuple(dict.fromkeys(str(address[4][0]) for address in found))


def _socket_path(text: str) -> Path:
    path = text.removeprefix("ipc://")
    if path.startswith("@"):
        raise BrokerRefused(
            exits.CONFIGURATION,
            f"{shown(text)}: every user could connect to an abstract socket; name a file",
        )
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise BrokerRefused(exits.USAGE, f"the path of {shown(text)} must be absolute")
    length = len(os.fsencode(path))
    if length > _LONGEST_PATH:
        raise BrokerRefused(
            exits.CONFIGURATION,
            f"the path of a socket has at most {_LONGEST_PATH} bytes, not {length}: {path}",
        )
    return Path(path)


def cannot_listen(address: str, error: Exception, number: int | None) -> BrokerRefused:
    """Return the refusal for *error*, with the system's *number*, in binding *address*."""
    status = exits.IN_USE if number == errno.EADDRINUSE else exits.UNAVAILABLE
    return BrokerRefused(status, f"cannot listen on {address}: {error}")


@contextmanager
def for_this_user() -> Iterator[None]:
    """Create files for this user only: no moment in which a socket's file is open to others."""
    umask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(umask)


class SocketFile:
    """The place of an `ipc` socket, taken by a lock on a file beside it.

    Binding replaces whatever socket is there, a live broker's too: the lock is what tells.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"<SocketFile {str(self._path)!r} {'free' if self._lock is None else 'taken'}>"

    def take(self) -> None:
        """Take the place.

        Raises BrokerRefused if another broker has it, or something else is there.
        """
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise BrokerRefused(exits.CANNOT_CREATE, f"cannot open {lock}: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise BrokerRefused(exits.IN_USE, f"another broker listens on {self._path}") from error
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(there.st_mode):
            self.release()
            raise BrokerRefused(
                exits.CANNOT_CREATE, f"{self._path} is there already, and is not a socket"
            )

    def protect(self) -> None:
        """Let only this user connect."""
        self._path.chmod(0o600)

    def remove(self) -> None:
        """Remove the socket: nobody listens any more."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the place up. The lock's file stays: removing it would let two have the place."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
