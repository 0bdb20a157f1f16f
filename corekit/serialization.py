"""Values to bytes and back: msgpack, for exact types, within limits, nothing executable.

What can be written is None, bool, int of any size, float, str, bytes, list, tuple, dict, set,
frozenset, datetime, date, time, timedelta, Decimal, UUID, and what hooks add. It comes back equal
and of the same type, except that an Enum comes back as its value, bytearray and memoryview as
bytes, and a time zone as the offset that it had. Instances of subclasses (a namedtuple, an
OrderedDict) are refused: what makes them special would be lost unseen.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import msgpack

from .arguments import whole
from .containers import CONTAINERS, cut, depth, elements
from .errors import ConfigurationError, MessageTooLarge, SerializationError
from .extensions import READERS, WRITERS, Extension, read_map
from .foreign import fault, first_element

__all__ = ["ENVELOPE_VERSION", "Extension", "Serializer"]

#: What `seal` writes, and all that `unseal` reads.
ENVELOPE_VERSION = 1

_TEXTS = frozenset({str, bytes, bytearray})

#: All bytes but those that open an array or a map.
_NOT_OPENING = bytes({*range(256)} - {*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF})

#: A packer, whose buffer is as large as its largest value, is not used again beyond so many bytes.
_LARGE = 1024 * 1024

#: Stand before the elements of what has no order, in canonical bytes; nothing reads them.
_UNORDERED = {
    dict: msgpack.ExtType(0, b"dict"),
    set: msgpack.ExtType(0, b"set"),
    frozenset: msgpack.ExtType(0, b"frozenset"),
}

_HINT = "register a serializer with the hook corekit_register_adapters (registry.add_serializer)"


class Serializer:
    """Writes values as bytes, and reads them.

    Values of more than *max_size* bytes, or with containers nested deeper than *max_depth*, are
    refused in both directions. Read values may take up to about 64 times their size in memory
    (empty dicts do). All methods may be called from any thread, and from an extension's functions.

    Raises ConfigurationError if two *extensions* claim one type or code, or one claims a type that
    is written anyway.
    """

    def __init__(
        self,
        extensions: Iterable[Extension] = (),
        *,
        max_size: int = 64 * 1024 * 1024,
        max_depth: int = 100,
    ) -> None:
        self.max_size = whole("max_size", max_size, least=1)
        # A tuple takes two levels of msgpack, whose C code ends at 512 in older releases.
        self.max_depth = whole("max_depth", max_depth, least=1, most=250)
        self._writers = dict(WRITERS)
        self._readers = dict(READERS)
        for extension in extensions:
            self._add(extension)
        self._reader = partial(
            msgpack.Unpacker,
            strict_map_key=False,
            timestamp=3,  # one that other software wrote becomes a datetime in UTC
            object_pairs_hook=read_map,
            ext_hook=self._read_extension,
        )
        self._packer = partial(msgpack.Packer, default=self._default, strict_types=True)
        self._idle: list[msgpack.Packer] = []
        #: Changes whenever an Enum is written, in whichever thread.
        self._enums = 0

    def __repr__(self) -> str:
        return (
            f"<Serializer max_size={self.max_size} max_depth={self.max_depth} "
            f"extensions={len(self._readers) - len(READERS)}>"
        )

    def encode(self, value: Any, *, what: str = "value") -> bytes:
        """Return *value* as bytes; *what* is its name in errors.

        Raises SerializationError with the path to what cannot be written, or MessageTooLarge. A
        coroutine that is found in *value* was forgotten to be awaited, and is closed.
        """
        return self.write(value, value, what)

    def decode(self, data: bytes) -> Any:
        """Return the value that *data* stands for.

        Whatever *data* holds, it is a value or a SerializationError (MessageTooLarge beyond the
        limits).
        """
        value = self._unpack(data)
        if type(value) in CONTAINERS:
            self._check_depth(data, value, "the data")
        return value

    def canonical(self, value: Any) -> bytes:
        """Return bytes that are equal exactly for values that are equal in value and type.

        The order of dicts and sets does not matter. What can be told apart differs: `1`, `1.0`
        and True, `0.0` and `-0.0`, `Decimal("1.0")` and `Decimal("1.00")`, one moment in two
        zones. The bytes are for comparing; they cannot be decoded. Raises as `encode` does.
        """
        data = self.encode(value)
        return data if type(value) not in CONTAINERS else self._pack(self._ordered(value))

    def seal(self, head: Sequence[Any], body: Any, *, what: str = "message") -> bytes:
        """Return one array: the envelope's version, the fields of *head*, then *body*.

        Raises as `encode` does; *what* is the name of *body* in errors.
        """
        return self.write([ENVELOPE_VERSION, *head, body], body, what)

    def write(self, message: Any, value: Any, what: str) -> bytes:
        """Return *message* as bytes; *value* is the part of it that may be refused, as *what*.

        As `encode` and `seal` do; who makes the array of `seal` for each message saves a detour.
        """
        kind = type(value)
        # A text that is too large already is not worth writing.
        if kind in _TEXTS and len(value) > self.max_size:
            raise self._too_large(what, len(value))
        # A packer at work cannot begin another value, which an extension, or a thread that comes
        # in between, may ask for: each call takes one for itself. One that failed is not reused.
        try:
            packer = self._idle.pop()
        except IndexError:
            packer = self._packer()
        enums = self._enums
        try:
            data: bytes = packer.pack(message)
            if self._enums != enums:
                # An Enum and its value can be two keys of one dict, which nobody could read.
                self._unpack(data)
        except Exception as error:  # noqa: BLE001 - extensions may raise anything
            self._refuse(value, what, error)
        size = len(data)
        if size > self.max_size:
            raise self._too_large(what, size)
        if size <= _LARGE:
            self._idle.append(packer)
        if kind in CONTAINERS:
            self._check_depth(data, value, what)
        return data

    def unseal(self, data: bytes, fields: int) -> list[Any]:
        """Return head (of *fields* elements) and body of what `seal` made, as one list.

        Further elements, which a later release may add, are left out. Raises SerializationError
        for another envelope version, too few elements, or anything else that `seal` never makes.
        """
        try:
            parts = self._unpack(data)
        except SerializationError:
            version = first_element(data)
            if type(version) is int and version != ENVELOPE_VERSION:
                raise _other_version(version) from None
            raise
        if type(parts) is not list or not parts or type(parts[0]) is not int:
            raise SerializationError("the data is not an envelope")
        if parts[0] != ENVELOPE_VERSION:
            raise _other_version(parts[0])
        if len(parts) < fields + 2:
            raise SerializationError(
                f"the envelope has {len(parts)} elements; at least {fields + 2} are needed"
            )
        body = parts[fields + 1]
        # To look a type up in a set takes as long as all the rest; bytes need not wait for it.
        if type(body) is not bytes and type(body) in CONTAINERS:
            self._check_depth(data, body, "the body")
        return parts[1 : fields + 2]

    def unseal_all(
        self, payloads: Sequence[bytes], fields: int
    ) -> list[list[Any] | SerializationError]:
        """Return, for each of *payloads*, what `unseal` returns or the error that it raises.

        For many small ones this is about twice as quick, also because the envelope's version still
        stands before the head.
        """
        envelopes: list[list[Any] | SerializationError] = []
        if len(payloads) > 1:
            # What fails here, fails again, and is told, one by one.
            with suppress(Exception):
                self._unseal_together(payloads, fields, envelopes)
        for payload in islice(payloads, len(envelopes), None):
            try:
                envelopes.append([ENVELOPE_VERSION, *self.unseal(payload, fields)])
            except SerializationError as error:
                envelopes.append(error)
        return envelopes

    def _unseal_together(
        self, payloads: Sequence[bytes], fields: int, envelopes: list[Any]
    ) -> None:
        """Add *envelopes* up to one that is out of the ordinary; raises whatever that leads to."""
        data = b"".join(payloads)
        if len(data) > min(self.max_size, _LARGE):  # too much to copy
            return
        reader = self._reader(max_buffer_size=len(data))
        reader.feed(data)
        read, tell = reader.unpack, reader.tell
        length = fields + 2
        end = 0
        for payload in payloads:
            envelope = read()
            end += len(payload)
            # Otherwise it has taken bytes of the next one, or left some of its own.
            if tell() != end or type(envelope) is not list or len(envelope) != length:
                return
            version, body = envelope[0], envelope[length - 1]
            if type(version) is not int or version != ENVELOPE_VERSION:
                return
            if type(body) in CONTAINERS:
                self._check_depth(payload, body, "the body")
            envelopes.append(envelope)

    def _add(self, extension: Extension) -> None:
        name = extension.type.__qualname__
        if extension.type in WRITERS:
            raise ConfigurationError(f"{name} needs no serializer: corekit has one")
        if extension.type in self._writers:
            raise ConfigurationError(f"two serializers claim the type {name}")
        if extension.code in self._readers:
            raise ConfigurationError(f"two serializers claim the code {extension.code}")
        self._writers[extension.type] = extension.write
        self._readers[extension.code] = extension.read

    def _pack(self, value: Any) -> bytes:
        data: bytes = self._packer().pack(value)
        return data

    def _default(self, value: Any) -> Any:
        # Called by msgpack with what it does not know; it writes what is returned instead.
        kind = type(value)
        writer = self._writers.get(kind)
        if writer is not None:
            return writer(value)
        if issubclass(kind, Enum):
            self._enums += 1
            return self._default(value.value)
        raise TypeError(f"{kind.__qualname__} is not serialisable")

    def _unpack(self, data: bytes) -> Any:
        if type(data) is not bytes and not isinstance(data, bytearray | memoryview):
            raise SerializationError(f"the data must be bytes, not {type(data).__qualname__}")
        if len(data) > self.max_size:
            raise self._too_large("the data", len(data))
        try:
            # As `_reader` does; a `partial` of it takes longer, and each message is read here.
            return msgpack.unpackb(
                data,
                strict_map_key=False,
                timestamp=3,
                object_pairs_hook=read_map,
                ext_hook=self._read_extension,
            )
        except SerializationError:
            raise
        except msgpack.StackError as error:
            raise self._too_deep("the data", "more than 500") from error
        except Exception as error:
            raise SerializationError(f"the data cannot be read: {fault(data, error)}") from error

    def _read_extension(self, code: int, data: bytes) -> Any:
        reader = self._readers.get(code)
        if reader is None:
            raise SerializationError(f"no serializer is registered for the code {code}")
        try:
            return reader(data)
        except SerializationError:
            raise
        except Exception:  # noqa: BLE001 - constructors raise many kinds, with the value in the text
            raise SerializationError(f"the bytes of extension type {code} are no value") from None

    def _ordered(self, value: Any) -> Any:
        """Return what stands for *value* in its canonical bytes."""
        kind: type = type(value)
        if kind in {list, tuple}:
            return kind(map(self._ordered, value))
        if kind is dict and all(type(key) is str for key in value):
            return {key: self._ordered(value[key]) for key in sorted(value)}
        if kind is dict:
            entries = ([self._comparable(key), self._comparable(value[key])] for key in value)
            return [_UNORDERED[kind], *sorted(entries)]
        if kind in _UNORDERED:
            return [_UNORDERED[kind], *sorted(map(self._comparable, value))]
        if issubclass(kind, Enum) and kind not in self._writers:
            return self._ordered(value.value)
        return value

    def _comparable(self, value: Any) -> bytes:
        return self._pack(self._ordered(value))

    def _check_depth(self, data: bytes, value: Any, what: str) -> None:
        # A value too deep has more bytes than that which open a container. To count them is far
        # quicker than to visit each element, and mostly settles it.
        limit = self.max_depth
        if len(data) > limit and len(bytes(data).translate(None, _NOT_OPENING)) > limit:
            levels = depth(value)
            if levels > limit:
                raise self._too_deep(what, str(levels))

    def _too_large(self, what: str, size: int) -> MessageTooLarge:
        return MessageTooLarge(f"{what} is {size:,} bytes; at most {self.max_size:,} are allowed")

    def _too_deep(self, what: str, levels: str) -> MessageTooLarge:
        return MessageTooLarge(
            f"{what} is nested {levels} deep; at most {self.max_depth} is allowed"
        )

    def _refuse(self, value: Any, what: str, error: Exception) -> NoReturn:
        """Raise the error for *value*, which could not be written, with the path to the reason."""
        found: SerializationError | None
        try:
            found = self._find(value, what, [])
        except RecursionError:
            found = None
        if found is None:  # the value has changed meanwhile, or a field of the head is bad
            raise SerializationError(f"{what} cannot be written: {error}") from error
        # An extension's own error is the cause. What msgpack said is left out: its text says less,
        # and its traceback has a line for each level of the value.
        raise found from found.__cause__

    def _find(self, value: Any, path: str, above: list[int]) -> SerializationError | None:
        # In the order in which msgpack went, so it takes no more steps than that took.
        kind = type(value)
        if kind not in CONTAINERS:
            if issubclass(kind, Enum) and kind not in self._writers:
                return self._find(value.value, f"{path}.value", above)
            try:
                self._pack(value)
            except Exception as error:  # noqa: BLE001 - extensions may raise anything
                refusal = SerializationError(f"{cut(path)}: {self._reason(value, error)}")
                refusal.__cause__ = error.__cause__
                return refusal
            return None
        if id(value) in above:
            return SerializationError(f"{cut(path)}: a cycle, it contains itself")
        if len(above) >= self.max_depth:
            return self._too_deep(cut(path), f"more than {self.max_depth}")
        for place, element in elements(value, path):
            found = self._find(element, place, [*above, id(value)])
            if found is not None:
                return found
        return None

    def _reason(self, value: Any, error: Exception) -> str:
        kind = type(value)
        name = kind.__qualname__
        if kind.__module__ != "builtins":
            name = f"{kind.__module__}.{name}"
        if isinstance(value, Coroutine):
            # Closed, or Python would warn of it somewhere else.
            with suppress(Exception):
                value.close()
            return f"{name} is not serialisable; did you forget await?"
        if kind in self._writers:
            return f"{name} cannot be written: {error}"
        for base in kind.__mro__:
            if base in WRITERS:
                return f"{name} is not serialisable, only {base.__name__} itself is; {_HINT}"
        return f"{name} is not serialisable; {_HINT}"


def _other_version(version: int) -> SerializationError:
    return SerializationError(f"envelope version {version}, this release reads {ENVELOPE_VERSION}")
