"""The redo log: what was committed and is not in the database yet, one record after another."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from . import exits
from .data_directory import sync_directory
from .exits import BrokerRefused

#: The most that it holds, in bytes: it is read into memory as a whole.
CAPACITY = 4 * 1024 * 1024

#: It grows by so many bytes at a time. Within what it has, a record changes nothing but data, and
#: costs the disk one write.
_CHUNK = 256 * 1024

#: What stands before each record: salt, number, length, and the crc32 of these and the record.
_HEAD = struct.Struct(">QQI")
_CRC = struct.Struct(">I")
_OVERHEAD = _HEAD.size + _CRC.size


class RedoLog:
    """A file that is written from its beginning to its end, and again.

    A *salt* tells the records since the last `restart` from older ones that stand behind them. So
    nothing has to be erased, and a record that a power cut has torn is as good as none.

    Raises BrokerRefused if the file cannot be opened.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path = path
        self._durable = durable
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Also if it was there: whoever made it may have died before this.
            sync_directory(path.parent)
        except OSError as error:
            raise BrokerRefused(exits.CANNOT_CREATE, f"cannot open {path}: {error}") from error
        self._size = os.fstat(self._file).st_size
        self._salt = self._number = self._position = 0

    def __repr__(self) -> str:
        return f"<RedoLog {self._path.name} records={self._number} bytes={self._position}>"

    @property
    def is_new(self) -> bool:
        """Whether it has a salt, and no record yet."""
        return self._salt != 0 and self._number == 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def restart(self, salt: int) -> None:
        """Forget all records; those to come carry *salt*, not 0, which no others may have had."""
        self._salt = salt
        self._number = self._position = 0

    def append(self, record: bytes) -> bool:
        """Add *record* and return True when it is durable; False, and nothing done, without room.

        There is none beyond the capacity, or when the disk is full. Raises OSError; whether the
        record is there is not known then.
        """
        end = self._position + _OVERHEAD + len(record)
        if end > CAPACITY:
            return False
        head = _HEAD.pack(self._salt, self._number, len(record))
        crc = _CRC.pack(zlib.crc32(record, zlib.crc32(head)))
        try:
            if end > self._size:
                self._grow(end)
            self._write(b"".join((head, crc, record)), self._position)
        except OSError as error:
            # Also while old data is overwritten: some file systems write to another place.
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                return False
            raise
        if self._durable:
            os.fdatasync(self._file)
        self._position = end
        self._number += 1
        return True

    def read(self, salt: int) -> Iterator[bytes]:
        """Yield the records that carry *salt*, in order, up to the first that is not whole."""
        data = os.pread(self._file, CAPACITY, 0)
        position = number = 0
        while position + _OVERHEAD <= len(data):
            head = data[position : position + _HEAD.size]
            found, place, length = _HEAD.unpack(head)
            begin = position + _OVERHEAD
            record = data[begin : begin + length]
            (crc,) = _CRC.unpack_from(data, position + _HEAD.size)
            if (found, place, len(record)) != (salt, number, length):
                return
            if zlib.crc32(record, zlib.crc32(head)) != crc:
                return
            yield record
            position = begin + length
            number += 1

    def _grow(self, end: int) -> None:
        """Make room up to *end*."""
        size = min(CAPACITY, -(-end // _CHUNK) * _CHUNK)
        # Zeros, not a hole: a record that fills a hole makes the file system write, too.
        self._write(bytes(size - self._size), self._size)
        self._size = size

    def _write(self, data: bytes, position: int) -> None:
        while data:
            written = os.pwrite(self._file, data, position)
            data, position = data[written:], position + written
