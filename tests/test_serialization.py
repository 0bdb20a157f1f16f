"""What can be written comes back equal; what cannot is refused with its place; no bytes do harm."""

from __future__ import annotations

import array
import gzip
import json
import math
import pickle
import re
import struct
import sys
import threading
import time as real_time
import tracemalloc
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corekit.errors import ConfigurationError, MessageTooLarge, SerializationError
from corekit.extensions import Extension
from corekit.serialization import ENVELOPE_VERSION, Serializer

GOLDEN = Path(__file__).parent / "golden" / "serialization.txt"

serializer = Serializer()


def same(one: Any, other: Any) -> bool:
    """Tell whether two values cannot be told apart, element by element."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    if isinstance(one, set | frozenset):
        kinds = Counter(map(type, one)), Counter(map(type, other))
        return one == other and kinds[0] == kinds[1]
    if isinstance(one, datetime | time):
        naive = one.replace(tzinfo=None), other.replace(tzinfo=None)
        return (*naive, one.fold, one.utcoffset()) == (*naive[::-1], other.fold, other.utcoffset())
    return repr(one) == repr(other)


#: Fixed offsets to the second.
zones = (
    st.none()
    | st.just(UTC)
    | st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
)
folds = st.integers(0, 1)
atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(width=64)
    | st.text()
    | st.binary()
    | st.builds(lambda value, fold: value.replace(fold=fold), st.datetimes(timezones=zones), folds)
    | st.builds(lambda value, fold: value.replace(fold=fold), st.times(timezones=zones), folds)
    | st.dates()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
)
#: NaN is not equal to itself, and a signaling one cannot even be hashed.
hashable_atoms = atoms.filter(lambda value: "nan" not in repr(value).lower())
keys = st.recursive(
    hashable_atoms,
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    atoms | st.sets(keys, max_size=3) | st.frozensets(keys, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


class TestRoundTrip:
    """Every value of a supported type comes back equal and of the same type."""

    @given(values)
    def test_any_value(self, value):
        """Values of all supported types, nested in any way, come back as they were."""
        assert same(serializer.decode(serializer.encode(value)), value)

    @given(values)
    def test_any_value_in_an_envelope(self, value):
        """So they do as the body of an envelope."""
        assert same(serializer.unseal(serializer.seal(("id", 7), value), 2), ["id", 7, value])

    @pytest.mark.parametrize(
        "value",
        [
            *(None, True, False, 0, 0.0, -0.0, "", b"", [], (), {}, set(), frozenset()),
            *(math.nan, math.inf, -math.inf, 5e-324, sys.float_info.max),
            *(2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400, -(2**127)),
            *("\x00", "\U0001f600", "\u202e", "e\u0301"),
            *((1, (2, [3, (4,)])), [[], [()]], {(): {}}),
            *({1: "a", "1": "b", b"1": "c", (1,): "d", None: "e", 1.5: "f"}, {True: 1}, {False: 0}),
            *({frozenset({1, "a"}): {frozenset()}}, {1, "1", b"1", (1,), None}),
            *(datetime.min, datetime.max, datetime(2024, 10, 27, 2, 30, fold=1)),
            datetime(1900, 1, 1, tzinfo=timezone(timedelta(seconds=3208))),
            *(date.min, date.max, time.min, time.max, time(2, 30, fold=1, tzinfo=UTC)),
            *(timedelta.min, timedelta.max, timedelta.resolution, timedelta(-1)),
            *map(Decimal, ("1.10", "-0", "NaN", "sNaN7", "-Infinity", "1E+999999", "1E-999999")),
            UUID(int=0),
        ],
        ids=repr,
    )
    def test_edges(self, value):
        """The first, the last, the empty and the odd values of each type come back as they were."""
        assert same(serializer.decode(serializer.encode(value)), value)

    def test_zone_becomes_offset(self):
        """An aware datetime comes back at the same moment, with its offset as its zone."""
        for fold, hours in ((0, 2), (1, 1)):
            value = datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
            got = serializer.decode(serializer.encode(value))
            assert got.tzinfo == timezone(timedelta(hours=hours))
            assert got.astimezone(UTC) == value.astimezone(UTC)
            assert got.fold == fold

    @pytest.mark.parametrize("kind", [Enum, IntEnum, StrEnum, Flag])
    def test_enum_becomes_value(self, kind):
        """A member of whatever Enum comes back as its value, as element and as key."""
        member = kind("Kind", {"ONE": "1" if kind is StrEnum else 1}).ONE
        got = serializer.decode(serializer.encode([member, {member: (member,)}]))
        assert same(got, [member.value, {member.value: (member.value,)}])

    @pytest.mark.parametrize("value", [2**70, (1, 2), {3}, Decimal("1.5"), [date.min], None])
    def test_enum_of_any_value(self, value):
        """The value of an Enum's member may itself be of any supported type."""
        member = Enum("Kind", {"ONE": value}).ONE
        assert same(serializer.decode(serializer.encode([member])), [value])

    def test_buffers_become_bytes(self):
        """A bytearray and a memoryview come back as bytes, whatever the items of the view are."""
        numbers = array.array("I", [1, 2])
        got = serializer.decode(serializer.encode([bytearray(b"a"), memoryview(numbers)]))
        assert same(got, [b"a", numbers.tobytes()])

    def test_state_at_the_call(self):
        """What is changed after the call does not change what was written."""
        value = {"list": [1]}
        data = serializer.encode(value)
        value["list"].append(2)
        assert serializer.decode(data) == {"list": [1]}

    def test_huge_numbers_take_linear_time(self):
        """An int of 100,000 digits and a Decimal with a huge exponent are read at once."""
        started = real_time.perf_counter()
        for value in (10**100_000, Decimal("1E+999999999999999999")):
            data = serializer.encode(value)
            assert len(data) < 42_000
            assert serializer.decode(data) == value
        assert real_time.perf_counter() - started < 5

    def test_any_buffer_is_read(self):
        """Data may be bytes, a bytearray or a memoryview of them."""
        data = serializer.encode([[1] * 200])
        for buffer in (data, bytearray(data), memoryview(data)):
            assert serializer.decode(buffer) == [[1] * 200]


