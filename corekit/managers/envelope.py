"""The envelope of a message of pub/sub: from whom it is, which one, and for whom.

On the wire a message is an envelope with the fields

    instance   str  who published it: the App instance
    publisher  int  one run of one instance on one channel: whose numbers these are
    number     int  1, 2, 3 ... without a hole among what this publisher sent
    audience   int  0: everybody; bit 0: everybody else; bit 1: the instance itself only
    body

as `Serializer.seal` writes it. A publisher's envelopes begin with the same bytes, and a text or
bytes need no msgpack but a length. These are put together by hand, and recognised when they come
in a row, in half the time. What a writer makes is the same msgpack to everybody else, and a reader
takes whatever else `seal` and other languages' libraries make.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from struct import Struct
from struct import error as StructError  # noqa: N812 - a class
from typing import Any, Final

from ..errors import SerializationError
from ..serialization import ENVELOPE_VERSION, Serializer

EVERYBODY: Final = 0
NOT_SELF: Final = 1
ONLY_SELF: Final = 2

#: The highest number that is reckoned with.
LARGEST: Final = 2**63

#: How many fields stand before the body.
HEAD_FIELDS: Final = 4

#: msgpack's marks: an array of the version, the fields and the body; a number of eight bytes; bytes
#: and a text with a length of four. A small number, such as an audience, is its own mark.
_ARRAY = b"\x96"
_NUMBER = 0xCF
_BYTES, _TEXT = 0xC6, 0xDB
_SMALL = range(0x80)

#: The longest of such bytes and texts.
_LONGEST = 2**32 - 1

_WRONG = "a field of the envelope is of a wrong type"

#: Stands where no payload follows.
_END: Final = object()

#: Bodies that are put together by hand.
_BY_HAND = frozenset({bytes, str})

#: The types of instance, publisher, number and audience.
_KINDS: Final = (str, int, int, int)

#: Messages that came in a row, of one publisher and for one audience: instance, publisher,
#: audience, the number of the first one, which the others follow without a hole, and their bodies.
Run = tuple[str, int, int, int, list[Any]]


class EnvelopeWriter:
    """Writes the envelopes of one publisher."""

    __slots__ = ("_beginning", "_longest", "_pack", "_write", "instance", "publisher")

    def __init__(self, serializer: Serializer, instance: str, publisher: int) -> None:
        self._write = serializer.write
        self.instance = instance
        self.publisher = publisher
        self._beginning = _beginning(serializer, instance, publisher)
        head = _head(self._beginning)
        self._pack = head.pack
        self._longest = min(serializer.max_size - head.size, _LONGEST)

    def __repr__(self) -> str:
        return f"<EnvelopeWriter {self.instance!r} publisher={self.publisher}>"

    def write(self, number: int, audience: int, body: Any) -> bytes:
        """Return an envelope for *body*, with a number from 1 to `LARGEST` and a known audience.

        Raises SerializationError for what cannot be written, as MessageTooLarge beyond the limits.
        """
        kind = type(body)
        content: bytes | None = None
        if kind is bytes:
            content, mark = body, _BYTES
        elif kind is str and len(body) <= self._longest:
            try:  # noqa: SIM105 - `suppress` takes as long as all the rest
                content, mark = body.encode(), _TEXT
            except UnicodeEncodeError:
                pass  # the serializer refuses it, and says why
        if content is not None:
            size = len(content)
            if size <= self._longest:
                head: bytes = self._pack(self._beginning, _NUMBER, number, audience, mark, size)
                return head + content
        envelope = [ENVELOPE_VERSION, self.instance, self.publisher, number, audience, body]
        return self._write(envelope, body, "message")


class EnvelopeReader:
    """Reads envelopes, whoever wrote them."""

    __slots__ = ("_serializer",)

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer

    def __repr__(self) -> str:
        return f"<EnvelopeReader {self._serializer!r}>"

    def read(self, payloads: Sequence[bytes]) -> list[Run | SerializationError]:
        """Return the messages of *payloads* in order, and an error for each that is none."""
        found: list[Run | SerializationError] = []
        unseal = self._serializer.unseal
        if len(payloads) == 1:
            # As at rest. What is done below for several would only delay it.
            try:
                found.append(_begun(unseal(payloads[0], HEAD_FIELDS)))
            except SerializationError as error:
                found.append(error)
            return found
        rest = iter(payloads)
        payload: Any = next(rest, _END)
        while payload is not _END:
            try:
                run = _begun(unseal(payload, HEAD_FIELDS))
            except SerializationError as error:
                found.append(error)
                payload = next(rest, _END)
                continue
            found.append(run)
            payload = next(rest, _END)
            if payload is _END:
                break
            bodies = run[-1]
            if type(bodies[0]) in _BY_HAND:
                payload = self._extend(run, chain((payload,), rest))
                if len(bodies) > 1:
                    continue
            # Neither texts nor bytes in a row.
            self._read_together([payload, *rest], run, found)
            break
        return found

    def _extend(self, run: Run, payloads: Iterable[bytes]) -> Any:
        """Add to *run*, begun by a text or bytes, what follows it as far as it is recognised.

        Returns the first payload that is not, `_END` if all are.
        """
        instance, publisher, audience, first, bodies = run
        is_text = type(bodies[0]) is str
        mark = _TEXT if is_text else _BYTES
        beginning = _beginning(self._serializer, instance, publisher)
        head = _head(beginning)
        pack, before = head.pack, head.size
        longest = self._serializer.max_size - before if audience in _SMALL else -1
        payload: Any
        for number, payload in enumerate(payloads, first + 1):
            try:
                # Every byte but the content is compared: this is what it is.
                if (
                    type(payload) is not bytes
                    or (size := len(payload) - before) > longest
                    or payload[:before] != pack(beginning, _NUMBER, number, audience, mark, size)
                ):
                    return payload
                content = payload[before:]
                bodies.append(content.decode() if is_text else content)
            except (StructError, UnicodeDecodeError):
                # It is shorter than a head, its number is not possible, or it is no text.
                return payload
        return _END

    def _read_together(
        self, payloads: Sequence[bytes], run: Run, found: list[Run | SerializationError]
    ) -> None:
        """Add to *run*, and to *found* from where that ends, whatever the bodies are."""
        instance, publisher, audience, number, bodies = run
        kind: list[Any] | None = [instance, publisher, audience]
        envelope: Any
        for envelope in self._serializer.unseal_all(payloads, HEAD_FIELDS):
            try:
                _, instance, publisher, this, audience, body = envelope
                same = [instance, publisher, audience] == kind and this == number + 1
                # Equal ones, such as 2.0, may have other types.
                kinds = (type(instance), type(publisher), type(this), type(audience))
                if same and kinds == _KINDS:
                    bodies.append(body)
                else:
                    run = _begun([instance, publisher, this, audience, body])
                    found.append(run)
                    kind, bodies = [instance, publisher, audience], run[-1]
                number = this
            except Exception:  # noqa: BLE001 - what an extension reads may raise anything
                kind = None
                is_told = isinstance(envelope, SerializationError)
                found.append(envelope if is_told else SerializationError(_WRONG))


def _begun(fields: list[Any]) -> Run:
    """Return a run of one message; raises SerializationError if its *fields* make no sense."""
    instance, publisher, number, audience, body = fields
    kinds = (type(instance), type(publisher), type(number), type(audience))
    if kinds != _KINDS or number < 1:
        raise SerializationError(_WRONG)
    return instance, publisher, audience, number, [body]


def _beginning(serializer: Serializer, instance: str, publisher: int) -> bytes:
    """Return the bytes that a publisher's envelopes begin with."""
    fields = (ENVELOPE_VERSION, instance, publisher)
    return _ARRAY + b"".join(map(serializer.encode, fields))


def _head(beginning: bytes) -> Struct:
    """Return the layout of *beginning* and what follows it before the content of such a body."""
    return Struct(f">{len(beginning)}sBQBBI")
