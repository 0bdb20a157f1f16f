"""Full names of keys, channels, queues and locks.

A full name is the application, the component and the names given by the user, joined by `/`.
Each part is escaped, so two different (application, component, name, key) never meet. Adapters
get full names; whether they store them literally or encode them further is their business, as
long as different names stay different.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from .arguments import shown
from .errors import InvalidName, InvalidType

#: A name's greatest length, in bytes of UTF-8.
LONGEST = 512

CACHE = "cache"
COUNTER = "counter"
CHANNEL = "channel"
SYNC = "sync"
QUEUE = "queue"
LOCK = "lock"
LEADER = "leader"
INSTANCE = "instance"

#: Stands in the application's place for names that several applications share. Application names
#: are never empty, so it meets none of them.
SHARED = ""

#: The control characters (C0, DEL and C1), which no name and no part of a URL may hold.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def checked(parameter: str, value: str) -> str:
    """Return the name *value* as a plain str.

    Any text of 1 to 512 bytes in UTF-8 without control characters is a name; nothing is trimmed or
    normalised. Raises InvalidType if it is not a str, InvalidName otherwise.
    """
    if type(value) is not str:
        if not isinstance(value, str):
            raise InvalidType(f"{parameter} must be a str, not {shown(value)}")
        value = str.__str__(value)
    if not value:
        raise InvalidName(f"{parameter} must not be empty")
    if value.isascii():
        if len(value) <= LONGEST and value.isprintable():
            return value
        length = len(value)
    else:
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidName(
                f"{parameter} must be text that UTF-8 can hold, not {shown(value)}"
            ) from None
    if length > LONGEST:
        raise InvalidName(
            f"{parameter} must be at most {LONGEST} bytes of UTF-8, not {length}: {shown(value)}"
        )
    if CONTROL.search(value):
        raise InvalidName(f"{parameter} must not hold control characters: {shown(value)}")
    return value


def escaped(part: str) -> str:
    """Return *part* so that it holds no `/`; different parts stay different."""
    if "/" in part or "%" in part:
        return part.replace("%", "%25").replace("/", "%2F")
    return part


def full(app: str, component: str, *parts: str) -> str:
    """Return the full name of *parts*, which must have been checked."""
    return "/".join((escaped(app), component, *map(escaped, parts)))


def split(name: str) -> list[str]:
    """Return application, component and parts of a full name, as they were given."""
    return [unquote(part) for part in name.split("/")]
