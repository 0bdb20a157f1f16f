"""Looks into the redo log as it is on disk."""

import struct

#: Salt, number, length, and the crc32 that stands before each record.
_HEAD = struct.Struct(">QQII")


def log_end(data: bytes) -> int:
    """Return where the last record of the log's present generation ends."""
    position, number, salt = 0, 0, data[:8]
    while position + _HEAD.size <= len(data) and data[position : position + 8] == salt:
        _, place, length, _ = _HEAD.unpack_from(data, position)
        if not length or place != number:
            break
        position, number = position + _HEAD.size + length, number + 1
    return position
