"""What can be said, in an error, of bytes that cannot be read."""

from __future__ import annotations

from typing import Any

import msgpack

#: What foreign data begins with, for the text of an error.
_FOREIGN = {b"\x80\x04": "pickle", b"\x80\x05": "pickle", b"\x1f\x8b": "gzip", b"{": "JSON"}


def fault(data: bytes, error: Exception) -> str:
    """Return why *data* cannot be read, which ended with *error*."""
    if isinstance(error, msgpack.ExtraData):
        text = "it goes on after its end"
    else:
        text = str(error) or type(error).__name__
    for start, name in _FOREIGN.items():
        if bytes(data[:2]).startswith(start):
            text += f"; it looks like {name}"
    return text


def first_element(data: bytes) -> Any:
    """Return the first element of the array that *data* begins with, None if there is none."""
    unpacker = msgpack.Unpacker()
    try:
        unpacker.feed(data[:64])
        unpacker.read_array_header()
        return unpacker.unpack()
    except Exception:  # noqa: BLE001 - hostile bytes raise a dozen kinds of error
        return None