def describe(value: Any) -> str:
    """Return the text of the error with which *value* is refused."""
    with pytest.raises(SerializationError) as caught:
        serializer.encode(value, what="message")
    with pytest.raises(SerializationError) as sealed:
        serializer.seal(("id",), value)
    assert str(sealed.value) == str(caught.value)
    return str(caught.value)


@dataclass
class Point:
    """A class of the user's."""

    x: int


class Text(str):
    """A str with something more."""


Pair = namedtuple("Pair", "a b")


class TestRefusal:
    """What cannot be written is refused by the call, with its place and without its content."""

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (print, "message: builtin_function_or_method is not serialisable; register a"),
            ({"user": [1, 2, {"callback": lambda: 0}]}, "message['user'][2]['callback']: function"),
            ([[(0, object())]], "message[0][0][1]: object is not serialisable"),
            ({(1, 2): {3: object()}}, "message[...][3]: object is not"),
            ({(1, Path()): 0}, "a key of message[1]: pathlib"),
            ({"a": {Path()}}, "an element of message['a']: pathlib"),
            (
                [Point(1)],
                "message[0]: tests.test_serialization.Point is not serialisable; register",
            ),
            ([Enum("Kind", {"ONE": [object()]}).ONE], "message[0].value[0]: object is not"),
        ],
    )
    def test_place(self, value, text):
        """The error says where in the value the offender is, its type, and what to do."""
        got = describe(value)
        assert got.startswith(text.replace("tests.test_serialization.", Point.__module__ + "."))
        assert got.endswith("the hook corekit_register_adapters (registry.add_serializer)")

    @pytest.mark.parametrize(
        "value",
        [
            *(object(), int, sys, (n for n in ()), threading.Lock(), ValueError("x"), Ellipsis),
            *(NotImplemented, type(None), 1j, Fraction(1, 3), range(3), slice(1), Path("x")),
            *(re.compile("x"), UTC, array.array("I"), types.MappingProxyType({}), {}.keys()),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_other_types(self, value):
        """Values of other types are refused: alone, as element, as key."""
        assert "is not serialisable; register" in describe(value)
        assert describe([value]).startswith("message[0]: ")

    @pytest.mark.parametrize(
        ("value", "base"),
        [
            (Text("secret"), "str"),
            (Pair(1, 2), "tuple"),
            (OrderedDict(a=1), "dict"),
            (defaultdict(list), "dict"),
            (Counter("a"), "dict"),
            (type("Number", (int,), {})(5), "int"),
            (type("Moment", (datetime,), {})(2024, 1, 1), "datetime"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_subclasses(self, value, base):
        """An instance of a subclass is refused: what makes it special would be lost."""
        assert f" is not serialisable, only {base} itself is; " in describe({"k": [value]})

    def test_content_stays_secret(self):
        """Errors show the path and the type, never the value."""
        for value in (Text("hunter2"), Pair("hunter2", 1), Path("hunter2"), "hunter2\ud800"):
            assert "hunter2" not in describe({"password": value})

    def test_forgotten_await(self):
        """A coroutine is closed, and the error asks whether an await was forgotten."""

        async def load() -> None:
            """Never run."""

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            coroutine = load()
            with pytest.raises(SerializationError, match=r"message\['x'\]: coroutine .*await\?"):
                serializer.seal((), {"x": coroutine})
            with pytest.raises(RuntimeError, match="cannot reuse"):
                coroutine.send(None)

    @pytest.mark.parametrize(
        "wrap", [list, tuple, lambda x: {"k": x[0]}], ids=["list", "tuple", "dict"]
    )
    def test_cycle(self, wrap):
        """A value that contains itself is refused quickly, and the error says where."""
        inner: list[Any] = []
        inner.append(wrap([inner]))
        started = real_time.perf_counter()
        assert re.fullmatch(r"message(\[[^]]+\])+: a cycle, it contains itself", describe(inner))
        assert real_time.perf_counter() - started < 10

    def test_cycle_among_many(self):
        """A cycle is found at once beside parts in which the number of paths is exponential."""
        value: list[Any] = []
        for _ in range(60):
            value = [value, value]
        value.append(value)
        value.insert(0, value)
        assert "a cycle" in describe(value)

    def test_deep_stack(self):
        """A value that is written near the end of Python's stack costs no more than an error."""

        def descend(depth: int) -> None:
            if depth:
                descend(depth - 1)
            with pytest.raises(SerializationError):
                serializer.encode([[object()]])

        with pytest.raises(RecursionError):
            descend(sys.getrecursionlimit())

    @pytest.mark.parametrize(
        ("value", "place"),
        [
            ("\ud800", "message:"),
            ({"a": ["x\udfff"]}, "message['a'][0]:"),
            ({"\ud800": 1}, "a key of"),
        ],
    )
    def test_lone_surrogate(self, value, place):
        """Text that UTF-8 cannot hold is refused, as value and as key."""
        text = describe(value)
        assert text.startswith(place)
        assert "surrogates not allowed" in text

    def test_zone_without_offset(self):
        """A time whose zone has no fixed offset is refused: its zone would be lost."""
        value = time(12, tzinfo=ZoneInfo("Europe/Berlin"))
        assert describe([value]).endswith("its time zone has no fixed offset here")
        value = time(12, tzinfo=timezone(timedelta(microseconds=1)))
        assert describe([value]).endswith("an offset with a fraction of a second")

    def test_view_with_gaps(self):
        """A memoryview that is not contiguous is refused."""
        assert "not C-contiguous" in describe([memoryview(b"abcdef")[::2]])

    @pytest.mark.parametrize("value", [{1: "a"}, {(1,): "a"}, [{"x": {1: "a"}}]])
    def test_keys_that_merge(self, value):
        """An Enum beside its own value as keys is refused when written, not when read."""
        one = Enum("Kind", {"ONE": 1}).ONE
        entries = value[0]["x"] if isinstance(value, list) else value
        entries[(one,) if (1,) in entries else one] = "b"
        assert "the same key twice" in describe(value)

    def test_what_lies(self):
        """Objects that lie about their class, length or elements are refused like all others."""

        class Liar:
            __class__ = dict  # type: ignore[assignment]

            def __len__(self) -> int:
                raise RuntimeError

            def __iter__(self) -> Any:
                raise RuntimeError

            def __repr__(self) -> str:
                raise RuntimeError

        assert "Liar is not serialisable" in describe([Liar()])

    def test_the_next_one_is_unharmed(self):
        """After a refused value, the same serializer writes others as before."""
        expected = serializer.encode({"a": [1, 2]})
        for _ in range(3):
            describe(["begun" * 100, {"a": object()}])
            assert serializer.encode({"a": [1, 2]}) == expected


def nested(depth: int, wrap: Any = lambda inner: [inner]) -> Any:
    """Return *depth* containers, one in another."""
    value = wrap(None)
    for _ in range(depth - 1):
        value = wrap(value)
    return value


WRAPS = {
    "list": lambda inner: [inner],
    "tuple": lambda inner: (inner,),
    "dict": lambda inner: {"key": inner},
    "frozenset": lambda inner: frozenset({inner}),
}


class TestLimits:
    """Size and depth are bounded, the same when written and when read."""

    @pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
    def test_depth(self, wrap):
        """A value 100 deep passes, one 101 deep does not, whatever the containers are."""
        for what in ("encode", "seal"):
            write = (
                getattr(serializer, what) if what == "encode" else lambda v: serializer.seal((), v)
            )
            read = serializer.decode if what == "encode" else lambda d: serializer.unseal(d, 0)[0]
            assert read(write(nested(100, wrap))) == nested(100, wrap)
            with pytest.raises(MessageTooLarge, match="is nested 101 deep; at most 100 is allowed"):
                write(nested(101, wrap))

    def test_depth_of_keys(self):
        """A dict's keys are inside it, as its values are."""
        value = {nested(99, WRAPS["tuple"]): "x" * 100}
        assert serializer.decode(serializer.encode(value)) == value
        with pytest.raises(MessageTooLarge, match="is nested 101 deep"):
            serializer.encode({nested(100, WRAPS["tuple"]): "x" * 100})

    @pytest.mark.parametrize("depth", [101, 500, 1000, 5000, 100_000])
    @pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
    def test_far_too_deep(self, depth, wrap):
        """However deep a value is, it costs an error, never Python's stack."""
        if depth > 1000 and wrap is WRAPS["frozenset"]:
            depth = 1000  # hashing recurses in C: Python cannot build more
        with pytest.raises(MessageTooLarge, match="deep; at most 100 is allowed"):
            serializer.encode(nested(depth, wrap))

    def test_depth_of_what_is_read(self):
        """Data that another wrote without this limit is refused when read."""
        generous = Serializer(max_depth=250)
        for wrap in WRAPS.values():
            data = generous.encode(nested(250, wrap))
            assert generous.decode(data) == nested(250, wrap)
            with pytest.raises(MessageTooLarge, match="nested 250 deep; at most 100 is allowed"):
                serializer.decode(data)
            with pytest.raises(MessageTooLarge, match="nested 250 deep; at most 100 is allowed"):
                serializer.unseal(generous.seal((), nested(250, wrap)), 0)

    def test_many_shallow_containers(self):
        """Only nesting counts: a hundred thousand containers side by side pass."""
        value = [{"a": [n], "b": (n,)} for n in range(100_000)]
        assert serializer.decode(serializer.encode(value)) == value

    def test_size(self):
        """A value of exactly the limit passes, a byte more does not; the error has both numbers."""
        small = Serializer(max_size=1000)
        body = "x" * (1000 - len(small.seal(("id",), "")) - 2)
        assert len(small.seal(("id",), body)) == 1000
        assert small.unseal(small.seal(("id",), body), 1) == ["id", body]
        with pytest.raises(MessageTooLarge, match="message is 1,001 bytes; at most 1,000 are"):
            small.seal(("id",), body + "x")
        with pytest.raises(MessageTooLarge, match="the data is 1,001 bytes; at most 1,000 are"):
            small.unseal(serializer.seal(("id",), body + "x"), 1)
        with pytest.raises(MessageTooLarge, match="value is 2,003 bytes"):
            small.encode([b"x" * 1999])

    def test_refused_before_it_is_copied(self):
        """A large str or bytes over the limit is not copied first."""
        small = Serializer(max_size=1000)
        body = b"x" * 50_000_000
        tracemalloc.start()
        try:
            for call in (small.encode, lambda body: small.seal((), body)):
                with pytest.raises(MessageTooLarge):
                    call(body)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("arguments", [{"max_size": 0}, {"max_depth": 0}, {"max_depth": 251}])
    def test_limits_are_checked(self, arguments):
        """Limits that cannot be kept are refused."""
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Serializer(**arguments)


class TestCanonical:
    """Canonical bytes are equal exactly for values that are equal in value and type."""

    @given(values, values)
    def test_equal_exactly_if_the_same(self, one, other):
        """Two values have the same bytes exactly if they cannot be told apart."""
        got = serializer.canonical(one) == serializer.canonical(other)
        assert got == same_in_any_order(one, other)

    @given(values)
    def test_order_does_not_matter(self, value):
        """Dicts and sets that were built in another order have the same bytes."""
        assert serializer.canonical(reordered(value)) == serializer.canonical(value)

    def test_order_of_keys(self):
        """So have dicts whose keys are all text, at any depth, and sets, at any depth."""
        one = {"a": 1, "b": [{"c": {1, 9, 17}, "d": (frozenset("xyz"),)}], "e": {1: 2, "f": 3}}
        other = {"e": {"f": 3, 1: 2}, "b": [{"d": (frozenset("zyx"),), "c": {17, 9, 1}}], "a": 1}
        assert serializer.canonical(one) == serializer.canonical(other)
        assert serializer.encode(one) != serializer.encode(other)

    def test_types_differ(self):
        """Values that Python calls equal have different bytes if their types differ."""
        different = [
            *(1, 1.0, True, Decimal(1), Decimal("1.0"), 0.0, -0.0, 0, False, "1", b"1"),
            *((), [], set(), frozenset(), {}, None, "", b""),
            *([1], [1.0], [True], (1,), {1}, frozenset({1}), {1: 1}, {1.0: 1}, {1: True}, {"1": 1}),
            *([{}], [[]], [set()], {"a": {1: 2}}, {"a": {"1": 2}}),
        ]
        assert len({serializer.canonical(value) for value in different}) == len(different)

    def test_refuses_as_encode_does(self):
        """What cannot be written has no canonical bytes."""
        loop: list[Any] = []
        loop.append(loop)
        for value in (object(), {"a": [object()]}, loop, nested(101)):
            with pytest.raises(SerializationError):
                serializer.canonical(value)

    def test_enum_and_its_value(self):
        """An Enum is the same message as its value, which is what a receiver gets."""
        member = Enum("Kind", {"ONE": {1: 2, 3: 4}}).ONE
        assert serializer.canonical([member]) == serializer.canonical([{3: 4, 1: 2}])


def reordered(value: Any) -> Any:
    """Return an equal value whose dicts and sets were filled backwards."""
    if isinstance(value, dict):
        return {reordered(key): reordered(item) for key, item in reversed(value.items())}
    if isinstance(value, list | tuple | set | frozenset):
        elements = [reordered(element) for element in value]
        return type(value)(elements if isinstance(value, list | tuple) else elements[::-1])
    return value


def same_in_any_order(one: Any, other: Any) -> bool:
    """Tell whether two values cannot be told apart but by the order of dicts and sets."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_in_any_order, one, other))
    if isinstance(one, set | frozenset | dict):
        if len(one) != len(other):
            return False
        ones = list(one.items()) if isinstance(one, dict) else list(one)
        rest = list(other.items()) if isinstance(other, dict) else list(other)
        for element in ones:
            found = [n for n, candidate in enumerate(rest) if same_in_any_order(element, candidate)]
            if not found:
                return False
            rest.pop(found[0])
        return True
    return same(one, other)


class TestEnvelope:
    """An envelope tells its version, and may grow."""

    def test_layout(self):
        """An envelope is one array: the version, the head, the body."""
        data = serializer.seal(("id", 5, None), {"a": 1})
        assert msgpack.unpackb(data) == [ENVELOPE_VERSION, "id", 5, None, {"a": 1}]

    def test_later_fields_are_left_out(self):
        """What a later release of the same version adds behind the body is left out."""
        data = msgpack.packb([ENVELOPE_VERSION, "id", 5, "body", "new", {"newer": 1}])
        assert serializer.unseal(data, 2) == ["id", 5, "body"]

    @pytest.mark.parametrize("version", [0, 2, 127, 255, -1, 2**40])
    @pytest.mark.parametrize("rest", [b"\xc0", b"\xd4\x77\x00", b"\xc1", b""])
    def test_other_version(self, version, rest):
        """Another version is named, whatever its envelope holds that cannot be read here."""
        data = b"\x92" + msgpack.packb(version) + rest
        text = f"envelope version {version}, this release reads {ENVELOPE_VERSION}"
        with pytest.raises(SerializationError, match=f"^{text}$"):
            serializer.unseal(data, 2)

    @pytest.mark.parametrize("version", [None, "1", 1.0, True, [1], b"\x01"])
    def test_no_version(self, version):
        """Without a whole number as its version, an array is no envelope."""
        with pytest.raises(SerializationError, match="is not an envelope"):
            serializer.unseal(msgpack.packb([version, "id", "body"]), 1)

    @pytest.mark.parametrize("value", [5, None, "1", {}, {1: 2}, [], (1, 2)])
    def test_other_shape(self, value):
        """Anything but an array is no envelope."""
        with pytest.raises(SerializationError, match="is not an envelope"):
            serializer.unseal(serializer.encode(value), 0)

    def test_too_few(self):
        """An envelope that lacks fields is refused, with both numbers."""
        with pytest.raises(SerializationError, match="has 3 elements; at least 4 are needed"):
            serializer.unseal(serializer.seal(("id",), "body"), 2)

    def test_bad_head(self):
        """A head that cannot be written is refused too."""
        with pytest.raises(SerializationError, match="message cannot be written: object is not"):
            serializer.seal((object(),), "body")


def one_by_one(reader: Serializer, payloads: Any, fields: int) -> list[Any]:
    """Return what `unseal` makes of each, after the version, and errors as their type and text."""
    results: list[Any] = []
    for payload in payloads:
        try:
            results.append([ENVELOPE_VERSION, *reader.unseal(payload, fields)])
        except SerializationError as error:
            results.append((type(error), str(error)))
    return results


def together(reader: Serializer, payloads: Any, fields: int) -> list[Any]:
    """Return what `unseal_all` makes of them, errors as their type and text."""
    results = reader.unseal_all(payloads, fields)
    return [
        (type(one), str(one)) if isinstance(one, SerializationError) else one for one in results
    ]


#: Payloads with two fields in their heads, and what is next to one.
SEALED = st.one_of(values, st.binary(max_size=300)).map(
    lambda value: serializer.seal(("id", 5), value)
)
#: What ends, or may not end, where its bytes do; and what only looks like an envelope.
ODD = [
    b"\x94\x01\xa2id",
    b"\x05\xc4\x01x",
    b"\x94\x01\xa2id\x05\xc4\x30",
    b"\xc6\x00\x00\x01\x00",
    b"\x94\x02\xa2id\x05\x01",
    b"\x95\x01\xa2id\x05\x01\x02",
    b"\x93\x01\xa2id\x05",
    b"",
    b"\xc0",
    b"\x94\xc3\xa2id\x05\x01",
    b"\x94\xcb\x3f\xf0" + bytes(6) + b"\xa2id\x05\x01",
    b"\xa4\x01abc",
    b"\x94\x01\xa2id\x05" + b"\x91" * 120 + b"\xc0",
    b"\x84\x00\x01\x01\x01\x02\x01\x03\x01",
    serializer.encode((ENVELOPE_VERSION, "id", 5, "body")),
]

NEARLY_SEALED = st.one_of(
    SEALED,
    SEALED,
    st.tuples(SEALED, st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]]),
    st.tuples(SEALED, SEALED).map(b"".join),
    st.binary(max_size=20),
    st.sampled_from(ODD),
)


class TestUnsealAll:
    """Many payloads are read as each would be alone."""

    @given(st.lists(NEARLY_SEALED, max_size=12))
    @example([b"\x94\x01\xa2id", b"\x05\xc0"])
    @example([b"\x94\x01\xa2id\x05\xc4\x02", b"xy", b"\xc0\xc0"])
    def test_as_one_by_one(self, payloads: list[bytes]):
        """Whatever stands beside it, a payload has its value or its error, in its place."""
        results = together(serializer, payloads, 2)
        expected = one_by_one(serializer, payloads, 2)
        assert len(results) == len(expected)
        assert all(map(same, results, expected))

    @pytest.mark.parametrize("odd", ODD, ids=repr)
    def test_an_odd_one_among_others(self, odd: bytes):
        """What is no envelope, or no usual one, has its own error or value, and so have others."""
        good = serializer.seal(("id", 5), "body")
        payloads = [good, odd, good]
        assert together(serializer, payloads, 2) == one_by_one(serializer, payloads, 2)

    def test_payloads_of_any_size(self):
        """The limit is for each payload, not for all together."""
        small = Serializer(max_size=400)
        payloads = [serializer.seal(("id",), "x" * size) for size in (10, 300, 390, 400, 10)]
        assert together(small, payloads, 1) == one_by_one(small, payloads, 1)
        large = [serializer.seal(("id",), bytes(700_000))] * 3
        assert together(serializer, large, 1) == one_by_one(serializer, large, 1)

    def test_other_types(self):
        """Any bytes-like object is read, and nothing else."""
        data = serializer.seal(("id",), "body")
        payloads: list[Any] = [data, bytearray(data), memoryview(data), None, "text", data]
        assert together(serializer, payloads, 1) == one_by_one(serializer, payloads, 1)
        assert serializer.unseal_all([], 1) == []

    def test_extensions_may_read_payloads(self):
        """A function of an extension can unseal on its own, among many payloads too."""

        def decode(data: bytes) -> Any:
            return Money(sum(one[1] for one in reader.unseal_all([data, data], 0)))  # type: ignore[index]

        reader = money(decode=decode)
        payloads = [
            money(encode=lambda m: reader.seal((), m.cents)).seal((), Money(n)) for n in (3, 4)
        ]
        assert reader.unseal_all(payloads, 0) == [[1, Money(6)], [1, Money(8)]]


class Money:
    """A type of the user's, with a serializer."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return self.cents


def money(
    encode: Any = lambda m: str(m.cents).encode(), decode: Any = lambda d: Money(int(d))
) -> Serializer:
    """Return a serializer that knows Money."""
    return Serializer([Extension(Money, 64, encode, decode)])


class TestExtension:
    """A hook teaches one more type, and cannot break the others."""

    def test_round_trip(self):
        """Values of the type come back, anywhere in a value."""
        value = [Money(5), {Money(6): (Money(7),)}, {Money(8)}]
        assert money().decode(money().encode(value)) == value
        assert money().unseal(money().seal(("id",), value), 1) == ["id", value]

    def test_unknown_to_the_reader(self):
        """A reader without the serializer says which code it lacks."""
        with pytest.raises(SerializationError, match="no serializer is registered for the code 64"):
            serializer.decode(money().encode([Money(5)]))

    def test_exact_type(self):
        """Values of a subclass are not written as the type."""
        with pytest.raises(SerializationError, match="Gold is not serialisable"):
            money().encode(type("Gold", (Money,), {})(5))

    def test_subclass_of_supported_type(self):
        """A serializer may be given for a subclass of a supported type, and for an Enum."""
        kind = Enum("Kind", "ONE TWO")
        taught = Serializer(
            [
                Extension(Pair, 64, lambda p: bytes(p), lambda d: Pair(*d)),
                Extension(kind, 127, lambda k: k.name.encode(), lambda d: kind[d.decode()]),
            ]
        )
        value = [Pair(1, 2), kind.TWO, {kind.ONE: (1, 2)}]
        got = taught.decode(taught.encode(value))
        assert got == value
        assert type(got[0]) is Pair
        assert taught.canonical([kind.ONE]) != taught.canonical([kind.ONE.value])

    def test_encode_fails(self):
        """Its error is the cause of one that tells place and class, not the content."""

        def encode(_: Money) -> bytes:
            raise ValueError("hunter2")

        with pytest.raises(SerializationError) as caught:
            money(encode).seal((), {"price": Money(5)})
        assert re.match(
            r"message\['price'\]: .*Money .*serializer failed: ValueError$", str(caught.value)
        )
        assert isinstance(caught.value.__cause__, ValueError)

    @pytest.mark.parametrize("result", ["5", 5, None, bytearray(b"5"), [b"5"]])
    def test_encode_returns_no_bytes(self, result):
        """What is not bytes is refused."""
        with pytest.raises(
            SerializationError, match=f"returned {type(result).__name__}, not bytes"
        ):
            money(lambda _: result).encode([Money(5)])

    def test_decode_fails(self):
        """Its error is the cause of a SerializationError."""
        with pytest.raises(SerializationError, match="serializer of Money failed: ValueError") as e:
            money().decode(b"\xd4\x40x")
        assert isinstance(e.value.__cause__, ValueError)

    def test_may_use_the_serializer(self):
        """A serializer's functions may call the serializer that calls them, and threads meet."""
        taught = Serializer(
            [
                Extension(
                    Money,
                    64,
                    lambda m: taught.encode({"cents": (m.cents,)}),
                    lambda d: Money(taught.decode(d)["cents"][0]),
                )
            ]
        )
        value = [[Money(n), "x" * n] for n in range(200)]
        expected = taught.encode(value)
        results: list[bool] = []

        def work() -> None:
            results.extend(taught.encode(value) == expected for _ in range(50))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 200
        assert taught.decode(expected) == value

    @pytest.mark.parametrize("code", [0, 1, 63, 128, -1, True, 64.0, "64", None])
    def test_bad_code(self, code):
        """Codes below 64 are corekit's own; above 127 msgpack has none."""
        with pytest.raises(ConfigurationError, match="of Money needs a code from 64 to 127"):
            Extension(Money, code, bytes, bytes)

    @pytest.mark.parametrize(
        "arguments", [("Money", 64, bytes, bytes), (Money, 64, None, bytes), (Money, 64, bytes, 5)]
    )
    def test_bad_arguments(self, arguments):
        """A type and two functions are needed."""
        with pytest.raises(ConfigurationError, match="needs"):
            Extension(*arguments)

    @pytest.mark.parametrize("kind", [int, str, tuple, datetime, UUID, type(None)])
    def test_supported_types_are_taken(self, kind):
        """A type that is written anyway cannot be given another form."""
        with pytest.raises(ConfigurationError, match="needs no serializer"):
            Serializer([Extension(kind, 64, bytes, bytes)])

    def test_claimed_twice(self):
        """Two claims on one type, or one code, are refused when the serializer is built."""
        first = Extension(Money, 64, bytes, bytes)
        with pytest.raises(ConfigurationError, match="claim the type Money"):
            Serializer([first, Extension(Money, 65, bytes, bytes)])
        with pytest.raises(ConfigurationError, match="claim the code 64"):
            Serializer([first, Extension(Pair, 64, bytes, bytes)])

    def test_repr(self):
        """The repr shows the limits and how many types were added."""
        assert repr(money()) == "<Serializer max_size=67108864 max_depth=100 extensions=1>"


def ext(code: int, data: bytes) -> bytes:
    """Return *data* as an extension type."""
    return msgpack.packb(msgpack.ExtType(code, data))


HOSTILE = {
    "empty": b"",
    "reserved byte": b"\xc1",
    "4 GiB of bytes": b"\xc6\xff\xff\xff\xff",
    "4 GiB of text": b"\xdb\xff\xff\xff\xff",
    "array of 2**32-1": b"\xdd\xff\xff\xff\xff",
    "array of 10**8": b"\xdd\x05\xf5\xe1\x00",
    "map of 2**32-1": b"\xdf\xff\xff\xff\xff",
    "nested claims": b"\xdd\x00\x03\xff\xff" * 900 + bytes(2**18),
    "nested maps of claims": b"\xdf\x00\x01\xff\xff\x01" * 900 + bytes(2**18),
    "101 lists": b"\x91" * 101 + b"\xc0",
    "2,000 lists": b"\x91" * 2000 + b"\xc0",
    "5,000,000 lists": b"\x91" * 5_000_000,
    "100,000 maps": b"\x81\xa1a" * 100_000,
    "2,000 maps in keys": b"\x81" * 2000,
    "1,000 tuples": b"\x81\x91\x01\x91" * 1000 + b"\xc0",
    "list as key": b"\x81\x91\xc0\x01",
    "two lists as keys": b"\x82\x91\x01\x90\x91\x02\x90",
    "map as key": b"\x81\x80\x01",
    "set as key": b"\x81\x81\x91\x02\x90\x01",
    "the same key twice": b"\x82\xa1a\x01\xa1a\x02",
    "1 and true as keys": b"\x82\x01\x01\xc3\x02",
    "unknown collection": b"\x81\x91\x04\x90",
    "collection with true as its tag": b"\x81\x91\xc3\x90",
    "collection with two tags": b"\x81\x92\x01\x01\x90",
    "collection of no list": b"\x81\x91\x01\x05",
    "set of lists": b"\x81\x91\x02\x91\x90",
    "set with the same element twice": b"\x81\x91\x02\x92\x01\x01",
    "text that is not UTF-8": b"\xa1\xff",
    "overlong UTF-8": b"\xa2\xc0\xaf",
    "surrogate in UTF-8": b"\xa3\xed\xa0\x80",
    "unknown extension": ext(63, b"x"),
    "extension of length 0": ext(0, b""),
    "extension of 4 GiB": b"\xc9\xff\xff\xff\xff\x01",
    "timestamp of 1 byte": b"\xc7\x01\xff\x01",
    "timestamp with 2**30 nanoseconds": b"\xc7\x0c\xff\x40\x00\x00\x00" + bytes(8),
    "timestamp in year 10**9": b"\xc7\x0c\xff" + struct.pack(">Iq", 0, 2**55),
    "datetime that is none": ext(2, b"9999-99-99"),
    "datetime of 1 MB": ext(2, b"2" * 1_000_000),
    "datetime not in ASCII": ext(2, "2024-01-01T00:00:00\u0660".encode()),
    "offset with a fraction": ext(2, b"2024-01-01T00:00:00+00:00:01.5"),
    "date that is none": ext(3, b"2024-02-30"),
    "time that is none": ext(4, b"25:00"),
    "timedelta of 3 bytes": ext(5, b"123"),
    "timedelta out of range": ext(5, struct.pack(">iii", 2**31 - 1, 0, 0)),
    "Decimal that is none": ext(6, b"hunter2"),
    "Decimal not in ASCII": ext(6, b"\xff"),
    "Decimal out of range": ext(6, b"1E999999999999999999999"),
    "UUID of 3 bytes": ext(7, b"123"),
    "JSON": json.dumps({"a": 1}).encode(),
    "pickle": pickle.dumps({"a": 1}),
    "gzip": gzip.compress(b"hello"),
}


class TestHostile:
    """Whatever bytes arrive, they are a value or a SerializationError, quickly."""

    @pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
    def test_known_traps(self, data):
        """None of the known traps is a value, takes memory, or takes long."""
        tracemalloc.start()
        started = real_time.perf_counter()
        try:
            for read in (serializer.decode, lambda data: serializer.unseal(data, 1)):
                with pytest.raises(SerializationError) as caught:
                    read(data)
                assert "hunter2" not in str(caught.value)
            memory = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert real_time.perf_counter() - started < 5
        assert memory < 120_000_000

    @pytest.mark.parametrize("name", ["JSON", "pickle", "gzip"])
    def test_foreign_formats_are_named(self, name):
        """The error says what the data looks like."""
        with pytest.raises(SerializationError, match=f"; it looks like {name}$"):
            serializer.decode(HOSTILE[name])

    @settings(max_examples=500)
    @given(st.binary(max_size=200))
    @example(b"\x81\x91\x01\x90")
    def test_any_bytes(self, data):
        """Any bytes are a value that can be written again, or a SerializationError."""
        try:
            value = serializer.decode(data)
        except SerializationError:
            return
        assert same(serializer.decode(serializer.encode(value)), value)

    @settings(max_examples=500)
    @given(values, st.data())
    def test_damaged(self, value, data):
        """A message with one damaged byte is a value that can be written again, or an error."""
        good = bytearray(serializer.seal(("id", 3), value))
        place = data.draw(st.integers(0, len(good) - 1))
        good[place] = data.draw(st.integers(0, 255))
        try:
            head = serializer.unseal(bytes(good), 2)
        except SerializationError:
            return
        serializer.encode(head)

    @given(values)
    def test_every_prefix(self, value):
        """No proper beginning of a message is a message, nor is one that goes on after its end."""
        data = serializer.seal(("id",), value)
        for bad in (*(data[:end] for end in range(len(data))), data + b"\x00"):
            with pytest.raises(SerializationError):
                serializer.unseal(bad, 1)

    @pytest.mark.parametrize("data", [None, 5, "text", [1], object()])
    def test_not_bytes(self, data):
        """What is not bytes at all is refused too."""
        with pytest.raises(SerializationError, match="must be bytes"):
            serializer.decode(data)

    def test_other_encoders(self):
        """Longer forms than needed, float32 and timestamps of other encoders are accepted."""
        assert serializer.decode(b"\xcf" + bytes(7) + b"\x05") == 5
        assert serializer.decode(b"\xca\x3f\x80\x00\x00") == 1.0
        assert serializer.decode(b"\xd9\x01a") == "a"
        assert serializer.decode(b"\xdd\x00\x00\x00\x01\x05") == [5]
        assert serializer.decode(b"\xd6\xff" + bytes(4)) == datetime(1970, 1, 1, tzinfo=UTC)


SAMPLES = {
    "none": None,
    "true": True,
    "small int": 5,
    "big int": 2**64,
    "big negative int": -(2**63) - 1,
    "float": 1.5,
    "str": "\u00e9",
    "bytes": b"\x00\xff",
    "list": [1, [2]],
    "tuple": (1, (2,)),
    "dict": {"a": 1, 2: None, (3,): b""},
    "set": {1},
    "frozenset": frozenset({1}),
    "datetime": datetime(2024, 2, 29, 12, 30, 15, 7),
    "aware datetime": datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    "second half past two": datetime(2024, 10, 27, 2, 30, fold=1),
    "date": date(1, 1, 1),
    "time": time(23, 59, 59, 999999, tzinfo=UTC),
    "timedelta": timedelta(-1, 5, 7),
    "decimal": Decimal("-1.10"),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
}


class TestGolden:
    """Stored data stays readable: the bytes of each type never change."""

    @pytest.mark.parametrize("name", SAMPLES)
    def test_bytes(self, name):
        """A value is written as the bytes that an earlier release wrote, and read from them."""
        golden = dict(line.split(": ") for line in GOLDEN.read_text().splitlines())
        assert serializer.encode(SAMPLES[name]).hex() == golden[name]
        assert same(serializer.decode(bytes.fromhex(golden[name])), SAMPLES[name])

    def test_envelope(self):
        """So is an envelope."""
        golden = dict(line.split(": ") for line in GOLDEN.read_text().splitlines())
        assert serializer.seal(("id", 7), {"a": (1,)}).hex() == golden["envelope"]

    def test_complete(self):
        """The file has exactly these samples."""
        names = [line.partition(": ")[0] for line in GOLDEN.read_text().splitlines()]
        assert names == [*SAMPLES, "envelope"]
