"""The judges of the fault tests see what they are there to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import checkers, history
from .checkers import Finding
from .history import Event


class Story:
    """Builds a history, one event each 10 ms."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.time = 100.0

    def add(self, process: str, op: str, phase: str, **facts: Any) -> Story:
        self.time += 0.01
        self.events.append(Event(self.time, process, op, phase, facts))
        return self

    def later(self, seconds: float) -> Story:
        self.time += seconds
        return self

    def publish(self, number: int, phase: str = "ok") -> Story:
        facts = {"key": f"p-{number}", "channel": "q", "number": number}
        self.add("p", "publish", "call", **facts)
        return self.add("p", "publish", phase, **facts) if phase != "call" else self

    def handle(self, number: int, end: str = "ok", worker: str = "w", **facts: Any) -> Story:
        key = f"p-{number}"
        facts = {"key": key, "channel": "q", "number": number, "publisher": "p"} | {
            "id": f"id-{number}",
            "attempt": 1,
            **facts,
        }
        self.add(worker, "handle", "call", **facts)
        return self.add(worker, "handle", end, **facts) if end else self

    def send(self, *numbers: int) -> Story:
        for number in numbers:
            facts = {"key": f"s-{number}", "channel": "c", "number": number}
            self.add("s", "send", "call", **facts).add("s", "send", "ok", **facts)
        return self

    def receive(self, *numbers: int) -> Story:
        for number in numbers:
            facts = {"key": f"s-{number}", "channel": "c", "number": number, "publisher": "s"}
            self.add("l", "receive", "ok", **facts)
        return self

    def told(self) -> Story:
        return self.add("l", "gap", "ok", channel="c")

    def subscribe(self) -> Story:
        return self.add("l", "subscribe", "ok", channel="c")

    def acquire(self, holder: str, token: int) -> Story:
        self.add(holder, "acquire", "call", name="n")
        return self.add(holder, "acquire", "ok", name="n", token=token)

    def use(self, token: int, phase: str = "ok") -> Story:
        return self.add("resource", "use", phase, name="n", token=token)

    def leave(self, holder: str, token: int, end: str = "ok") -> Story:
        if end == "ok":
            self.add(holder, "leave", "ok", name="n", token=token)
        return self.add(holder, "work", end, name="n", token=token)

    def fault(self, target: str = "broker", kind: str = "kill", lasts: float = 0.1) -> Story:
        self.add("test", "fault", "call", target=target, kind=kind).later(lasts)
        return self.add("test", "fault", "ok", target=target, kind=kind)


def once(events: list[Event]) -> Finding:
    """Check for duplicates, of which a fault may explain one."""
    return checkers.duplicates(events, 1)


def in_order(events: list[Event]) -> Finding:
    """Check the order on the channel q."""
    return checkers.order(events, "q")


def twice_at_most(events: list[Event]) -> Finding:
    """Check the attempts of messages that may be retried once."""
    return checkers.attempts(events, 1)


def fenced(events: list[Event]) -> Finding:
    """Check the tokens of a run with pauses."""
    return checkers.fencing(events, pauses=True)


def soon(events: list[Event]) -> Finding:
    """Check that everyone is back within a second."""
    return checkers.resumption(events, 1)


Checker = Callable[[list[Event]], Finding]

