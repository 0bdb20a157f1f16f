"""How long a failed message waits."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corekit.managers import backoff


def test_the_default():
    """Half a second, doubled, up to five minutes."""
    plan = backoff.planned(None, 20)
    means = [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    for attempt, mean in enumerate(means, 1):
        waits = [backoff.wait(plan, attempt) for _ in range(200)]
        assert mean * 0.75 <= min(waits) < mean < max(waits) <= mean * 1.25


@given(st.floats(0, backoff.LONGEST_DOUBLED), st.integers(1, 10**9))
def test_doubled_waits_are_bounded(first, attempt):
    """No attempt, however late, waits longer than five minutes and the jitter."""
    assert 0 <= backoff.wait(backoff.planned(first, 1), attempt) <= 375


def test_a_first_wait_above_the_bound():
    """Who asks for more than five minutes gets them, each time."""
    plan = backoff.planned(timedelta(hours=1), 3)
    assert all(2700 <= backoff.wait(plan, attempt) <= 4500 for attempt in (1, 2, 30))


def test_no_wait():
    """0 means at once."""
    assert [backoff.wait(backoff.planned(0, 3), attempt) for attempt in (1, 2, 3)] == [0, 0, 0]


def test_a_function():
    """A function says each wait itself; it is asked for the attempts that can fail with a retry."""
    asked = []

    def tens(attempt):
        asked.append(attempt)
        return timedelta(seconds=10 * attempt)

    plan = backoff.planned(tens, 3)
    assert asked == [1, 2, 3]
    assert [backoff.wait(plan, attempt) for attempt in (1, 2, 3)] == [10, 20, 30]


def test_a_function_and_many_retries():
    """A function is asked for 50 attempts; the last answer holds for those after."""
    plan = backoff.planned(float, 100_000)
    assert len(plan) == 50
    assert [backoff.wait(plan, attempt) for attempt in (50, 51, 100_000)] == [50, 50, 50]


@pytest.mark.parametrize("answer", [math.nan, 1e300, -1, None, "1", ZeroDivisionError("x")])
def test_a_function_that_fails(answer, caplog):
    """Instead of an answer that is none the default stands, and the log says so."""

    def failing(attempt):
        if isinstance(answer, Exception):
            raise answer
        return answer

    plan = backoff.planned(failing, 2)
    assert [backoff.wait(plan, attempt) for attempt in (1, 2)] == [0.5, 1.0]
    assert "backoff(1)" in caplog.text


def test_a_function_is_not_asked_without_retries():
    """Without retries there is nothing to wait for."""
    assert backoff.planned(lambda attempt: 1 / 0, 0) == []
