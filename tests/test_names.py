"""Names: what is one, and that no two different ones ever meet."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corekit import names
from corekit.errors import InvalidName, InvalidType

#: Every name: text without control characters and surrogates, up to 512 bytes.
valid = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=128)
tricky = st.text("/%25F2f.", min_size=1, max_size=6)


class TestChecked:
    """A name is any text of 1 to 512 bytes in UTF-8 without control characters."""

    @given(valid)
    def test_kept(self, name):
        """A valid name is returned as it is: nothing is trimmed, folded or normalised."""
        assert names.checked("key", name) == name

    @pytest.mark.parametrize(
        "name",
        [
            *("*", ">", "a.*.b", "#", "?", "[a]", "a..b", ".", "..", "../../etc/passwd", "-rf"),
            *("/", "//", "a:b", "{a}b", "{0.__class__}", "%s", "%2F", "x'; DROP TABLE m;--", "con"),
            *("true", "null", "0", " ", " a ", "e\u0301", "\u00e9", "\U0001f600", "a\u202eb"),
            *("__corekit__", "$dead", "A", "a\u200db", "x" * 512, "\u00e9" * 256),
        ],
    )
    def test_odd_ones(self, name):
        """Wildcards, paths, format strings and blanks are names like any other."""
        assert names.checked("key", name) == name

    @pytest.mark.parametrize(
        "name",
        [
            "\x00",
            "a\x00b",
            "a\tb",
            "a\nb",
            "a\r\nb",
            "\x1b[2J",
            "\x7f",
            "\x80",
            "\x85",
            "\x9f",
            "\u00e9\n",
        ],
    )
    def test_control_characters(self, name):
        """Control characters, of ASCII and beyond, are refused and shown escaped."""
        with pytest.raises(
            InvalidName, match=r"^key must not hold control characters: '"
        ) as caught:
            names.checked("key", name)
        assert str(caught.value).isprintable()

    def test_empty(self):
        """An empty name is refused."""
        with pytest.raises(InvalidName, match=r"^channel must not be empty$"):
            names.checked("channel", "")

    @pytest.mark.parametrize(
        ("name", "size"),
        [("x" * 513, 513), ("\u00e9" * 257, 514), ("x" * 70_000, 70_000), ("\n" * 600, 600)],
    )
    def test_too_long(self, name, size):
        """The limit is 512 bytes of UTF-8; the error has both numbers, and the name cut."""
        text = f"^key must be at most 512 bytes of UTF-8, not {size}: "
        with pytest.raises(InvalidName, match=text) as caught:
            names.checked("key", name)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "\ud800\udc00"])
    def test_lone_surrogates(self, name):
        """Text that UTF-8 cannot hold is refused."""
        with pytest.raises(InvalidName, match=r"^key must be text that UTF-8 can hold, not '"):
            names.checked("key", name)

    @pytest.mark.parametrize("name", [None, 5, b"x", Path("x"), ["x"], object(), Enum("E", "A").A])
    def test_other_types(self, name):
        """Anything but a str is an InvalidType."""
        with pytest.raises(InvalidType, match=r"^key must be a str, not "):
            names.checked("key", name)

    def test_subclasses(self):
        """A subclass of str becomes the str that it is, whatever its methods say."""

        class Odd(str):
            def __str__(self) -> str:
                return "other"

            def __eq__(self, other: object) -> bool:
                return False

            def __hash__(self) -> int:
                return 0

            def encode(self, *_: Any) -> bytes:
                return b""

            def __len__(self) -> int:
                return 1

        got = names.checked("key", Odd("na\u00efve"))
        assert type(got) is str
        assert got == "na\u00efve"
        with pytest.raises(InvalidName):
            names.checked("key", Odd("x" * 600))
        assert type(names.checked("key", Enum("E", {"A": "a"}, type=str).A)) is str


class TestFull:
    """Full names tell application, component and parts apart."""

    @given(
        st.tuples(valid | tricky, st.sampled_from([names.CACHE, names.LOCK]), valid | tricky),
        st.lists(valid | tricky, max_size=2),
    )
    def test_split_gives_back(self, start, parts):
        """What was put together can be taken apart again."""
        assert names.split(names.full(*start, *parts)) == [*start, *parts]

    @given(st.lists(tricky, min_size=2, max_size=4), st.lists(tricky, min_size=2, max_size=4))
    def test_never_meet(self, one, other):
        """Two different combinations have different full names, whatever characters they hold."""
        full = [names.full(app, names.CACHE, *parts) for app, *parts in (one, other)]
        assert (full[0] == full[1]) == (one == other)

    @given(tricky, tricky)
    def test_escaped(self, one, other):
        """An escaped part holds no slash, and different parts stay different."""
        assert "/" not in names.escaped(one)
        assert (names.escaped(one) == names.escaped(other)) == (one == other)

    def test_components(self):
        """The same name in two components, or of an application and shared, is two names."""
        components = [
            names.CACHE,
            names.COUNTER,
            names.CHANNEL,
            names.SYNC,
            names.QUEUE,
            names.LOCK,
        ]
        full = [names.full(app, part, "x") for app in ("a", names.SHARED) for part in components]
        assert len(set(full)) == 12

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (("x", "a:b"), ("x:a", "b")),
            (("x", "a/b"), ("x", "a", "b")),
            (("a", "aa", "b"), ("a", "a", "ab")),
            (("x", "%2F"), ("x", "/")),
            (("x", "e\u0301"), ("x", "\u00e9")),
            (("x", "a"), ("X", "a")),
            (("x", "lock/a"), ("x", "lock", "a")),
        ],
    )
    def test_twins(self, one, other):
        """Names that other systems confuse stay apart."""
        assert names.full(one[0], "k", *one[1:]) != names.full(other[0], "k", *other[1:])

    def test_readable(self):
        """An ordinary name is readable in its full name."""
        assert names.full("shop", names.LOCK, "orders:7") == "shop/lock/orders:7"
