"""Locks in the broker: order, time, sessions, restarts."""

from corekit_zeromq.protocol import Op, Reply

from .peer import Bench, Peer


def acquire(peer: Peer, rid: int, ttl: float = 10, wait: float | None = None, name: str = "l"):
    """Ask for a lock; return the answer to *rid*, None if there is none yet."""
    peer.send([Op.LOCK_ACQUIRE, rid, name, ttl, wait])
    return answer(peer, rid)


def answer(peer: Peer, rid: int):
    """Return the answer to *rid*."""
    found = [command for command in peer.inbox if command[:2] == [Reply.OK, rid]]
    return found[-1][2] if found else "none yet"


def test_one_owner_at_a_time(bench: Bench) -> None:
    """A second one waits until the first releases; tokens grow."""
    one, two = bench.peer(), bench.peer()
    token, ttl, owner = acquire(one, 1)
    assert ttl == 10
    assert acquire(two, 1) == "none yet"
    one.send([Op.LOCK_RELEASE, 2, "l", owner])
    assert answer(two, 1)[0] > token


def test_waiters_are_served_in_order(bench: Bench) -> None:
    """Also when one in the middle gives up; what it did not get is nobody's."""
    peers = [bench.peer() for _ in range(4)]
    owner = acquire(peers[0], 1)[2]
    for peer in peers[1:]:
        assert acquire(peer, 1) == "none yet"
    peers[2].send([Op.LOCK_ABANDON, 1])
    peers[0].send([Op.LOCK_RELEASE, 2, "l", owner])
    owner = answer(peers[1], 1)[2]
    assert answer(peers[3], 1) == "none yet"
    peers[1].send([Op.LOCK_RELEASE, 2, "l", owner])
    assert answer(peers[3], 1) != "none yet"
    assert answer(peers[2], 1) == "none yet"


def test_waiting_ends(bench: Bench) -> None:
    """With wait 0 after one try, otherwise when the time is over."""
    one, two = bench.peer(), bench.peer()
    acquire(one, 1, ttl=100)
    assert acquire(two, 1, wait=0) is None
    assert acquire(two, 2, wait=1.5) == "none yet"
    assert bench.engine.next_alarm() == bench.now + 1.5
    bench.wait(1.5)
    assert answer(two, 2) is None


def test_a_lease_ends_by_its_time(bench: Bench) -> None:
    """Not earlier; the next waiter has it then, and the old owner cannot extend or free it."""
    one, two = bench.peer(), bench.peer()
    owner = acquire(one, 1, ttl=2)[2]
    acquire(two, 1)
    bench.wait(1.9)
    assert answer(two, 1) == "none yet"
    bench.wait(0.1)
    assert answer(two, 1) != "none yet"
    assert one.send([Op.LOCK_EXTEND, 5, "l", owner, 10], [Op.LOCK_RELEASE, 6, "l", owner]) == [
        [Reply.OK, 5, None],
        [Reply.OK, 6, None],
    ]
    assert acquire(bench.peer(), 1, wait=0) is None


def test_extending_counts_from_now(bench: Bench) -> None:
    """A lease may become longer and shorter."""
    one = bench.peer()
    owner = acquire(one, 1, ttl=2)[2]
    bench.wait(1)
    assert one.send([Op.LOCK_EXTEND, 5, "l", owner, 5]) == [[Reply.OK, 5, 5.0]]
    bench.wait(4.5)
    assert acquire(one, 2, wait=0) is None
    one.send([Op.LOCK_EXTEND, 6, "l", owner, 0.1])
    bench.wait(0.1)
    assert acquire(one, 3, wait=0) is not None


def test_a_grant_that_was_abandoned_is_released(bench: Bench) -> None:
    """The answer may have been on its way when the client gave up."""
    one = bench.peer()
    acquire(one, 1)
    one.send([Op.LOCK_ABANDON, 1])
    assert acquire(one, 2, wait=0) is not None


def test_a_guessed_owner_owns_nothing(bench: Bench) -> None:
    """Releasing or extending takes the owner's secret."""
    one, two = bench.peer(), bench.peer()
    acquire(one, 1)
    two.send([Op.LOCK_RELEASE, 2, "l", bytes(16)])
    assert two.send([Op.LOCK_EXTEND, 3, "l", b"", 5]) == [[Reply.OK, 3, None]]
    assert acquire(two, 4, wait=0) is None


