"""Messages whose consumers die again and again come back ever later."""

from typing import Any

import pytest
from corekit_zeromq.protocol import Op, Reply

from .peer import Bench, Peer

#: What passes between a death and the next delivery: at once, then doubled, then the time-out.
WAITS = [0, 1, 2, 4, 8, 10, 10, 10, 10]


def consuming(bench: Bench, credit: int = 1) -> Peer:
    """Return a client that asks for messages of the queue."""
    peer = bench.peer()
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, credit])
    return peer


def delivered(peer: Peer) -> list[tuple[str, int, int]]:
    """Return id, attempt and deaths of everything that *peer* was handed."""
    batches: list[list[Any]] = [one[2] for one in peer.inbox if one[0] == Reply.DELIVERIES]
    return [(one[1], one[3], one[4]) for batch in batches for one in batch]


def die(bench: Bench, peer: Peer) -> None:
    """Let the process of *peer* die, which is noticed at once."""
    session = bench.engine.sessions.by_route.get(peer.route)
    assert session is not None
    bench.engine.orphan(bench.now, session)
    bench.engine.sessions.gone(peer.route)
    bench.turn(tick=True)
    assert session.ended


def last_token(peer: Peer) -> bytes:
    """Return the token of the last message that *peer* was handed."""
    batches: list[list[Any]] = [one[2] for one in peer.inbox if one[0] == Reply.DELIVERIES]
    token: bytes = batches[-1][-1][0]
    return token


def stats(bench: Bench) -> tuple[int, int, int, int]:
    """Return how many messages are ready, delayed, in flight and dead."""
    return bench.engine.queues.stats(bench.now, "q")


def test_each_further_death_doubles_the_wait(bench: Bench) -> None:
    """It is delayed meanwhile and not handed out; all deaths count, and no attempt does."""
    bench.peer().publish("deadly")
    for deaths, wait in enumerate(WAITS, 1):
        die(bench, consuming(bench))
        peer = consuming(bench)
        if wait:
            assert stats(bench) == (0, 1, 0, 0)
            bench.wait(wait - 0.25)
            assert delivered(peer) == []
            peer.raw(b"\x93\x00\x00\x90")
            bench.wait(0.25)
        assert delivered(peer) == [("deadly", 1, deaths)]
        assert stats(bench) == (0, 0, 1, 0)
        peer.send([Op.REVOKE, 1], [Op.RELEASE, 1, last_token(peer), False], [Op.BYE])


def test_others_go_ahead_and_it_comes_back_at_its_place(bench: Bench) -> None:
    """What waits holds nobody up; when its time has come it is before all that is younger."""
    publisher = bench.peer()
    for id_ in ("deadly", "a", "b"):
        publisher.publish(id_)
    die(bench, consuming(bench))
    die(bench, consuming(bench))
    other = consuming(bench)
    assert delivered(other) == [("a", 1, 0)]
    assert stats(bench) == (1, 1, 1, 0)
    bench.wait(1)
    other.send([Op.CREDIT, 1, 2])
    assert delivered(other)[1:] == [("deadly", 1, 2), ("b", 1, 0)]


def test_what_was_ready_with_it_counts_alike(bench: Bench) -> None:
    """All that one consumer held dies with it, and keeps its order."""
    publisher = bench.peer()
    for id_ in ("a", "deadly", "c"):
        publisher.publish(id_)
    die(bench, consuming(bench, 3))
    die(bench, consuming(bench, 3))
    assert stats(bench) == (0, 3, 0, 0)
    other = consuming(bench, 3)
    bench.wait(1)
    assert delivered(other) == [("a", 1, 2), ("deadly", 1, 2), ("c", 1, 2)]


def test_a_restart_changes_nothing_of_the_wait(bench: Bench) -> None:
    """The message, its deaths, and the time that is left are on disk."""
    bench.peer().publish("deadly")
    for wait in (0, 1):
        die(bench, consuming(bench))
        bench.wait(wait)
    die(bench, consuming(bench))
    bench.wait(0.5)
    bench.crash()
    assert stats(bench) == (0, 1, 0, 0)
    bench.wait(1.25)
    peer = consuming(bench)
    assert delivered(peer) == []
    bench.wait(0.25)
    assert delivered(peer) == [("deadly", 1, 3)]


def test_a_token_from_before_a_death_claims_nothing(bench: Bench) -> None:
    """Nobody can take a message out of its wait by it, in the broker's next life either."""
    living = bench.peer()
    living.publish("deadly")
    die(bench, consuming(bench))
    dead = consuming(bench)
    token = last_token(dead)
    die(bench, dead)
    bench.crash()
    living.hello(b"new route")
    assert bench.engine.sessions.by_route.get(b"new route").may_claim  # type: ignore[union-attr]
    (answer,) = living.send([Op.CONSUME, 1, "q"], [Op.CLAIM, 1, 1, [token]])
    assert answer == [Reply.OK, 1, [None]]
    assert stats(bench) == (0, 1, 0, 0)


def test_after_a_time_out_nothing_is_left_of_the_wait(bench: Bench) -> None:
    """It took its time already, as long as the longest wait."""
    bench.peer().publish("slow")
    for deaths in range(1, 6):
        silent = consuming(bench)
        assert delivered(silent) == [("slow", 1, deaths - 1)]
        bench.wait(bench.limits.session_timeout)
        assert stats(bench) == (1, 0, 0, 0)


@pytest.mark.parametrize("deaths", [3, 50])
def test_what_is_given_back_is_there_at_once(bench: Bench, deaths: int) -> None:
    """Who gives a message back lives, and says that nothing has to be waited for."""
    bench.peer().publish("a")
    peer = consuming(bench, deaths + 1)
    for count in range(deaths):
        assert delivered(peer)[-1] == ("a", 1, count)
        peer.send([Op.RELEASE, 1, last_token(peer), True])
    assert delivered(peer)[-1] == ("a", 1, deaths)


def test_no_count_of_deaths_is_too_high(bench: Bench) -> None:
    """The wait never exceeds the time-out, whoever lets it come so far."""
    bench.peer().publish("a")
    peer = consuming(bench, 1_101)
    for _ in range(1_100):
        peer.send([Op.RELEASE, 1, last_token(peer), True])
    die(bench, peer)
    other = consuming(bench)
    bench.wait(bench.limits.session_timeout - 0.25)
    assert delivered(other) == []
    other.raw(b"\x93\x00\x00\x90")
    bench.wait(0.25)
    assert delivered(other) == [("a", 1, 1_101)]
