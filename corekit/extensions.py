"""How values that msgpack does not know are written.

Atoms (a date, a UUID, ...) are msgpack extension types with a code below 64; the codes 64 to 127
belong to hooks. Collections other than list and dict are tagged: a map whose only key is an array,
`{[TAG]: [elements]}`. No dict can look like that, since a list is not hashable, and unlike an
extension type it can be written and read without nesting one encoder in another. Codes and tags
are part of stored data: they never change their meaning.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from msgpack import ExtType

from .arguments import shown
from .errors import ConfigurationError, SerializationError

T = TypeVar("T", datetime, time)


@dataclass(frozen=True, slots=True)
class Extension:
    """How values of one more type are written.

    Raises ConfigurationError for anything but a class, a code from 64 to 127 and two functions.
    """

    type: type
    """Values of exactly this class; those of subclasses are not meant."""

    code: int
    """Stands before the bytes in whatever was stored or sent; 64 to 127, the same for ever."""

    encode: Callable[[Any], bytes]
    """Returns the bytes for a value; plain, not async."""

    decode: Callable[[bytes], Any]
    """Returns the value for bytes that `encode` made; others it refuses by raising anything."""

    def __post_init__(self) -> None:
        if not isinstance(self.type, type):
            raise ConfigurationError(f"a serializer needs a class, not {shown(self.type)}")
        name = self.type.__qualname__
        if type(self.code) is not int or not 64 <= self.code <= 127:
            raise ConfigurationError(
                f"the serializer of {name} needs a code from 64 to 127, not {shown(self.code)}"
            )
        if not callable(self.encode) or not callable(self.decode):
            raise ConfigurationError(f"the serializer of {name} needs two functions")

    def write(self, value: Any) -> ExtType:
        """Return what msgpack is to write for *value*; raises SerializationError."""
        try:
            data = self.encode(value)
        except Exception as error:
            raise SerializationError(f"its serializer failed: {type(error).__name__}") from error
        if type(data) is not bytes:
            raise SerializationError(f"its serializer returned {type(data).__name__}, not bytes")
        return ExtType(self.code, data)

    def read(self, data: bytes) -> Any:
        """Return the value that `write` wrote as *data*; raises SerializationError."""
        try:
            return self.decode(data)
        except Exception as error:
            raise SerializationError(
                f"the serializer of {self.type.__qualname__} failed: {type(error).__name__}"
            ) from error


class Tag:
    """Stands for `[code]` as the key of a map; unlike the list it is hashable."""

    __slots__ = ("key",)

    def __init__(self, code: int) -> None:
        self.key = [code]

    def __repr__(self) -> str:
        return f"<Tag {self.key}>"


_TUPLE, _SET, _FROZENSET = Tag(1), Tag(2), Tag(3)
_COLLECTIONS: dict[int, Callable[[list[Any]], Any]] = {1: tuple, 2: set, 3: frozenset}

_INT, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID = range(1, 8)

_MICROSECOND = timedelta(microseconds=1)
#: Follows a time of day that is the second one of its kind, when clocks were set back.
_FOLD = b"~"


def _same(value: Any) -> Any:
    return value


def _write_int(value: int) -> int | ExtType:
    # Bytes, not digits: converting digits takes time that grows with the square of their number.
    if -(2**63) <= value < 2**64:
        return value
    return ExtType(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _read_int(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _check_zone(value: datetime | time) -> None:
    if value.tzinfo is not None:
        offset = value.utcoffset()
        if offset is None:
            raise ValueError("its time zone has no fixed offset here")
        if offset.microseconds:  # Python reads some of these as UTC
            raise ValueError("its time zone has an offset with a fraction of a second")


def _iso(value: datetime | time) -> bytes:
    _check_zone(value)
    return value.isoformat().encode() + (_FOLD if value.fold else b"")


def _from_iso(kind: type[T], data: bytes) -> T:
    value = kind.fromisoformat(data.removesuffix(_FOLD).decode("ascii"))
    _check_zone(value)
    return value.replace(fold=int(data.endswith(_FOLD)))


#: By exact type, what msgpack is to write in a value's stead.
WRITERS: dict[type, Callable[[Any], Any]] = {
    **dict.fromkeys(
        (type(None), bool, float, str, bytes, bytearray, memoryview, list, dict), _same
    ),
    int: _write_int,
    tuple: lambda value: {_TUPLE: list(value)},
    set: lambda value: {_SET: list(value)},
    frozenset: lambda value: {_FROZENSET: list(value)},
    Tag: lambda value: value.key,
    datetime: lambda value: ExtType(_DATETIME, _iso(value)),
    date: lambda value: ExtType(_DATE, value.isoformat().encode()),
    time: lambda value: ExtType(_TIME, _iso(value)),
    timedelta: lambda value: ExtType(
        _TIMEDELTA, struct.pack(">iii", value.days, value.seconds, value.microseconds)
    ),
    Decimal: lambda value: ExtType(_DECIMAL, str(value).encode()),
    UUID: lambda value: ExtType(_UUID, value.bytes),
}

#: By code, how an extension's bytes become a value; anything may be raised for bad ones.
READERS: dict[int, Callable[[bytes], Any]] = {
    _INT: _read_int,
    _DATETIME: partial(_from_iso, datetime),
    _DATE: lambda data: date.fromisoformat(data.decode("ascii")),
    _TIME: partial(_from_iso, time),
    _TIMEDELTA: lambda data: timedelta(*struct.unpack(">iii", data)),
    _DECIMAL: lambda data: Decimal(data.decode("ascii")),
    _UUID: lambda data: UUID(bytes=data),
}


def read_map(pairs: list[tuple[Any, Any]]) -> Any:
    """Return the dict, or the tagged collection, that a map with these entries stands for.

    Raises ValueError, or TypeError for a key that no dict can have.
    """
    if len(pairs) == 1 and type(pairs[0][0]) is list:
        return _read_collection(*pairs[0])
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a dict has the same key twice")
    return value


def _read_collection(key: list[Any], elements: Any) -> Any:
    if len(key) != 1 or type(key[0]) is not int or type(elements) is not list:
        raise ValueError("a dict has a list as its key")
    if key[0] not in _COLLECTIONS:
        raise ValueError(f"unknown collection {key[0]}")
    value = _COLLECTIONS[key[0]](elements)
    if len(value) != len(elements):
        raise ValueError("a set has the same element twice")
    return value
