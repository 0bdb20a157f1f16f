"""Patterns of keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corekit.managers.key_pattern import key_pattern


@given(st.text("ab*?[", max_size=8), st.text("ab*?[", max_size=10))
def test_only_the_star_is_special(pattern, key):
    """A pattern means what the regular expression with .* for each star means."""
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key, re.DOTALL)
    assert key_pattern(pattern)(key) == (expected is not None)


@pytest.mark.timeout(10)
def test_it_takes_linear_time():
    """A pattern of many stars is no slower than its length: this would take ages otherwise."""
    assert not key_pattern("*a" * 250 + "b")("a" * 500)
    assert key_pattern("*a" * 250 + "*")("a" * 500)
