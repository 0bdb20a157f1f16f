"""The broker's data directory: who owns it, how far it got, how much room is left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import stat
from pathlib import Path
from typing import NamedTuple

from . import exits
from .exits import BrokerRefused
from .records import LAST_SEQ

logger = logging.getLogger("corekit.broker")

_HIGH_WATER = "high-water.json"


class HighWater(NamedTuple):
    """How far an earlier life of the broker is known to have got."""

    seq: int
    """The last message that was committed."""

    wall: float
    """When, in Unix seconds."""


class DataDirectory:
    """A directory that belongs to one broker at a time.

    The lock is `flock` on the file LOCK in it: it goes with the process, however that ends, and
    holds under every name of the directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"<DataDirectory {str(self.path)!r} {'free' if self._lock is None else 'locked'}>"

    def open(self) -> None:
        """Create the directory if its parent exists, check it, and take it for this process.

        Raises BrokerRefused; nothing in the directory has been changed then.
        """
        self._create()
        self._check()
        lock = self.path / "LOCK"
        try:
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BrokerRefused(exits.CANNOT_CREATE, f"cannot open {lock}: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            self.close()
            raise BrokerRefused(
                exits.IN_USE, f"{self.path} is in use by another broker (process {owner or '?'})"
            ) from None
        except OSError as error:
            self.close()
            raise BrokerRefused(
                exits.CANNOT_CREATE, f"{self.path} is on a file system that cannot lock: {error}"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the directory up. LOCK stays: removing it would let two brokers lock two files."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _create(self) -> None:
        try:
            self.path.mkdir(0o700)
        except FileExistsError:
            return
        except OSError as error:
            raise BrokerRefused(
                exits.CANNOT_CREATE, f"cannot create the data directory {self.path}: {error}"
            ) from error
        sync_directory(self.path.parent)

    def _check(self) -> None:
        try:
            status = self.path.stat()
        except OSError as error:
            raise BrokerRefused(exits.CANNOT_CREATE, f"{self.path}: {error}") from error
        if not stat.S_ISDIR(status.st_mode):
            raise BrokerRefused(exits.CANNOT_CREATE, f"{self.path} is not a directory")
        if status.st_mode & stat.S_IWOTH:
            raise BrokerRefused(
                exits.CONFIGURATION, f"{self.path} can be written by every user: chmod 700 it"
            )
        if status.st_uid != os.geteuid():
            text = f"{self.path} belongs to user {status.st_uid}, not to {os.geteuid()}"
            if os.geteuid() != 0:
                raise BrokerRefused(exits.CONFIGURATION, text)
            logger.warning("%s", text)

    def free_space(self) -> int:
        """Return the bytes that are free for this process on the directory's disk."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def used(self) -> int:
        """Return the bytes that the files of the directory take."""
        used = 0
        for entry in os.scandir(self.path):
            # SQLite removes files of its own at any time.
            with contextlib.suppress(FileNotFoundError):
                used += entry.stat().st_blocks * 512
        return used

    def high_water(self) -> HighWater | None:
        """Return the mark that was kept last, None if there is none that can be read."""
        try:
            mark = json.loads((self.path / _HIGH_WATER).read_bytes())
            found = HighWater(int(mark["seq"]), float(mark["wall"]))
        except FileNotFoundError:
            return None
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            logger.warning("the high-water mark in %s cannot be read: %s", self.path, error)
            return None
        if not (0 <= found.seq <= LAST_SEQ and math.isfinite(found.wall)):
            logger.warning("the high-water mark in %s makes no sense: %s", self.path, found)
            return None
        return found

    def keep_high_water(self, mark: HighWater) -> None:
        """Keep *mark*, of which everything must have been committed.

        Not synced: an older mark after a power cut warns of less, but never falsely.
        """
        file = self.path / _HIGH_WATER
        new = file.with_suffix(".new")
        # A mark that cannot be kept costs a warning in some later life, not this one.
        with contextlib.suppress(OSError):
            new.write_text(json.dumps(mark._asdict()))
            new.replace(file)


def sync_directory(path: Path) -> None:
    """Make the names in the directory *path* survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
