"""msgpack (to be completed)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from .errors import SerializationError

ENVELOPE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Extension:
    """How values of one more type are written."""

    type: type
    code: int
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Serializer:
    """Values to bytes and back."""

    def __init__(
        self,
        extensions: Iterable[Extension] = (),
        *,
        max_size: int = 64 * 1024 * 1024,
        max_depth: int = 100,
    ) -> None:
        self.max_size = max_size

    def encode(self, value: Any, *, what: str = "value") -> bytes:
        return msgpack.packb(value)

    def decode(self, data: bytes) -> Any:
        return msgpack.unpackb(data, strict_map_key=False)

    def canonical(self, value: Any) -> bytes:
        """Bytes that are equal exactly for values that are equal in value and type."""
        return self.encode(value)

    def seal(self, head: Sequence[Any], body: Any, *, what: str = "message") -> bytes:
        """One array: the envelope version, the fields of *head*, then *body*."""
        return msgpack.packb([ENVELOPE_VERSION, *head, body])

    def unseal(self, data: bytes, fields: int) -> list[Any]:
        """Return *head* (of *fields* elements) and body of what `seal` made."""
        parts = msgpack.unpackb(data, strict_map_key=False)
        if parts[0] != ENVELOPE_VERSION:
            raise SerializationError("version")
        return parts[1 : fields + 2]
