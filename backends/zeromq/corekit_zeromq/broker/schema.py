"""The journal's file: opening it, knowing whose it is, and setting it up."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from . import exits
from .data_directory import sync_directory
from .exits import BrokerRefused
from .records import LAST_CHANNEL, LAST_SEQ

logger = logging.getLogger("corekit.broker")

#: "ckzq": marks the file as a journal of this broker, for `file` and for us.
APPLICATION_ID = 0x636B7A71
VERSION = 5

#: Pages in the write-ahead log before it is folded into the main file: bounds what a damaged log
#: can cut off (16 MiB), and how much room a full disk must still have.
_CHECKPOINT_PAGES = 4000

#: Bytes of a database file's header, and of a page.
_HEADER = 100
PAGE = 4096

#: Errors of sqlite, by their primary code, that are not the file's fault.
_STATUS = {
    sqlite3.SQLITE_IOERR: exits.IO_ERROR,
    sqlite3.SQLITE_FULL: exits.IO_ERROR,
    sqlite3.SQLITE_BUSY: exits.IN_USE,
    sqlite3.SQLITE_READONLY: exits.CANNOT_CREATE,
    sqlite3.SQLITE_CANTOPEN: exits.CANNOT_CREATE,
    sqlite3.SQLITE_PERM: exits.CANNOT_CREATE,
}

_BLOCK = """
-- Many messages in one row: places of the first and the last, their number, bytes of their bodies,
-- when the first was published. `crc` is that of all these, `messages` begins with its own.
CREATE TABLE block (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, entries INTEGER NOT NULL,
    size INTEGER NOT NULL, published_at REAL NOT NULL, crc INTEGER NOT NULL, messages BLOB NOT NULL
);
"""

_QUEUES = f"""
-- A channel without a name was purged: its messages are removed little by little.
CREATE TABLE channel (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE,
    messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
    timed INTEGER NOT NULL, dead INTEGER NOT NULL
);
-- `place` says channel, whether there is or was a delay, and seq: see records.place_of. `due` is
-- null without a delay; `delay` bounds the rest of it after the clock was set back.
CREATE TABLE message (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL, due REAL, delay REAL,
    attempts INTEGER NOT NULL, deaths INTEGER NOT NULL,
    published_at REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX message_due ON message (place>>45, due) WHERE due IS NOT NULL;
CREATE TABLE dead (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL,
    attempts INTEGER NOT NULL, error TEXT NOT NULL, died_at REAL NOT NULL,
    published_at REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX dead_id ON dead (place>>45, id);
{_BLOCK}"""

_OTHERS = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE dedup (
    channel TEXT NOT NULL, dedup_id TEXT NOT NULL, id TEXT NOT NULL,
    seq INTEGER NOT NULL, until REAL NOT NULL, PRIMARY KEY (channel, dedup_id)
) WITHOUT ROWID;
CREATE INDEX dedup_until ON dedup (until);
-- The ids published in one transaction, so that a repeated publish is recognised.
CREATE TABLE recent (number INTEGER PRIMARY KEY, at REAL NOT NULL, ids BLOB NOT NULL);
CREATE TABLE lease (
    name TEXT PRIMARY KEY, token INTEGER NOT NULL, owner BLOB NOT NULL,
    ttl REAL NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE session (id BLOB PRIMARY KEY, secret BLOB NOT NULL) WITHOUT ROWID;
"""

#: From format 1. Everything is read in the order in which it is written, so that nothing needs to
#: be sorted: a journal may be larger than memory. Channels get new numbers, of which there are
#: fewer now.
_MIGRATION = f"""
BEGIN IMMEDIATE;
ALTER TABLE channel RENAME TO old_channel;
ALTER TABLE message RENAME TO old_message;
ALTER TABLE dead RENAME TO old_dead;
DROP INDEX dead_id;
{_QUEUES}
CREATE TABLE number (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
INSERT INTO number SELECT id, row_number() OVER (ORDER BY id) FROM old_channel;
INSERT INTO channel SELECT new, name, messages, bytes, timed, dead
    FROM number JOIN old_channel ON id=old;
INSERT INTO message
    SELECT (((new<<1)|(due IS NOT NULL))<<44)|seq, id, due, delay, attempts, deaths,
        published_at, crc, body
    FROM number CROSS JOIN old_message INDEXED BY message_order ON channel=old;
INSERT INTO dead
    SELECT (new<<45)|seq, id, attempts, error, died_at, published_at, crc, body
    FROM old_dead JOIN number ON old=channel;
DROP TABLE old_channel;
DROP TABLE old_message;
DROP TABLE old_dead;
DROP TABLE number;
PRAGMA user_version={VERSION};
COMMIT;
"""  # noqa: S608 - our own statements


def connect(path: Path, *, durable: bool) -> sqlite3.Connection:
    """Open the journal at *path*, creating it if there is none.

    *durable*: a commit is on disk when it returns; otherwise it survives the process only.

    A journal of an older format is brought into the present one, which takes as much room again;
    if that fails, or is cut short, it is as it was.

    Raises BrokerRefused for a file that is damaged, foreign, or of a newer release; it is left as
    it was.
    """
    existed = path.exists()
    if existed:
        _recognise(path)
    # Created with its mode: between sqlite's own creation and a chmod others could open it.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # That a text is damaged is found by its checksum, not by failing to read it.
    connection.text_factory = lambda data: data.decode(errors="replace")
    try:
        _set_up(connection, durable=durable)
        if not existed:
            _create(connection)
            sync_directory(path.parent)
        _check_version(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise BrokerRefused(
            _STATUS.get(error.sqlite_errorcode & 0xFF, exits.CORRUPT),
            f"{path} cannot be opened as a journal: {error}; it was left as it is",
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _recognise(path: Path) -> None:
    """Check that the file is a journal of ours before sqlite, or a stale log beside it, acts."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise BrokerRefused(exits.CANNOT_CREATE, f"cannot read {path}: {error}") from error
    if not header or (size <= PAGE and not header.strip(b"\0")):
        return  # created, and nothing written yet; or everything is in the log
    if len(header) < _HEADER or not header.startswith(b"SQLite format 3\0"):
        raise BrokerRefused(
            exits.CORRUPT, f"{path} is not a journal of corekit's broker; move it away"
        )
    application = int.from_bytes(header[68:72], "big")
    # Until the log is first folded in, our first page says nothing: not even that there are
    # tables. If the power fails while it is, others may have been written before the first.
    tables = int.from_bytes(header[40:44], "big")
    if application != APPLICATION_ID and (application or tables):
        raise _foreign(path)
    _check_format(path, int.from_bytes(header[60:64], "big"))


def _foreign(path: Path) -> BrokerRefused:
    return BrokerRefused(
        exits.CORRUPT, f"{path} is the database of another application; move it away"
    )


def _check_format(path: Path, version: int) -> None:
    if version > VERSION:
        raise BrokerRefused(
            exits.CONFIGURATION,
            f"{path} was written by a newer release (format {version}, this one knows {VERSION})",
        )


def _set_up(connection: sqlite3.Connection, *, durable: bool) -> None:
    settings: dict[str, object] = {
        "page_size": PAGE,
        "locking_mode": "exclusive",
        "journal_mode": "wal",
        "synchronous": 2 if durable else 1,
        "wal_autocheckpoint": _CHECKPOINT_PAGES,
        "journal_size_limit": 32 * 1024 * 1024,
        "temp_store": 2,
        "mmap_size": 0,
        "cache_size": -16 * 1024,
        "trusted_schema": 0,
        "cell_size_check": 1,
        # Some builds fill what is freed with zeros, and write these.
        "secure_delete": 0,
    }
    for name, wanted in settings.items():
        connection.execute(f"PRAGMA {name}={wanted}")
        # Builds of sqlite differ in their defaults and ignore what they do not know: read back.
        row = connection.execute(f"PRAGMA {name}").fetchone()
        if row is None and name == "mmap_size":
            continue  # built without it
        if row is None or row[0] != wanted:
            raise BrokerRefused(
                exits.UNAVAILABLE,
                f"sqlite {sqlite3.sqlite_version} did not take {name}={wanted}: it says {row}",
            )


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(
        f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION_ID}; "
        f"PRAGMA user_version={VERSION}; {_QUEUES} {_OTHERS} COMMIT;"
    )


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (
        application == 0
        and version == 0
        and not connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    ):
        # The process died between creating the file and the first commit.
        _create(connection)
        return
    if application != APPLICATION_ID:
        raise _foreign(path)
    _check_format(path, version)
    if version < VERSION:
        _migrate(connection, path)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a journal of an older format into the present one, or leave it as it is."""
    logger.info("%s is brought into format %d", path, VERSION)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= 2:
        # What is there stays. Format 3 has the redo log beside the tables, 4 the locks in it, 5
        # messages in blocks: older releases would not look there.
        connection.executescript(
            f"BEGIN IMMEDIATE; {_BLOCK} PRAGMA user_version={VERSION}; COMMIT;"
        )
        return
    channels, last = connection.execute(
        "SELECT (SELECT count(*) FROM channel), (SELECT max(seq) FROM message)"
    ).fetchone()
    if channels > LAST_CHANNEL or (last or 0) > LAST_SEQ:
        raise BrokerRefused(
            exits.CONFIGURATION,
            f"{path} has more queues ({channels}) than format {VERSION} can hold; it was left as "
            "it is: let the release that wrote it remove the purged ones",
        )
    connection.executescript(_MIGRATION)
