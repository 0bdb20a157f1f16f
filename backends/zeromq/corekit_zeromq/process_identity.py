"""Which process this is: so that a broker on the same machine can tell when it has died."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .settings import Settings

_STAT = "/proc/{}/stat"
_BOOT = "/proc/sys/kernel/random/boot_id"
_NAMESPACE = "/proc/self/ns/pid"

#: Where in the stat file, behind the name of the program, the start time stands.
_START = 19


class ProcessIdentity(NamedTuple):
    """A process, told from all others on all machines, also from later ones with its pid."""

    pid: int
    started: int
    """When it was started, in clock ticks after the boot."""

    boot: str
    """The boot of the machine."""

    namespace: int
    """The pid namespace: the number of its inode."""


def own_identity() -> ProcessIdentity | None:
    """Return the identity of this process, None where the system does not tell it."""
    try:
        pid, started = _stat("self")
        with open(_BOOT, encoding="ascii") as file:
            boot = file.read().strip()
        namespace = os.stat(_NAMESPACE).st_ino
    except (OSError, ValueError, IndexError):
        return None
    # A /proc of another pid namespace counts processes differently.
    return ProcessIdentity(pid, started, boot, namespace) if pid == os.getpid() else None


def start_time(pid: int) -> int | None:
    """Return when the process *pid* was started, as identities hold it; None if it is not told."""
    try:
        found, started = _stat(str(pid))
    except (OSError, ValueError, IndexError):
        return None
    return started if found == pid else None


def _stat(name: str) -> tuple[int, int]:
    with open(_STAT.format(name), "rb") as file:
        text = file.read()
    # The program's name is in parentheses, and may hold anything, parentheses too.
    pid, _, rest = text.partition(b" ")
    return int(pid), int(rest[rest.rindex(b")") + 2 :].split()[_START])


def process_claim(settings: Settings) -> dict[str, Any]:
    """Return what HELLO's info says of this process to a broker on this machine.

    Nothing to other brokers. A copy of a virtual machine has its boot, and maybe its processes, but
    is not reached over the loopback.
    """
    if not (settings.host is None or _is_loopback(settings.host)):
        return {}
    identity = own_identity()
    return {} if identity is None else {"process": identity._asdict()}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_claim(value: Any) -> ProcessIdentity | None:
    """Return the process that a HELLO's info claims, None if it claims none, or badly."""
    claim = value.get("process") if type(value) is dict else None
    if type(claim) is not dict:
        return None
    match claim:
        case {"pid": int(pid), "started": int(started), "boot": str(boot), "namespace": int(inode)}:
            # What the system takes for a pid; the others are only compared.
            if type(pid) is int and 0 < pid < 1 << 31 and len(boot) <= 64:
                return ProcessIdentity(pid, started, boot, inode)
    return None