SOUND: dict[str, tuple[Checker, Story]] = {
    "everything handled": (
        checkers.no_loss,
        Story().publish(1).publish(2, "unknown").publish(3, "fail").handle(1).handle(2),
    ),
    "a publisher that died": (checkers.no_loss, Story().publish(1).publish(2, "call").handle(1)),
    "a double that a kill explains": (once, Story().handle(1).fault().handle(1)),
    "back after a kill": (checkers.no_zombie, Story().handle(1).fault().handle(1)),
    "in order over a redelivery": (in_order, Story().handle(1).handle(2).handle(1).handle(3)),
    "a retry": (twice_at_most, Story().handle(1, "fail").handle(1, attempt=2)),
    "every message": (checkers.gaps, Story().send(1).subscribe().send(2, 3).receive(2, 3)),
    "a gap that was told": (
        checkers.gaps,
        Story().subscribe().send(1, 2, 3).receive(1).told().receive(3),
    ),
    "told at the end": (checkers.gaps, Story().subscribe().send(1, 2).receive(1).told()),
    "an old token refused": (
        fenced,
        Story().acquire("a", 1).use(1).acquire("b", 2).use(2).use(1, "fail"),
    ),
    "one after the other": (
        checkers.exclusion,
        Story().acquire("a", 1).leave("a", 1).acquire("b", 2).leave("b", 2),
    ),
    "after a killed holder": (
        checkers.exclusion,
        Story().acquire("a", 1).fault("a").acquire("b", 2),
    ),
    "a paused holder that was told": (
        checkers.lost_leases,
        Story().acquire("a", 1).fault("a", "pause").leave("a", 1, "lost"),
    ),
    "back in time": (soon, Story().publish(1).fault().publish(2).later(3)),
    "a fault under work": (checkers.faults, Story().publish(1).fault()),
}

