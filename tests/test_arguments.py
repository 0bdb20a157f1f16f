"""Arguments: what a call accepts, and what its error says."""

from __future__ import annotations

import math
import sys
from datetime import date, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corekit import arguments
from corekit.arguments import LONGEST
from corekit.errors import InvalidArgument, InvalidType


class TestSeconds:
    """A duration is a number of seconds or a timedelta, above 0 and at most ten years."""

    @given(st.floats(0, LONGEST, exclude_min=True) | st.integers(1, int(LONGEST)))
    def test_numbers(self, value):
        """A number in range is returned as a float."""
        got = arguments.seconds("ttl", value)
        assert type(got) is float
        assert got == value

    @given(st.timedeltas(timedelta(microseconds=1), timedelta(seconds=LONGEST)))
    def test_timedelta(self, value):
        """A timedelta counts as its seconds."""
        assert arguments.seconds("ttl", value) == value.total_seconds()

    @pytest.mark.parametrize(
        "value",
        [
            *(0, -0.0, -1, -1e-9, math.nan, math.inf, -math.inf, 1e12, 2**63, 10**400, -(10**400)),
            *(10**5000, LONGEST * 1.0001, sys.float_info.max),
            *(timedelta(0), timedelta(-1), timedelta.max, timedelta.min),
        ],
        ids=lambda value: arguments.shown(value)[:30],
    )
    def test_out_of_range(self, value):
        """Zero, negative, NaN, infinite and absurdly long durations are refused by name."""
        text = "^ttl must be greater than 0 and at most ten years in seconds, not "
        with pytest.raises(InvalidArgument, match=text) as caught:
            arguments.seconds("ttl", value)
        assert not isinstance(caught.value, InvalidType)
        assert isinstance(caught.value, ValueError)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize(
        "value",
        [True, False, None, "10", b"10", Decimal("1.5"), Fraction(3, 2), 1j, [1], date.min],
        ids=repr,
    )
    def test_other_types(self, value):
        """Anything else, a bool too, is an InvalidType, which is a TypeError."""
        text = "^ttl must be seconds .int or float. or a timedelta, not "
        with pytest.raises(InvalidType, match=text) as caught:
            arguments.seconds("ttl", value, zero=True, infinite=True)
        assert isinstance(caught.value, TypeError)

    def test_zero(self):
        """Zero is allowed where it means something."""
        for value in (0, 0.0, -0.0, timedelta(0)):
            assert arguments.seconds("wait", value, zero=True) == 0
        with pytest.raises(InvalidArgument, match="must be at least 0 and"):
            arguments.seconds("wait", -1e-300, zero=True)

    def test_infinite(self):
        """So is infinity, but never minus infinity or NaN."""
        assert arguments.seconds("ttl", math.inf, infinite=True) == math.inf
        for value in (-math.inf, math.nan, 1e12):
            with pytest.raises(InvalidArgument, match=r"ten years in seconds, or math\.inf, not"):
                arguments.seconds("ttl", value, infinite=True)

    def test_subclasses(self):
        """Subclasses of numbers become plain floats."""
        got = arguments.seconds("ttl", type("Float", (float,), {})(1.5))
        assert (type(got), got) == (float, 1.5)
        assert arguments.seconds("ttl", IntEnum("E", {"A": 5}).A) == 5.0


class TestWhole:
    """A whole number is an int between its bounds."""

    def test_in_range(self):
        """Both bounds are allowed; without an upper one, any size is."""
        assert [arguments.whole("n", n, least=1, most=3) for n in (1, 2, 3)] == [1, 2, 3]
        assert arguments.whole("n", 10**400, least=1) == 10**400

    @pytest.mark.parametrize("value", [0, 4, -1, 10**9, 10**5000], ids=lambda n: arguments.shown(n))
    def test_out_of_range(self, value):
        """The error shows the bounds."""
        with pytest.raises(InvalidArgument, match=r"^n must be between 1 and 3, not "):
            arguments.whole("n", value, least=1, most=3)

    def test_no_upper_bound(self):
        """Without an upper bound the error shows the lower one."""
        with pytest.raises(InvalidArgument, match=r"^n must be at least 1, not 0$"):
            arguments.whole("n", 0, least=1)

    @pytest.mark.parametrize("value", [True, 1.0, 1.5, "1", None, Decimal(1), math.nan], ids=repr)
    def test_other_types(self, value):
        """A bool, a float, a str is none."""
        with pytest.raises(InvalidType, match=r"^n must be a whole number, not "):
            arguments.whole("n", value, least=0)


class TestFlag:
    """A flag is True or False."""

    def test_both(self):
        """Both are returned."""
        assert arguments.flag("renew", True) is True
        assert arguments.flag("renew", False) is False

    @pytest.mark.parametrize("value", [0, 1, None, "", "yes", []])
    def test_other_types(self, value):
        """What is only truthy or falsy is refused."""
        with pytest.raises(InvalidType, match=r"^renew must be True or False, not "):
            arguments.flag("renew", value)


class Handlers:
    """Async functions in all the forms that users write."""

    async def method(self, message: Any) -> None:
        """Do nothing."""

    @classmethod
    async def of_class(cls, message: Any) -> None:
        """Do nothing."""

    @staticmethod
    async def static(message: Any) -> None:
        """Do nothing."""

    async def __call__(self, message: Any) -> None:
        """Do nothing."""

    def plain(self, message: Any) -> None:
        """Do nothing."""


class TestAsyncFunction:
    """A handler is whatever gives a coroutine when called."""

    @pytest.mark.parametrize(
        "function",
        [
            *(Handlers().method, Handlers.of_class, Handlers.static, Handlers()),
            *(
                partial(Handlers().method, 1),
                partial(partial(Handlers.static), 1),
                partial(Handlers()),
            ),
            AsyncMock(),
        ],
    )
    def test_async(self, function):
        """Functions, methods, partials of them, objects with an async call, and mocks pass."""
        assert arguments.is_async(function)
        arguments.async_function("handler", function)

    @pytest.mark.parametrize(
        "function",
        [
            *(
                Handlers().plain,
                print,
                len,
                lambda message: None,
                partial(print),
                Handlers,
                partial,
            ),
            *(None, 5, "handler", MagicMock()),
        ],
    )
    def test_others(self, function):
        """Plain functions, classes, and what cannot be called are an InvalidType."""
        assert not arguments.is_async(function)
        with pytest.raises(InvalidType, match=r"^handler must be an async function, not "):
            arguments.async_function("handler", function)


class TestShown:
    """An error shows what was given on one short line, whatever it is."""

    def test_cut(self):
        """A long repr is cut at 80 characters."""
        assert arguments.shown("a  b") == "'a  b'"
        assert len(arguments.shown("x" * 1000)) == 80
        assert arguments.shown("x" * 1000).endswith("...")

    def test_one_line(self):
        """Line breaks and escapes that a class puts into its repr are escaped."""
        odd = type("Odd", (), {"__repr__": lambda self: "a\nb\x1b[2J\ud800"})()
        assert arguments.shown(odd) == r"a\nb\x1b[2J\ud800"

    @pytest.mark.parametrize("result", [RuntimeError("x"), None])
    def test_broken_repr(self, result):
        """A repr that fails does not hide the error it is meant for."""

        def broken(_: object) -> Any:
            if result is not None:
                raise result
            return result

        assert arguments.shown(type("Broken", (), {"__repr__": broken})()) == "<Broken>"
        assert arguments.shown(10**5000) == "<int>"
