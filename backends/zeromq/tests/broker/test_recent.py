"""Which publishes are known to be repeated: within the window, up to a number, after a restart."""

import pytest
from corekit_zeromq.broker import deduplication
from corekit_zeromq.broker.recent import _PART, RecentIds
from corekit_zeromq.protocol import Op, Reply

from .peer import Bench


def test_the_latest_of_a_former_life_are_forgotten_last() -> None:
    """New ids take the place of the oldest ones, a part at a time, not of all at once."""
    most = 3 * _PART
    recent = RecentIds(60.0, most)
    recent.load((("q", f"old{n}") for n in range(most)), 0.0)
    for n in range(2 * _PART):
        recent.add("q", f"new{n}", 1.0)
    assert recent.contains("q", "old0")
    assert not recent.contains("q", f"old{most - 1}")
    for n in range(2 * _PART, 5 * _PART):
        recent.add("q", f"new{n}", 1.0)
    assert not recent.contains("q", "old0")
    assert len(recent) <= most + _PART


def test_deduplication_is_bounded_at_any_rate(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over is removed as quickly as more comes, and what is not is known."""
    monkeypatch.setattr(deduplication, "_STEP", 10)
    monkeypatch.setattr(bench.engine.queues._dedup, "_limits", bench.limits)
    window = int(bench.limits.dedup_window)
    peer = bench.peer()
    peer.send([Op.CONSUME, 1, "q"])
    rows = []
    for second in range(3 * window):
        ids = [f"{second}-{n}" for n in range(30)]
        peer.send([Op.QUEUE_PUBLISH, 1, "q", [[id_, b"", 0, id_] for id_ in ids]])
        peer.inbox.clear()
        peer.send([Op.CREDIT, 1, 30])
        tokens = [
            one[0] for command in peer.inbox for one in command[2] if command[0] == Reply.DELIVERIES
        ]
        assert len(tokens) == 30
        peer.send([Op.ACK, 1, tokens])
        bench.wait(1)
        rows.append(bench.journal.execute("SELECT count(*) FROM dedup").fetchone()[0])
    assert rows[window - 2] >= 30 * (window - 2)
    assert max(rows) <= 30 * (window + 2)
