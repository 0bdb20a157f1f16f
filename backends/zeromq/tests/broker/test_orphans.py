"""Sessions whose process has died: what they said counts, then they end at once."""

from pathlib import Path
from typing import Any

import pytest
from corekit_zeromq.broker.sessions import Session
from corekit_zeromq.process_identity import own_identity, process_claim, read_claim, start_time
from corekit_zeromq.protocol import Op, Reply, encode
from corekit_zeromq.settings import Settings
from hypothesis import given
from hypothesis import strategies as st

from corekit.config import BackendURL
from corekit.testing.contexts import make_context

from .peer import Bench, Peer


def holder(bench: Bench) -> tuple[Peer, Session, bytes]:
    """Return a peer that holds a message of the queue, its session, and the message's token."""
    peer = bench.peer()
    peer.publish("a")
    peer.publish("b")
    answers = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    session = bench.engine.sessions.by_route.get(peer.route)
    assert session is not None
    return peer, session, answers[0][2][0][0]


def waiting(bench: Bench) -> Peer:
    """Return a peer that wants messages of the queue, and got the second."""
    other = bench.peer()
    other.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 10])
    other.inbox.clear()
    return other


def tick(bench: Bench, *, drained: bool = True) -> None:
    """Take a turn with housekeeping."""
    bench.engine.now, bench.engine.wall = bench.now, bench.wall
    bench.engine.tick(drained=drained)
    bench.turn()


def test_it_ends_when_its_connection_has_gone_and_all_was_read(bench: Bench) -> None:
    """Neither before the connection has gone, nor before everything it brought was read."""
    peer, session, token = holder(bench)
    other = waiting(bench)
    bench.engine.orphan(bench.now, session)
    tick(bench)
    assert not session.ended
    bench.engine.sessions.gone(peer.route)
    tick(bench, drained=False)
    assert not session.ended
    # An acknowledgement that was on its way counts.
    bench.turn((peer.route, encode(peer.sent + 1, 0, [[Op.ACK, 1, [token]]])))
    tick(bench)
    assert not session.ended
    tick(bench)
    assert session.ended
    assert other.inbox == []
    assert bench.engine.queues.stats(bench.now, "q") == (0, 0, 1, 0)


def test_what_it_held_goes_on_in_the_same_turn(bench: Bench) -> None:
    """With a death counted; locks and their queues are freed, too."""
    peer, session, _ = holder(bench)
    peer.send([Op.LOCK_ACQUIRE, 2, "l", 100, None])
    other = waiting(bench)
    other.send([Op.LOCK_ACQUIRE, 2, "l", 100, None])
    bench.engine.orphan(bench.now, session)
    bench.engine.sessions.gone(peer.route)
    tick(bench)
    kinds = {command[0]: command for command in other.inbox}
    assert [one[1:5] for one in kinds[Reply.DELIVERIES][2]] == [["a", b"x", 1, 1]]
    assert kinds[Reply.OK][2] is not None


def test_the_dead_get_no_messages(bench: Bench) -> None:
    """From the moment in which the death is known, whatever credit was left."""
    peer = bench.peer()
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 10])
    session = bench.engine.sessions.by_route.get(peer.route)
    assert session is not None
    bench.engine.orphan(bench.now, session)
    bench.peer().publish("a")
    assert bench.engine.queues.stats(bench.now, "q") == (1, 0, 0, 0)


def test_a_connection_that_is_kept_open_is_not_waited_for_long(bench: Bench) -> None:
    """Only as long as something comes from it."""
    peer, session, _ = holder(bench)
    bench.engine.orphan(bench.now, session)
    for _ in range(5):
        bench.now += 0.2
        peer.send([Op.UNSUBSCRIBE, "c"])
        tick(bench)
    assert not session.ended
    bench.now += 0.3
    tick(bench, drained=False)
    assert session.ended


def test_an_orphan_is_spoken_to(bench: Bench) -> None:
    """Each time heartbeats are asked for: that is how a connection is found to have gone."""
    peer, session, _ = holder(bench)
    assert bench.engine.heartbeats(bench.now) == []
    bench.engine.orphan(bench.now, session)
    for _ in range(2):
        assert [route for route, _ in bench.engine.heartbeats(bench.now)] == [peer.route]


def test_a_lost_connection_is_forgotten_when_all_was_read(bench: Bench) -> None:
    """Frames that come under its name later are those of a stranger; the session can go on."""
    peer, session, _ = holder(bench)
    bench.engine.sessions.gone(peer.route)
    tick(bench)
    assert bench.engine.sessions.by_route.get(peer.route) is None
    peer.inbox.clear()
    bench.turn((peer.route, encode(peer.sent + 1, 0, [[Op.CANCEL, 1]])))
    assert peer.inbox == [[Reply.UNKNOWN]]
    peer.hello(b"another route")
    assert peer.welcome[5] is True
    assert not session.ended


class Watch:
    """Stands for `Processes`; every process can be watched."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def watch(self, session: Session, process: Any) -> bool:
        self.calls.append(("watch", process.pid))
        return True

    def forget(self, session: Session, process: Any) -> None:
        self.calls.append(("forget", process.pid))


def test_the_last_claim_counts(tmp_path: Path) -> None:
    """A process is watched once, until the session names another or ends; a death stays known."""
    bench = Bench(tmp_path)
    watch = Watch()
    bench.engine.sessions._processes = watch  # type: ignore[assignment]
    claim = {"pid": 7, "started": 1, "boot": "b", "namespace": 2}
    peer = Peer(bench, b"r")
    peer.info = {"process": claim}
    peer.hello()
    session = bench.engine.sessions.by_route.get(b"r")
    assert session is not None
    bench.engine.orphan(bench.now, session)
    bench.now += 0.1
    peer.hello(b"s")
    assert watch.calls == [("watch", 7)]
    assert session in bench.engine.sessions.orphans
    peer.info = {"process": {**claim, "pid": 8}}
    peer.hello(b"t")
    assert session not in bench.engine.sessions.orphans
    peer.send([Op.BYE])
    assert watch.calls == [("watch", 7), ("forget", 7), ("watch", 8), ("forget", 8)]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["process", "pid", "started", "boot", "namespace"]), inner
            )
        ),
    )
)
def test_a_claim_may_be_anything(value: object) -> None:
    """What is no claim is left out; what is one holds a pid that the system takes."""
    identity = read_claim(value)
    if identity is not None:
        assert 0 < identity.pid < 1 << 31


own = pytest.mark.skipif(own_identity() is None, reason="the system tells no identities")


@own
def test_a_claim_is_read_as_it_was_made() -> None:
    """Over the loopback and sockets; brokers elsewhere learn nothing of the process."""

    def claim(url: str) -> dict[str, object]:
        return process_claim(Settings.parse(BackendURL.parse(url), make_context()))

    for url in (
        "zmq://127.0.0.1",
        "zmq://[::1]",
        "zmq://localhost",
        "zmq+ipc:///s",
        "zmq+local://n",
    ):
        assert read_claim(claim(url)) == own_identity()
    for url in ("zmq://10.0.0.1", "zmq://example.org", "zmq://[fe80::1]"):
        assert claim(url) == {}


@own
def test_a_programs_name_may_hold_anything() -> None:
    """The start time is found behind parentheses and blanks in the name."""
    identity = own_identity()
    assert identity is not None
    file = Path("/proc/self/comm")
    name = file.read_text()
    file.write_text("a) 1 (b) 2")
    try:
        assert own_identity() == identity
        assert start_time(identity.pid) == identity.started
    finally:
        file.write_text(name.strip())
    assert start_time(1 << 30) is None