BROKEN: dict[str, tuple[Checker, Story, str]] = {
    "a lost message": (checkers.no_loss, Story().publish(1).publish(2).handle(1), "lost: p-2"),
    "begun and not ended": (checkers.no_loss, Story().publish(1).handle(1, ""), "lost: p-1"),
    "from nowhere": (checkers.no_loss, Story().publish(1).handle(1).handle(2), "accepted: p-2"),
    "refused and handled": (
        checkers.no_loss,
        Story().publish(1).handle(1).publish(2, "fail").handle(2),
        "accepted: p-2",
    ),
    "nothing happened": (checkers.no_loss, Story(), "proves nothing"),
    "only refusals": (checkers.no_loss, Story().publish(1, "fail"), "proves nothing"),
    "a double without a fault": (once, Story().handle(1).handle(1), "1 deliveries too many"),
    "more doubles than in flight": (
        once,
        Story().handle(1).handle(2).fault().handle(1).handle(2),
        "2 deliveries too many",
    ),
    "resurrected": (checkers.no_zombie, Story().handle(1).later(9).fault().handle(1), "p-1"),
    "resurrected without a fault": (checkers.no_zombie, Story().handle(1).handle(1), "p-1"),
    "an inversion": (in_order, Story().handle(2).handle(1), "out of order: p-1"),
    "nothing in order": (in_order, Story(), "nothing was handled"),
    "a new id": (twice_at_most, Story().handle(1).handle(1, id="other"), "another id"),
    "a skipped attempt": (twice_at_most, Story().handle(1, attempt=2), "attempt 2"),
    "too many attempts": (
        twice_at_most,
        Story().handle(1).handle(1, attempt=2).handle(1, attempt=3),
        "attempt 3",
    ),
    "a silent gap": (
        checkers.gaps,
        Story().subscribe().send(1, 2, 3).receive(1, 3),
        "lacks s-2 to 2",
    ),
    "told too late": (
        checkers.gaps,
        Story().subscribe().send(1, 2, 3).receive(1, 3).told(),
        "lacks s-2 to 2",
    ),
    "deaf from the start": (checkers.gaps, Story().subscribe().send(1), "to its end"),
    "deaf at the end": (checkers.gaps, Story().subscribe().send(1, 2).receive(1), "to its end"),
    "heard twice": (checkers.gaps, Story().subscribe().send(1).receive(1, 1), "got s-1 after 1"),
    "nobody listened": (checkers.gaps, Story().send(1), "proves nothing"),
    "an old token taken": (
        fenced,
        Story().acquire("a", 1).acquire("b", 2).use(2).use(1),
        "token 1 taken after 2",
    ),
    "a token twice": (fenced, Story().acquire("a", 1).acquire("b", 1).use(1), "two holders"),
    "a token that falls": (
        fenced,
        Story().acquire("a", 2).use(2).acquire("b", 1).use(1, "fail"),
        "not above",
    ),
    "nobody was stale": (fenced, Story().acquire("a", 1).use(1), "proves nothing"),
    "nobody used it": (fenced, Story(), "proves nothing"),
    "two holders": (checkers.exclusion, Story().acquire("a", 1).acquire("b", 2), "b beside a"),
    "a paused holder goes on": (
        checkers.lost_leases,
        Story().acquire("a", 1).fault("a", "pause").leave("a", 1),
        "not told",
    ),
    "nobody was paused at work": (checkers.lost_leases, Story().fault("a", "pause"), "nothing"),
    "deaf after a fault": (soon, Story().publish(1).fault().later(3).publish(2), "p 3"),
    "deaf for ever": (soon, Story().publish(1).fault(), "p inf"),
    "deaf after faults at once": (
        soon,
        Story()
        .publish(1)
        .add("test", "fault", "call", target="b", kind="cut")
        .fault()
        .add("test", "fault", "ok", target="b", kind="cut")
        .later(3)
        .publish(2),
        "p 3",
    ),
    "nobody was there": (soon, Story().fault(), "proves nothing"),
    "no fault": (checkers.faults, Story().publish(1), "no fault took effect"),
    "a fault while nobody worked": (
        checkers.faults,
        Story().publish(1).later(5).fault(),
        "no fault took effect",
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_histories(name: str) -> None:
    """A history in which everything was right is not objected to."""
    checker, story = SOUND[name]
    assert checker(story.events).violations == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_histories(name: str) -> None:
    """What must not happen is named."""
    checker, story, text = BROKEN[name]
    assert text in " ".join(checker(story.events).violations)


def test_dead_letters_are_not_lost() -> None:
    """A message that ended as a dead letter is accounted for."""
    story = Story().publish(1).handle(1, "fail")
    assert checkers.no_loss(story.events).violations != []
    assert checkers.no_loss(story.events, dead=["p-1"]).violations == []


def test_the_history_is_read_back(tmp_path: Path) -> None:
    """Events of several recorders come back in order of time; half a line is not yet one."""
    first, second = (history.Recorder(tmp_path, name) for name in "ab")
    first("publish", "call", key="a-1")
    second("handle", "ok", key="a-1")
    first("publish", "ok", key="a-1")
    first.close()
    second.close()
    events = history.read(tmp_path)
    assert [(event.process, event.op, event.phase) for event in events] == [
        ("a", "publish", "call"),
        ("b", "handle", "ok"),
        ("a", "publish", "ok"),
    ]
    assert events[0]["key"] == "a-1"
    with (tmp_path / "a.history").open("a") as file:
        file.write("[1, ")
    assert history.read(tmp_path) == events


def test_what_was_appended_is_read_on(tmp_path: Path) -> None:
    """A reader parses each line once, when it is whole, and puts late ones where they belong."""
    reader = history.Reader(tmp_path)
    assert reader.events() == []
    first = tmp_path / "a.history"
    first.write_text('[1, "a", "set", "ok", {}]\n[3, "a", "set", "ok", ')
    before = reader.events()
    assert [event.time for event in before] == [1]
    with first.open("a") as file:
        file.write("{}]\n")
    (tmp_path / "b.history").write_text('[2, "b", "set", "ok", {}]\n')
    assert [event.time for event in reader.events()] == [1, 2, 3]
    assert reader.events() == history.read(tmp_path)
    assert len(before) == 1
    first.write_text("")
    assert len(reader.events()) == 3


def test_figures_stand_in_one_line() -> None:
    """The report shows the figures of all checkers."""
    story = Story().publish(1).handle(1).fault()
    line = checkers.report(checkers.no_loss(story.events), checkers.faults(story.events))
    assert line.startswith("attempted 1 acknowledged 1 handled 1 lost 0")
    assert line.endswith("faults 1 hits 1")
