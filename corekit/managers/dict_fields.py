"""Single fields of dicts that are cached; changes are atomic and leave the key's ttl alone."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ..arguments import shown
from ..errors import InvalidType
from .cache_entry import Entry
from .keyspace import Keyspace


def _check(field: object) -> None:
    try:
        hash(field)
    except TypeError:
        raise InvalidType(f"field must be hashable, not {shown(field)}") from None


def _fields(key: str, entry: Entry | None) -> dict[Any, Any]:
    if entry is None:
        return {}
    if type(entry.value) is not dict:
        raise InvalidType(f"key {shown(key)} holds no dict but {type(entry.value).__name__}")
    return entry.value


async def set_field(keyspace: Keyspace, key: str, field: Hashable, value: Any, ttl: float) -> None:
    """Set one *field* of the dict under *key*; if there is none, make one with this *ttl*."""
    _check(field)

    def changed(entry: Entry | None) -> Entry:
        entry = keyspace.live(entry)
        # A new dict: in a store by reference others may be reading the old one.
        fields = {**_fields(key, entry), field: value}
        return Entry(fields, keyspace.now() + ttl if entry is None else entry.expires)

    await keyspace.update(key, changed)


async def get_field(keyspace: Keyspace, key: str, field: Hashable, default: Any) -> Any:
    """Return one *field* of the dict under *key*, *default* if either is missing."""
    _check(field)
    return _fields(key, await keyspace.read(key)).get(field, default)


async def delete_field(keyspace: Keyspace, key: str, field: Hashable) -> None:
    """Remove one *field* of the dict under *key*, if both are there."""
    _check(field)

    def changed(entry: Entry | None) -> Entry | None:
        entry = keyspace.live(entry)
        fields = _fields(key, entry)
        if entry is None or field not in fields:
            return None
        return Entry({k: v for k, v in fields.items() if k != field}, entry.expires)

    await keyspace.update(key, changed)
