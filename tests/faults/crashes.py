"""A broker's data directory as a power cut may leave it.

A commit is on disk when its fdatasync has returned. What was written after that may be there or
not, sector by sector, in any order: of files that grew, what is missing reads as zeros.
"""

from __future__ import annotations

import sqlite3
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from corekit_zeromq.broker.journal import FILE, LOG
from corekit_zeromq.protocol import Op

from .modules import load

WAL = FILE + "-wal"

#: What disks write as a whole.
SECTOR = 512

#: The header of sqlite's log, and where it says which generation of the log it is.
_HEADER = 32
_GENERATION = slice(16, 24)

#: Where the journal's own log does so.
_SALT = slice(0, 8)

#: Speaks to an engine without a process.
Bench = load("backends/zeromq/tests/broker/peer.py").Bench

_log_end = load("backends/zeromq/tests/broker/logs.py").log_end

Files = dict[str, bytes]
#: Ids and bodies of the messages in a queue, in order.
Messages = list[tuple[str, bytes]]

_LOCKS = ("one", "two", "three")


class State(NamedTuple):
    """What a broker has."""

    messages: Messages
    locks: dict[str, int]
    """The fencing tokens of those that are held."""

    token: int
    """The last one that was given out."""


@dataclass
class Commit:
    """A commit: the files when it was confirmed, and what the broker had."""

    files: Files
    state: State


class Journalist:
    """Publishes and acknowledges, locks and frees, one commit each.

    It keeps what each left on the disk.
    """

    def __init__(self, directory: Path, random: Random) -> None:
        self._directory = directory
        self._random = random
        self._bench = Bench(directory)
        self._peer = self._bench.peer()
        self._messages: Messages = []
        self._tokens: dict[str, bytes] = {}
        self._published = 0
        self._locks: dict[str, tuple[int, bytes]] = {}
        self._token = 0
        self._peer.send([Op.CONSUME, 1, "q"])

    def close(self) -> None:
        self._bench.journal.close()

    def publish(self, size: int) -> None:
        """Publish a message of *size* bytes."""
        self._published += 1
        id_ = f"m{self._published}"
        body = self._random.randbytes(size)
        self._peer.publish(id_, body)
        self._messages.append((id_, body))

    def acknowledge(self) -> None:
        """Get one more message, and acknowledge one of those that were delivered."""
        for command in self._peer.send([Op.CREDIT, 1, 1]):
            self._tokens |= {one[1]: one[0] for one in command[2]}
        id_ = self._random.choice(sorted(self._tokens))
        self._peer.send([Op.ACK, 1, [self._tokens.pop(id_)]])
        self._messages = [each for each in self._messages if each[0] != id_]

    def lock(self, name: str) -> None:
        """Lock *name* if it is free; extend the lease or free it if it is locked."""
        if name in self._locks and self._random.random() < 0.5:
            self._peer.send([Op.LOCK_EXTEND, 1, name, self._locks[name][1], 1e6])
        elif name in self._locks:
            self._peer.send([Op.LOCK_RELEASE, 1, name, self._locks.pop(name)[1]])
        else:
            ((_, _, grant),) = self._peer.send([Op.LOCK_ACQUIRE, 1, name, 1e6, 0])
            self._token, _, owner = grant
            self._locks[name] = self._token, owner

    def step(self, size: int) -> Commit:
        """Do one thing or another, and return what it left."""
        if self._random.random() < 0.2:
            self.lock(self._random.choice(_LOCKS))
        elif len(self._messages) > 3 and self._random.random() < 0.4:
            self.acknowledge()
        else:
            self.publish(self._random.randrange(size))
        return self.commit()

    def commit(self) -> Commit:
        """Return what is on disk, and what should be."""
        locks = {name: token for name, (token, _) in self._locks.items()}
        state = State(list(self._messages), locks, self._token)
        return Commit(files(self._directory), state)


