"""The rows of the queues: what a purge leaves, and what housekeeping removes of it."""

from __future__ import annotations

from itertools import pairwise

from corekit_zeromq.protocol import Op, Reply

from .peer import Bench


def test_housekeeping_removes_all_that_was_purged(bench: Bench) -> None:
    """Messages and dead letters, little by little, and at last what had their number."""
    peer = bench.peer()
    for number in range(6):
        peer.publish(f"m{number}", delay=100 if number % 2 else 0)
    bench.wait(bench.limits.reclaim)
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 2])
    for one in delivered[2]:
        peer.send([Op.BURY, 1, one[0], "broken"])
    assert bench.engine.queues.stats(bench.now, "q") == (1, 3, 0, 2)
    assert peer.send([Op.PURGE, 1, "q"]) == [[Reply.OK, 1, 6]]
    rows = (
        "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM dead), "
        "(SELECT count(*) FROM channel)"
    )
    left = [bench.journal.execute(rows).fetchone()]
    while bench.journal.channels.sweep(2):
        left.append(bench.journal.execute(rows).fetchone())
    assert left[:2] == [(4, 2, 2), (2, 2, 2)]
    assert all(sum(before) - sum(after) <= 2 for before, after in pairwise(left))
    assert bench.journal.execute(rows).fetchone() == (0, 0, 1)


def test_housekeeping_with_nothing_to_do_commits_nothing(bench: Bench) -> None:
    """A broker at rest leaves the disk at rest."""
    bench.peer().publish("one")
    assert not bench.journal.pending
    assert not bench.journal.channels.sweep(100)
    assert not bench.journal.pending
