"""Envelopes: what a writer makes is what `seal` makes to everybody, and a reader takes both."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corekit.errors import MessageTooLarge, SerializationError
from corekit.managers.envelope import LARGEST, EnvelopeReader, EnvelopeWriter, Run
from corekit.serialization import ENVELOPE_VERSION, Serializer

serializer = Serializer()
reader = EnvelopeReader(serializer)
writer = EnvelopeWriter(serializer, "shop-1", 7)

bodies = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.tuples(st.binary(max_size=3)),
)


def written(number: int, body: Any, *, audience: int = 0, publisher: int = 7) -> bytes:
    """Return an envelope of instance "shop-1"."""
    return EnvelopeWriter(serializer, "shop-1", publisher).write(number, audience, body)


def flat(found: list[Run | SerializationError]) -> list[Any]:
    """Return the fields of each message, and errors as their texts."""
    messages: list[Any] = []
    for run in found:
        if isinstance(run, SerializationError):
            messages.append(str(run))
            continue
        instance, publisher, audience, first, found_bodies = run
        for number, body in enumerate(found_bodies, first):
            messages.append((instance, publisher, number, audience, type(body), body))
    return messages


@given(st.integers(1, LARGEST), st.integers(0, 2), bodies)
@example(LARGEST, 2, "")
@example(1, 0, b"")
@example(1, 0, "tschüß \U0001f44b")
def test_what_is_written_is_an_envelope(number: int, audience: int, body: Any):
    """`unseal` reads it, so does msgpack alone, and the reader: each the same fields and body."""
    data = writer.write(number, audience, body)
    fields = ["shop-1", 7, number, audience]
    assert serializer.unseal(data, 4) == [*fields, body]
    (run,) = reader.read([data])
    assert run == ("shop-1", 7, audience, number, [body])
    assert type(run[-1][0]) is type(body)  # type: ignore[index]
    if type(body) in {bytes, str}:
        assert msgpack.unpackb(data) == [ENVELOPE_VERSION, *fields, body]


def test_messages_in_a_row_are_one_run():
    """Texts and bytes that follow each other are found as such; another kind begins another."""
    kinds: list[list[Any]] = [[b"a", b"", b"c" * 300], ["d", "ü"], [{}, None, b"e"], [b"f"]]
    numbers = iter(range(1, 20))
    payloads = [written(next(numbers), body) for kind in kinds for body in kind]
    expected = [kinds[0], kinds[1], [*kinds[2], *kinds[3]]]
    assert [run[-1] for run in reader.read(payloads)] == expected  # type: ignore[index]


@pytest.mark.parametrize("body", [b"x", "x", [1]], ids=repr)
def test_what_ends_a_run(body: Any):
    """A hole, a repetition, another audience or publisher, and what is no envelope."""
    payloads = [
        written(1, body),
        written(2, body),
        written(4, body),
        written(4, body),
        written(5, body, audience=1),
        written(6, body, audience=1, publisher=8),
        b"bad",
        written(7, body, audience=1, publisher=8),
    ]
    runs = reader.read(payloads)
    heads = ["bad" if isinstance(run, SerializationError) else run[1:4] for run in runs]
    assert heads == [(7, 0, 1), (7, 0, 4), (7, 0, 4), (7, 1, 5), (8, 1, 6), "bad", (8, 1, 7)]


#: Envelopes in a row, and what only looks like one; the number is that of the place.
NEARLY = [
    lambda number: written(number, b"body"),
    lambda number: written(number, b"body"),
    lambda number: written(number, b""),
    lambda number: written(number, "text"),
    lambda number: written(number, ["any"]),
    lambda number: serializer.seal(("shop-1", 7, number, 0), b"body"),
    lambda number: serializer.seal(("shop-1", 7, number, 200), b"body"),
    lambda number: written(number, b"body").replace(b"\x00\xc6", b"\xc8\xc6"),
    lambda number: written(number, b"body")[:-1],
    lambda number: written(number, b"body")[:20],
    lambda number: written(number, b"body") + b"\x00",
    lambda number: written(number, "text")[:-1] + b"\xff",
    lambda number: written(number, b"body").replace(b"\xc6", b"\xdb"),
    lambda number: written(number, "text").replace(b"\xdb", b"\xc6"),
    lambda number: bytearray(written(number, b"body")),
    lambda number: memoryview(written(number, b"body")),
    lambda number: written(2**64 - 1, b"body"),
    lambda number: serializer.seal(("shop-1", 7, number + 2**64 - 8, 0), "text"),
    lambda number: serializer.seal(("shop-1", 7, float(number), 0), ["any"]),
    lambda number: serializer.seal(("shop-1", 7, number, False), ["any"]),
    lambda number: serializer.seal(("shop-1", Decimal(7), number, 0), b"body"),
    lambda number: written(number, b"body").replace(b"shop-1", b"shop-2"),
    lambda number: b"\x97" + written(number, b"body")[1:] + b"\x01",
    lambda number: b"",
]


@given(st.lists(st.sampled_from(NEARLY), max_size=12))
@example([NEARLY[0]] * 4)
@example([NEARLY[4], NEARLY[18], NEARLY[4], NEARLY[19], NEARLY[20]])
@example([NEARLY[0], NEARLY[16], NEARLY[0]])
@example([NEARLY[6], NEARLY[7], NEARLY[7]])
def test_as_one_by_one(makers: list[Any]):
    """Whatever stands beside it, an envelope has its fields, its body or its error."""
    payloads = [make(number) for number, make in enumerate(makers, 1)]
    expected = [message for payload in payloads for message in flat(reader.read([payload]))]
    assert flat(reader.read(payloads)) == expected


@pytest.mark.parametrize("kind", [bytes, str])
@pytest.mark.parametrize("more", range(-2, 8))
def test_the_limit(kind: type, more: int):
    """The writer refuses what `seal` refuses, and the reader each envelope above the limit."""
    letter: Any = b"x" if kind is bytes else "x"
    small = Serializer(max_size=1000)
    size = 1000 - len(writer.write(1, 0, kind())) + more
    try:
        small.seal(("shop-1", 7, 1, 0), letter * size)
    except MessageTooLarge:
        with pytest.raises(MessageTooLarge, match="message is"):
            EnvelopeWriter(small, "shop-1", 7).write(1, 0, letter * size)
    else:
        assert len(EnvelopeWriter(small, "shop-1", 7).write(1, 0, letter * size)) <= 1000
    payloads = [written(1, kind()), written(2, letter * size), written(3, kind())]
    found = flat(EnvelopeReader(small).read(payloads))
    assert [type(message) for message in found] == [tuple, tuple if more <= 0 else str, tuple]


@pytest.mark.parametrize("body", [b"x", "x", [1]], ids=repr)
@pytest.mark.parametrize(
    "fields",
    [
        (None, 7, 2, 0),
        (b"shop-1", 7, 2, 0),
        ("shop-1", 7.0, 2, 0),
        ("shop-1", True, 2, 0),
        ("shop-1", 7, 2.0, 0),
        ("shop-1", 7, 0, 0),
        ("shop-1", 7, -2, 0),
        ("shop-1", 7, 2, False),
        ("shop-1", 7, 2, None),
    ],
    ids=repr,
)
def test_fields_of_wrong_types(fields: tuple[Any, ...], body: Any):
    """A field of another type than it has is refused, alone and between others."""
    odd = serializer.seal(fields, body)
    for payloads in ([odd], [written(1, body), odd, written(2, body)]):
        found = flat(reader.read(payloads))
        assert found[len(payloads) // 2] == "a field of the envelope is of a wrong type"
        assert len(found) == len(payloads)


def test_a_text_without_utf_8():
    """A lone surrogate is refused as by the serializer, by name."""
    with pytest.raises(SerializationError, match="message"):
        writer.write(1, 0, "\ud800")


def test_it_says_what_it_is():
    """A repr names the publisher, and shows no message."""
    assert repr(writer) == "<EnvelopeWriter 'shop-1' publisher=7>"
    assert "EnvelopeReader" in repr(reader)