def files(directory: Path) -> Files:
    """Read a data directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def write(directory: Path, found: Files) -> None:
    """Make *directory* one that holds *found*, and nothing else."""
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    for name, content in found.items():
        (directory / name).write_bytes(content)


def state(directory: Path) -> State:
    """Return what a new start on *directory* finds, by handing it out."""
    bench = Bench(directory)
    try:
        bench.wait(bench.limits.reclaim)
        peer = bench.peer()
        delivered = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 10_000])
        messages = [(one[1], one[2]) for command in delivered for one in command[2]]
        return State(messages, *_locks(peer))
    finally:
        bench.journal.close()


def _locks(peer: Any) -> tuple[dict[str, int], int]:
    """Return the tokens of what is held, and the last one."""
    leases = peer.bench.engine.locks._leases
    held = {name: leases[name].token for name in _LOCKS if name in leases}
    ((_, _, (token, _, _)),) = peer.send([Op.LOCK_ACQUIRE, 1, "another", 1, 0])
    return held, token - 1


def is_new_log(before: Files, after: Files) -> bool:
    """Tell whether sqlite's log was begun anew: its old frames are overwritten from the start."""
    return before.get(WAL, b"")[_GENERATION] != after.get(WAL, b"")[_GENERATION]


def salt(found: Files) -> bytes:
    """Return what tells the records of the journal's log from older ones behind them."""
    return found.get(LOG, b"")[_SALT]


def log_end(found: Files) -> int:
    """Return where the last record of a journal's log ends."""
    end: int = _log_end(found.get(LOG, b""))
    return end


def half_created(path: Path, sectors: int) -> Files:
    """Return a journal whose first page was being written: the bits of *sectors* say what of it is.

    Beside it lies the journal of sqlite's own, which was synced before and says that the file was
    empty. *path* is where such a page may be made.
    """
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=wal")
    connection.close()
    page = path.read_bytes()
    found = bytearray(len(page))
    for number in range(len(page) // SECTOR):
        if sectors >> number & 1:
            part = slice(number * SECTOR, (number + 1) * SECTOR)
            found[part] = page[part]
    empty = bytes.fromhex("d9d505f920a163d7") + struct.pack(">5I", 0, 1, 0, SECTOR, len(page))
    return {FILE: bytes(found), FILE + "-journal": empty.ljust(SECTOR, b"\0")}


def power_cut(before: Files, after: Files, random: Random) -> Files:
    """Return what may be on disk if the power fails on the way from one commit to the next.

    A commit goes to the journal's log or to its database, and is synced before the next one begins:
    first the database, if both are written between two commits of ours.
    """
    if before[LOG] != after[LOG] and random.random() < 0.5:
        return after | {LOG: mixed(before[LOG], after[LOG], random)}
    return database_cut(before, after, random) | {LOG: before[LOG]}


def database_cut(before: Files, after: Files, random: Random) -> Files:
    """Return the same for the files of the database.

    Of its log and itself only one is unsure at a time: the log is synced before what is in
    it is copied to the database, and the database before the log is begun anew. Then the log's new
    header is synced before its frames are written over the old ones.
    """
    found = dict(before)
    if before[FILE] != after[FILE] and random.random() < 0.5:
        found[WAL] = after[WAL]
        found[FILE] = mixed(before[FILE], after[FILE], random)
        return found
    old = before.get(WAL, b"")
    if is_new_log(before, after):
        old = after[WAL][:_HEADER] + old[_HEADER:]
    found[WAL] = mixed(old, after[WAL], random)
    return found


def mixed(old: bytes, new: bytes, random: Random) -> bytes:
    """Return a file between *old* and *new*, of which each sector is one or the other."""
    length = random.choice([len(old), len(new), random.randint(*sorted((len(old), len(new))))])
    chance = random.choice([0.02, 0.5, 0.98])
    found = bytearray(old.ljust(length, b"\0")[:length])
    for begin in range(0, length, SECTOR):
        if random.random() < chance:
            found[begin : begin + SECTOR] = new[begin : begin + SECTOR].ljust(
                min(SECTOR, length - begin), b"\0"
            )
    return bytes(found[:length])
