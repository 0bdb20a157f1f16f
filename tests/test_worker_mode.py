"""What an instance serves, by worker mode."""

from __future__ import annotations

import pytest

from corekit.errors import ConfigurationError, InvalidName, InvalidType
from corekit.worker_mode import WorkerMode


@pytest.mark.parametrize(
    ("mode", "requests", "a", "b", "untopical"),
    [
        (None, True, True, True, True),
        ("!", True, False, False, True),
        ("*", False, True, True, True),
        ("a", False, True, False, True),
        ("a,b", False, True, True, True),
        (" a , b ", False, True, True, True),
        ("!,a", True, True, False, True),
        ("a,!", True, True, False, True),
        ("*,!", True, True, True, True),
        (" ! , * ", True, True, True, True),
        ("-", False, False, False, False),
        (" - ", False, False, False, False),
    ],
)
def test_modes(mode: str | None, requests: bool, a: bool, b: bool, untopical: bool) -> None:
    """Each mode serves what its grammar says, blanks around the parts do not matter."""
    parsed = WorkerMode.parse(mode)
    assert [parsed.serves(), parsed.serves("a"), parsed.serves("b")] == [requests, a, b]
    assert [parsed.consumes(None), parsed.consumes("a")] == [untopical, a]


@pytest.mark.parametrize(
    "mode",
    ["", " ", "!!", "a,,b", ",", "-,a", "a,-", "*,a", "!-", "-,!", "a b", "ä", "a;b", "a\n,"],
)
def test_nonsense_is_refused(mode: str) -> None:
    """A mode outside the grammar is a ConfigurationError that tells the grammar."""
    with pytest.raises(ConfigurationError, match="allowed: '!'"):
        WorkerMode.parse(mode)


def test_a_mode_must_be_text() -> None:
    """Something else than a str is refused by its type."""
    with pytest.raises(InvalidType, match="worker_mode must be a str"):
        WorkerMode.parse(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", ["", "a b", "ä", "!", "a,b", "x\n"])
def test_impossible_topics(topic: str) -> None:
    """Asking for a topic that no mode could name is a mistake, not False."""
    with pytest.raises(InvalidName, match="topic must match"):
        WorkerMode.parse(None).serves(topic)


def test_topics_must_be_text() -> None:
    """A topic of another type is refused by its type."""
    with pytest.raises(InvalidType, match="topic must be a str"):
        WorkerMode.parse(None).serves(5)  # type: ignore[arg-type]
