"""The judges of contention and of publishers: each must see what it is for."""

from __future__ import annotations

from typing import Any

import pytest

from .contention import going_on, handed_on, told
from .history import Event
from .test_publisher_deaths import no_holes


def event(time: float, process: str, op: str, phase: str = "ok", **facts: Any) -> Event:
    """Return an event."""
    return Event(time, process, op, phase, facts)


def hit(next_at: float, stopped_at: float, phase: str = "lost") -> list[Event]:
    """Return a history in which "a" is cut off at 1, stops, and "b" is next."""
    events = [
        event(0, "a", "acquire", name="n", token=1),
        event(1, "test", "fault", "call", kind="cut", target="a"),
        event(stopped_at, "a", "work", phase, name="n", token=1),
        event(next_at, "b", "acquire", name="n", token=2),
    ]
    return sorted(events, key=lambda one: one.time)


def test_a_late_hand_over_is_seen() -> None:
    """The time counts from the fault; a lock that nobody gets any more is late as well."""
    assert not handed_on(hit(3.5, 2), 3).violations
    assert handed_on(hit(4.5, 2), 3).violations
    assert handed_on(hit(3.5, 2)[:-1], 3).violations
    assert handed_on([], 3).violations


@pytest.mark.parametrize("phase", ["lost", "ok"])
def test_a_holder_that_works_past_its_lease_is_seen(phase: str) -> None:
    """Who was cut off must stop before its ttl is over, however it ended."""
    assert told(hit(4, 3.5, phase), 2).violations
    assert bool(told(hit(4, 2.5, phase), 2).violations) is (phase == "ok")


def test_a_holder_that_never_stops_is_seen() -> None:
    """Neither told nor at its end."""
    assert told([one for one in hit(4, 2) if one.op != "work"], 2).violations


def test_silence_is_seen() -> None:
    """The longest time between two uses that were taken counts."""
    uses = [event(time, "test", "use", "fail" if time == 3 else "ok") for time in (0, 1, 3, 5)]
    assert going_on(uses, 4).figures["longest_silence"] == 4
    assert not going_on(uses, 4).violations
    assert going_on(uses, 3.9).violations


def test_holes_are_seen() -> None:
    """A publisher's messages arrive up to some number, with none missing before it."""

    def arrived(*numbers: int) -> list[Event]:
        return [event(n, "c", "handle", "call", publisher="p", number=n) for n in numbers]

    assert not no_holes(arrived(1, 2, 3)).violations
    assert no_holes(arrived(1, 3)).violations
    assert no_holes(arrived(2, 3)).violations
