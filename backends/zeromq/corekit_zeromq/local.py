"""The broker of this machine behind `zmq+local://NAME`: found, or started by who needs it first.

Below the user's state directory each name has a directory of its own:

    data/        the broker's data directory
    address      the path of its socket; written before the broker is started
    START        locked (flock) by the process that starts the broker, while it does
    broker.log   what the broker writes

Whoever wants the broker connects to the socket. If nobody answers there, it takes the lock, looks
again, and starts a broker. The lock of the data directory, which the broker itself holds, makes a
second one impossible, even if the first one's starter died half-way.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from corekit.errors import BackendError, BackendRefused, BackendUnavailable, ConfigurationError

from .settings import LONGEST_PATH, Settings

logger = logging.getLogger("corekit.zeromq")

#: Seconds between two looks at what another process does.
_POLL = 0.03

#: Seconds in which a broker that was started must listen; it may have a large journal to read.
_START_TIMEOUT = 30.0

#: What of the log is shown in an error, and how large it grows before it is put aside, in bytes.
_TAIL = 2000
_LARGEST_LOG = 4 * 1024 * 1024

#: Exit codes that mean that trying again may help: another broker has the data directory.
_IN_USE = os.EX_TEMPFAIL

#: Those of a broker that cannot work as things are (`corekit_zeromq.broker.exits`).
_HOPELESS = {
    os.EX_USAGE,
    os.EX_DATAERR,
    os.EX_CANTCREAT,
    os.EX_NOPERM,
    os.EX_CONFIG,
}


class Place:
    """Where the broker with a name lives."""

    def __init__(self, name: str) -> None:
        state = os.environ.get("XDG_STATE_HOME") or ""
        # A relative path is to be ignored, says the standard.
        root = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
        self.directory = root / "corekit" / name
        self.data = self.directory / "data"
        self.log = self.directory / "broker.log"
        self._address = self.directory / "address"

    def __repr__(self) -> str:
        return f"<Place {str(self.directory)!r}>"

    def make(self) -> None:
        """Make the directories, for this user only."""
        self.directory.parent.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self.directory.parent, self.directory):
            _private(directory)

    def address(self) -> str | None:
        """Return the path of the socket, None if no broker was ever started here."""
        try:
            path = self._address.read_text("utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        # What is left of a file after a power cut is no address.
        return path if os.path.isabs(path) and path.isprintable() else None

    def choose_address(self) -> str:
        """Return the path on which the next broker is to listen, and let everybody know."""
        path = self._socket_path()
        if path != self.address():
            new = self._address.with_suffix(".new")
            new.write_text(path, "utf-8")
            new.replace(self._address)
        return path

    def _socket_path(self) -> str:
        short = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        runtime = os.environ.get("XDG_RUNTIME_DIR") or ""
        candidates = [self.directory / "socket"]
        if os.path.isabs(runtime) and os.access(runtime, os.W_OK):
            candidates.insert(0, Path(runtime) / "corekit" / short)
        candidates.append(Path(tempfile.gettempdir()) / f"corekit-{os.geteuid()}" / short)
        for candidate in candidates:
            if len(os.fsencode(candidate)) <= LONGEST_PATH:
                _private(candidate.parent)
                return str(candidate)
        raise ConfigurationError(f"there is no path of {LONGEST_PATH} bytes for a socket")

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Be the only process that starts this broker; wait for it if another is."""
        lock = os.open(self.directory / "START", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_POLL)
            yield
        finally:
            os.close(lock)

    def end_of_log(self) -> str:
        """Return the last lines that the broker wrote."""
        try:
            lines = self.log.read_bytes()[-_TAIL:].decode("utf-8", "replace").splitlines()
        except OSError as error:
            return str(error)
        return "\n".join(lines[-10:])


def _private(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{directory} belongs to user {status.st_uid}: no broker is started in it"
        )
    if status.st_mode & 0o077:
        directory.chmod(0o700)


async def find_or_start(settings: Settings) -> str:
    """Return the endpoint of the machine's broker with the name in *settings*.

    Raises BackendUnavailable if it could not be started in time, BackendRefused if it will not
    start at all; the text holds the end of its log. If cancelled, it may have been started.
    """
    place = Place(settings.name)
    try:
        place.make()
        path = place.address()
        if path is None or not _answers(path):
            async with place.starting():
                # Another may have been faster.
                path = place.address()
                if path is None or not _answers(path):
                    path = place.choose_address()
                    await _start(settings, place, path)
    except OSError as error:
        raise BackendUnavailable(f"{settings.text}: {error}") from error
    return f"ipc://{path}"


def _answers(path: str) -> bool:
    """Tell whether somebody listens at *path*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


async def _start(settings: Settings, place: Place, path: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_TIMEOUT
    process = _spawn(settings, place, path)
    logger.info("started the broker of %s, process %d", settings.text, process.pid)
    while not _answers(path):
        status = process.poll()
        if status is not None and status != _IN_USE:
            raise _failure(settings, place, f"ended with status {status}", status)
        if loop.time() > deadline:
            raise _failure(settings, place, f"does not listen after {_START_TIMEOUT:g} s", None)
        await asyncio.sleep(_POLL)
        if status is not None:
            # The one before has not quite ended.
            process = _spawn(settings, place, path)


def _failure(settings: Settings, place: Place, what: str, status: int | None) -> BackendError:
    error = BackendRefused if status in _HOPELESS else BackendUnavailable
    return error(
        f"{settings.text}: the broker of this machine was started and {what}; {place.log} ends:\n"
        f"{place.end_of_log()}"
    )


def _spawn(settings: Settings, place: Place, path: str) -> subprocess.Popen[bytes]:
    """Start a broker that belongs to nobody: it outlives this process and its terminal."""
    if not sys.executable:
        raise ConfigurationError(f"{settings.text}: there is no Python to run the broker with")
    if place.log.exists() and place.log.stat().st_size > _LARGEST_LOG:
        place.log.replace(place.log.with_suffix(".log.1"))
    command = [sys.executable, "-m", "corekit_zeromq"]
    command += ["--listen", f"ipc://{path}", "--data", str(place.data)]
    command += ["--durability", settings.durability, "--idle", f"{settings.idle:g}"]
    with place.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - the command is ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            umask=0o077,
        )
    # Somebody has to take note of its end, if this process lives that long.
    threading.Thread(target=process.wait, name=f"broker {process.pid}", daemon=True).start()
    return process