def test_leases_survive_a_restart(bench: Bench) -> None:
    """Exactly those whose time is not over; tokens go on growing; the owner can extend."""
    one = bench.peer()
    token, _, owner = acquire(one, 1, ttl=10)
    acquire(one, 2, ttl=1, name="short")
    freed = acquire(one, 3, name="freed")[2]
    one.send([Op.LOCK_RELEASE, 4, "freed", freed])
    bench.now += 2
    bench.wall += 2
    bench.crash()
    again = bench.peer()
    assert acquire(again, 1, wait=0) is None
    assert acquire(again, 2, wait=0, name="short")[0] > token
    assert acquire(again, 3, wait=0, name="freed") is not None
    assert again.send([Op.LOCK_EXTEND, 5, "l", owner, 3]) == [[Reply.OK, 5, 3.0]]
    bench.wait(3)
    assert acquire(again, 6, wait=0)[0] > token


def test_locks_do_not_cost_queues_their_log(bench: Bench) -> None:
    """Grants and releases are records beside messages; a crash gives both back."""
    peer = bench.peer()
    peer.publish("m1")
    peer.send([Op.CONSUME, 1, "q"])
    bench.journal.checkpoint()
    peer.publish("m2")
    owner = acquire(peer, 1, name="freed")[2]
    token = acquire(peer, 2, name="held", ttl=100)[0]
    peer.send([Op.LOCK_RELEASE, 3, "freed", owner])
    peer.publish("m3")
    (messages,) = bench.journal.peek("SELECT count(*) FROM message").fetchone()
    (leases,) = bench.journal.peek("SELECT count(*) FROM lease").fetchone()
    assert (messages, leases) == (1, 0)
    bench.crash()
    again = bench.peer()
    assert bench.engine.queues.stats(bench.now, "q") == (3, 0, 0, 0)
    assert acquire(again, 1, name="held", wait=0) is None
    assert acquire(again, 2, name="freed", wait=0)[0] > token


def test_no_token_comes_twice(bench: Bench) -> None:
    """Also if nobody held anything at the crash."""
    peer = bench.peer()
    bench.journal.checkpoint()
    token, _, owner = acquire(peer, 1)
    peer.send([Op.LOCK_RELEASE, 2, "l", owner])
    bench.crash()
    assert acquire(bench.peer(), 1)[0] > token


def test_an_older_lease_does_not_bring_its_token_back(bench: Bench) -> None:
    """Who extends it is the last to be written: tokens that were given out since stay known."""
    peer = bench.peer()
    old = acquire(peer, 1, name="old", ttl=100)[2]
    token, _, owner = acquire(peer, 2, name="new", ttl=100)
    bench.journal.checkpoint()
    peer.send([Op.LOCK_RELEASE, 3, "new", owner])
    peer.send([Op.LOCK_EXTEND, 4, "old", old, 100])
    for _ in range(2):
        bench.crash()
    assert acquire(bench.peer(), 1, name="new")[0] > token


def test_a_grant_is_urgent_whatever_is_read_after_it(bench: Bench) -> None:
    """Reading brings the turn's changes into the transaction: it is committed in this turn."""
    journal = bench.journal
    assert not journal.urgent
    journal.keep_lease(("l", 1, b"owner", 5.0, 5.0))
    assert journal.urgent
    journal.reader()
    assert journal.urgent
    journal.commit()
    assert not journal.pending


def test_a_restart_with_the_clock_set_back(bench: Bench) -> None:
    """A lease is never held for longer than its whole ttl again."""
    acquire(bench.peer(), 1, ttl=10)
    bench.wall -= 7200
    bench.crash()
    peer = bench.peer()
    assert acquire(peer, 1, wait=0) is None
    bench.wait(10)
    assert acquire(peer, 2, wait=0) is not None


def test_an_extended_lease_belongs_to_the_new_session(bench: Bench) -> None:
    """The end of the session that acquired it does not free it any more, that of the new does."""
    one, two, three = bench.peer(), bench.peer(), bench.peer()
    owner = acquire(one, 1, ttl=100)[2]
    two.send([Op.LOCK_EXTEND, 1, "l", owner, 100])
    one.send([Op.BYE])
    assert acquire(three, 1, wait=0) is None
    two.send([Op.BYE])
    assert acquire(three, 2, wait=0) is not None


def test_what_nobody_holds_costs_nothing(bench: Bench) -> None:
    """After many locks nothing of them is left, in memory or on disk."""
    one, two = bench.peer(), bench.peer()
    for n in range(3000):
        owner = acquire(one, 2 * n, name=f"l{n}", ttl=50)[2]
        acquire(two, n, name=f"l{n}", wait=0.5)
        two.send([Op.LOCK_ABANDON, n])
        one.send([Op.LOCK_RELEASE, 2 * n + 1, f"l{n}", owner])
        one.inbox.clear()
    bench.journal.checkpoint()
    locks = bench.engine.locks
    assert len(locks._leases) == len(locks._waiters) == 0
    assert len(locks._alarms) < 3000
    assert bench.journal.execute("SELECT count(*) FROM lease").fetchone() == (0,)
    assert not any(session.acquired or session.waiting for session in bench.engine.sessions)
