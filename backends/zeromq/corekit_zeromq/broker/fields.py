"""What the fields of a command may be. Clients lie: each one is checked again here."""

from __future__ import annotations

import re
from typing import Any

from corekit.arguments import LONGEST, shown
from corekit.errors import InvalidArgument, MessageTooLarge

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def text(field: str, value: Any, longest: int) -> str:
    """Return *value*, which must be a text without control characters, not empty."""
    if type(value) is not str or not 0 < len(value) <= longest:
        raise InvalidArgument(
            f"{field} must be a text of 1 to {longest} characters, not {shown(value)}"
        )
    # The first test takes most names out of the second's way, which is slower.
    if not value.isprintable() and _CONTROL.search(value):
        raise InvalidArgument(f"{field} must not hold control characters: {shown(value)}")
    return value


def whole(field: str, value: Any, least: int, most: int) -> int:
    """Return *value*, which must be a whole number from *least* to *most*."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidArgument(
            f"{field} must be a whole number from {least} to {most}, not {shown(value)}"
        )
    return value


def seconds(field: str, value: Any, *, zero: bool = False) -> float:
    """Return *value*, which must be a duration above 0 (with *zero*: or 0) of at most ten years."""
    # NaN compares false.
    if type(value) not in {int, float} or not (0 < value <= LONGEST or (zero and value == 0)):
        raise InvalidArgument(f"{field} must be seconds up to ten years, not {shown(value)}")
    return float(value)


def flag(field: str, value: Any) -> bool:
    """Return *value*, which must be a boolean."""
    if type(value) is not bool:
        raise InvalidArgument(f"{field} must be a boolean, not {shown(value)}")
    return value


def binary(field: str, value: Any, longest: int) -> bytes:
    """Return *value*, which must be bytes of at most *longest*."""
    if type(value) is not bytes:
        raise InvalidArgument(f"{field} must be bytes, not {shown(value)}")
    if len(value) > longest:
        raise MessageTooLarge(f"{field} has {len(value)} bytes; {longest} are allowed")
    return value


def binaries(field: str, value: Any, longest: int) -> list[bytes]:
    """Return *value*, which must be a list of bytes, each of at most *longest*."""
    if type(value) is not list:
        raise InvalidArgument(f"{field} must be a list, not {shown(value)}")
    for item in value:
        if type(item) is not bytes or len(item) > longest:
            binary(f"an item of {field}", item, longest)
    return value


def texts(field: str, value: Any, longest: int) -> list[str]:
    """Return *value*, which must be a list of texts as `text` takes them."""
    if type(value) is not list:
        raise InvalidArgument(f"{field} must be a list, not {shown(value)}")
    for item in value:
        text(f"an item of {field}", item, longest)
    return value


def information(value: Any) -> dict[str, str]:
    """Return the texts of a HELLO's info; what is unknown or odd is left out."""
    if type(value) is not dict:
        return {}
    return {
        key: _CONTROL.sub("?", value[key])[:100]
        for key in ("name", "version")
        if type(value.get(key)) is str
    }
