"""Sessions: what survives a lost connection, and what ends with a session."""

from pathlib import Path

import pytest
from corekit_zeromq.broker.sessions import Session
from corekit_zeromq.protocol import ACKNOWLEDGE_FRAMES, MAGIC, VERSION, Op, Reply, encode

from ..batches import payloads_of, publish
from .peer import Bench, Peer, queue_publish


def test_frames_lost_with_a_connection_are_sent_again(bench: Bench) -> None:
    """After a reconnect the session goes on, and what was on its way arrives once, in order."""
    peer, other = bench.peer(), bench.peer()
    peer.send([Op.SUBSCRIBE, 1, "c", None, 0])
    bench.peers.pop(peer.route)  # the connection breaks: what is sent now is lost
    for n in range(3):
        other.send(publish("c", b"%d" % n))
    peer.inbox.clear()
    peer.hello(b"another route")
    assert peer.welcome[5] is True
    assert [payloads_of(command) for command in peer.inbox] == [[b"0"], [b"1"], [b"2"]]


def test_frames_sent_twice_count_once(bench: Bench) -> None:
    """A client that sends again what the broker got before does nothing twice."""
    peer = bench.peer()
    frame = encode(1, 0, [queue_publish("id")])
    peer.raw(frame)
    peer.raw(frame)
    assert bench.engine.queues.stats(bench.now, "q") == (1, 0, 0, 0)


def test_a_lost_frame_breaks_the_connection_not_the_session(bench: Bench) -> None:
    """After a hole in the numbers the client is told to say HELLO, and resumes."""
    peer = bench.peer()
    peer.raw(encode(2, 0, [publish("c", b"x")]))
    assert peer.inbox == [[Reply.UNKNOWN]]
    peer.hello()
    assert peer.welcome[5] is True
    assert peer.welcome[6] == 0


def test_the_secret_is_needed(bench: Bench) -> None:
    """Who knows a session's id only gets a session of its own."""
    peer = bench.peer()
    thief = Peer(bench, b"thief")
    thief.session, thief.secret = peer.session, bytes(16)
    thief.hello()
    assert thief.welcome[5] is False
    assert thief.session != peer.session
    assert peer.send([Op.QUEUE_STATS, 5, "q"]) == [[Reply.OK, 5, [0, 0, 0, 0]]]


def test_the_key_is_needed(bench: Bench) -> None:
    """A session cannot be resumed with another client's key, even with its secret."""
    peer = bench.peer(user="key A")
    peer.user = "key B"
    peer.hello(b"another route")
    assert peer.welcome[5] is False


def test_silence_ends_a_session(bench: Bench) -> None:
    """Its deliveries go to others at once, with a death counted; its locks are freed."""
    peer, other = bench.peer(), bench.peer()
    peer.publish("id")
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1], [Op.LOCK_ACQUIRE, 2, "l", 100, None])
    other.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1], [Op.LOCK_ACQUIRE, 2, "l", 100, None])
    other.inbox.clear()
    for _ in range(12):
        other.raw(encode(0, 0, []))
        bench.wait(1)
    kinds = [command[0] for command in other.inbox]
    assert sorted(kinds) == [Reply.OK, Reply.DELIVERIES]
    (delivery,) = other.inbox[kinds.index(Reply.DELIVERIES)][2]
    assert delivery[3:5] == [1, 1]
    assert len(bench.engine.sessions) == 1


def test_a_farewell_counts_no_death(bench: Bench) -> None:
    """BYE gives deliveries back uncounted."""
    peer, other = bench.peer(), bench.peer()
    peer.publish("id")
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    peer.send([Op.BYE])
    delivered = other.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    assert delivered[0][2][0][3:5] == [1, 0]


def test_heartbeats(bench: Bench) -> None:
    """A client hears something at least each heartbeat; any frame of its own keeps it alive."""
    peer = bench.peer()
    bench.now += bench.limits.heartbeat
    ((route, data),) = bench.engine.heartbeats(bench.now)
    assert (route, data) == (peer.route, encode(0, 0, []))
    assert bench.engine.heartbeats(bench.now) == []


def test_many_frames_are_acknowledged(bench: Bench) -> None:
    """A client that is told nothing else learns that its frames arrived."""
    peer = bench.peer()
    got: list[bytes] = []
    bench.bring = lambda _, data: got.append(data)  # type: ignore[method-assign]
    for _ in range(ACKNOWLEDGE_FRAMES):
        peer.send([Op.UNSUBSCRIBE, "c"])
    assert got == [encode(0, ACKNOWLEDGE_FRAMES, [])]


def test_what_is_acknowledged_is_forgotten(bench: Bench) -> None:
    """The broker keeps what it sent until the client has it, and not longer."""
    peer = bench.peer()
    peer.publish("id", b"x" * 1000)
    (session,) = bench.engine.sessions
    assert len(session.unacknowledged) == 1
    peer.raw(encode(0, peer.received, []))
    assert not session.unacknowledged
    assert session.outstanding == 0


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        ([Op.HELLO, MAGIC, VERSION + 1, "anything"], "version_mismatch"),
        ([Op.HELLO, MAGIC, 0], "version_mismatch"),
        ([Op.HELLO, "others", VERSION, b"", b"", 0, {}], "invalid_argument"),
        ([Op.HELLO, MAGIC, VERSION, b"", b"", -1, {}], "invalid_argument"),
        ([Op.HELLO, MAGIC, VERSION, b"", b""], "invalid_argument"),
        ([Op.HELLO, MAGIC, VERSION, "text", b"", 0, {}], "invalid_argument"),
        ([Op.HELLO, MAGIC, VERSION, bytes(65), b"", 0, {}], "message_too_large"),
        ([Op.HELLO], "invalid_argument"),
    ],
)
def test_a_bad_hello_is_refused(bench: Bench, hello: list[object], code: str) -> None:
    """The client is told why; no session is made for it."""
    peer = Peer(bench, b"r")
    peer.raw(encode(0, 0, [hello]))
    assert [command[:2] for command in peer.inbox] == [[Reply.REFUSED, code]]
    assert len(bench.engine.sessions) == 0


def test_nothing_is_done_before_hello(bench: Bench) -> None:
    """A command of a stranger makes no state; it is told, once in a while."""
    peer = Peer(bench, b"r")
    for _ in range(50):
        peer.raw(encode(1, 0, [queue_publish("id")]))
    assert peer.inbox == [[Reply.UNKNOWN]]
    assert len(bench.engine.queues) == 0


def test_the_number_of_sessions_is_limited(tmp_path: Path) -> None:
    """One too many is refused with a reason; those that are there go on."""
    bench = Bench(tmp_path, sessions=2)
    peers = [bench.peer(), bench.peer()]
    third = Peer(bench, b"third")
    third.hello()
    assert third.inbox[0][:2] == [Reply.REFUSED, "backend_unavailable"]
    assert peers[0].publish("id") == "id"


def test_one_request_may_have_many_outcomes(tmp_path: Path) -> None:
    """Duplicates get the id of the first, what finds no room is refused, the rest is queued."""
    peer = Bench(tmp_path, queue_messages=3).peer()
    peer.publish("first", dedup="key")
    messages = [["a", b""], ["b", b"", 0, "key"], ["c", b"", 5, None], ["d", b""], ["e", b""]]
    ((reply, rid, outcomes),) = peer.send([Op.QUEUE_PUBLISH, 7, "q", messages])
    assert (reply, rid) == (Reply.OK, 7)
    assert outcomes[:3] == [None, "first", None]
    assert [code for code, _ in outcomes[3:]] == ["queue_full", "queue_full"]
    assert peer.send([Op.QUEUE_STATS, 8, "q"]) == [[Reply.OK, 8, [2, 1, 0, 0]]]


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [("queue_messages", 3, "3 of 3 messages"), ("queue_bytes", 30, "30 of 30 bytes")],
)
def test_what_of_a_request_finds_room_is_queued(
    tmp_path: Path, limit: str, most: int, said: str
) -> None:
    """Messages that do not all fit are queued as far as they do; the rest is told what is full."""
    peer = Bench(tmp_path, **{limit: most}).peer()
    peer.publish("first", bytes(10))
    messages = [[id_, bytes(10)] for id_ in "abcd"]
    ((_, _, outcomes),) = peer.send([Op.QUEUE_PUBLISH, 7, "q", messages])
    assert outcomes[:2] == [None, None]
    assert [code for code, _ in outcomes[2:]] == ["queue_full", "queue_full"]
    assert all(said in text for _, text in outcomes[2:])
    assert peer.send([Op.QUEUE_STATS, 8, "q"]) == [[Reply.OK, 8, [3, 0, 0, 0]]]


def test_a_request_without_messages_is_answered(bench: Bench) -> None:
    """To publish nothing succeeds, and makes no queue, nor a message in one that is there."""
    peer = bench.peer()
    assert peer.send([Op.QUEUE_PUBLISH, 7, "q", []]) == [[Reply.OK, 7, None]]
    assert len(bench.engine.queues) == 0
    peer.publish("first")
    assert peer.send([Op.QUEUE_PUBLISH, 8, "q", []]) == [[Reply.OK, 8, None]]
    assert peer.send([Op.QUEUE_STATS, 9, "q"]) == [[Reply.OK, 9, [1, 0, 0, 0]]]


def test_a_client_that_does_not_read_is_ended(tmp_path: Path) -> None:
    """Answers do not pile up without bound."""
    bench = Bench(tmp_path, outstanding=1000, replies=10_000)
    peer = bench.peer()
    peer.send([Op.CACHE_SET, 1, "s", True, {"k": b"x" * 3000}, None])
    for rid in range(5):
        peer.sent += 1
        peer.raw(encode(peer.sent, 0, [[Op.CACHE_GET, rid, "s", ["k"]]]))
    assert len(bench.engine.sessions) == 0


def test_sessions_that_do_not_read_end_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if two of them have too much in one turn, and one's end is told to the other."""
    bench = Bench(tmp_path, replies=3000)
    first, second = bench.peer(), bench.peer()
    engine = bench.engine
    ended: list[object] = []
    end = engine.end

    def noted(session: Session, *, died: bool) -> None:
        ended.append(session)
        end(session, died=died)

    monkeypatch.setattr(engine, "end", noted)
    for peer in (first, second):
        for number in range(1, 121):
            engine.receive(peer.route, encode(number, 0, [[Op.STATUS, number]]))
    engine.finish()
    assert len(ended) == len({*ended}) == 2


def test_what_was_never_sent_cannot_be_acknowledged(bench: Bench) -> None:
    """Whoever claims to have it loses the session; the others, and the broker, go on."""
    peer, other = bench.peer(), bench.peer()
    for number in range(1, 4):
        peer.raw(encode(number, 0, [[Op.STATUS, number]]))
    last = peer.received
    bench.wait(1)
    # Over this connection it asks for all of them again, and says that it has them already.
    hello = [Op.HELLO, MAGIC, VERSION, peer.session, peer.secret, 0, {}]
    peer.received = 0
    bench.turn((peer.route, encode(0, 0, [hello])), (peer.route, encode(0, last, [])))
    assert peer.inbox[-1][0] == Reply.REFUSED
    assert peer.received == last
    assert len(bench.engine.sessions) == 1
    assert other.send([Op.STATUS, 5])[0][:2] == [Reply.OK, 5]


def test_what_such_a_client_held_is_told_to_who_waits(tmp_path: Path) -> None:
    """Its end frees a lock: the next one hears of that, though nothing else is said to it."""
    bench = Bench(tmp_path, replies=3000)
    peer, other = bench.peer(), bench.peer()
    peer.send([Op.LOCK_ACQUIRE, 1, "l", 100, None])
    assert other.send([Op.LOCK_ACQUIRE, 7, "l", 100, None]) == []
    while len(bench.engine.sessions) == 2:
        # Nothing is ever acknowledged.
        peer.sent += 1
        bench.turn((peer.route, encode(peer.sent, 0, [[Op.STATUS, peer.sent]])))
    ((reply, rid, grant),) = other.inbox
    assert (reply, rid, grant[0]) == (Reply.OK, 7, 2)


def test_deliveries_can_be_claimed_after_a_restart(bench: Bench) -> None:
    """A consumer that outlives the broker goes on with what it holds; nobody else gets it."""
    peer, other = bench.peer(), bench.peer()
    peer.publish("held")
    peer.publish("waiting")
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    token = delivered[2][0][0]
    old = peer.session, peer.secret
    bench.crash()
    # The other one is first, but has to wait for the one that may claim.
    other.inbox.clear()
    other.hello(b"o")
    assert other.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 10]) == []
    peer.session, peer.secret = old
    peer.hello(b"p")
    assert peer.welcome[5] is False
    ((_, _, tokens),) = peer.send([Op.CONSUME, 1, "q"], [Op.CLAIM, 5, 1, [token, token, b"?"]])
    assert tokens[0] is not None
    assert tokens[1:] == [None, None]
    assert [one[1] for command in other.inbox for one in command[2]] == ["waiting"]
    assert peer.send([Op.ACK, 1, [tokens[0]]]) == []
    assert bench.engine.queues.stats(bench.now, "q") == (0, 0, 1, 0)


def test_what_was_claimed_and_given_back_keeps_its_place(tmp_path: Path) -> None:
    """It does not come before what waits ahead of it, though only claimed messages are read."""
    bench = Bench(tmp_path, window_count=1)
    peer = bench.peer()
    for id_ in "abc":
        peer.publish(id_)
    peer.inbox.clear()
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 3])
    held = {one[1]: one[0] for command in peer.inbox for one in command[2]}
    peer.send([Op.RELEASE, 1, held["b"], False])
    bench.crash()
    peer.hello(b"again")
    claim = [Op.CLAIM, 5, 1, [held["a"], held["c"]]]
    ((_, _, (_, last)),) = peer.send([Op.CONSUME, 1, "q"], claim)
    peer.send([Op.RELEASE, 1, last, False])
    peer.inbox.clear()
    for _ in range(2):
        peer.send([Op.CREDIT, 1, 1])
    assert [one[1] for command in peer.inbox for one in command[2]] == ["b", "c"]


def test_who_holds_all_it_may_gets_nothing_more(tmp_path: Path) -> None:
    """Also if it has claimed it: nobody waits for it, and others get what there is."""
    bench = Bench(tmp_path, credit=2)
    peer = bench.peer()
    for id_ in "abcd":
        peer.publish(id_)
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 2])
    claim = [Op.CLAIM, 5, 1, [one[0] for one in delivered[2]]]
    bench.crash()
    peer.hello(b"again")
    peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 2], claim, [Op.CREDIT, 1, 0])
    peer.inbox.clear()
    bench.turn()
    assert not bench.engine.queues.busy
    other = bench.peer()
    other.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 2])
    assert [one[1] for command in other.inbox for one in command[2]] == ["c", "d"]
    assert peer.inbox == []


def test_claims_are_not_waited_for_long(bench: Bench) -> None:
    """If a session of the former life does not come back, others get its messages."""
    bench.peer().publish("id")
    bench.crash()
    other = bench.peer()
    assert other.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1]) == []
    assert bench.engine.next_alarm() == bench.now + bench.limits.reclaim
    bench.wait(bench.limits.reclaim)
    assert other.inbox[0][0] == Reply.DELIVERIES


def holding(bench: Bench) -> tuple[Peer, bytes]:
    """Return a client that holds the one message there is, and its token."""
    peer = bench.peer()
    peer.publish("held")
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    token: bytes = delivered[2][0][0]
    return peer, token


def claims(peer: Peer, token: bytes) -> bool:
    """Consume again and claim *token*; return whether the broker agrees."""
    ((_, _, (new,)),) = peer.send([Op.CONSUME, 1, "q"], [Op.CLAIM, 5, 1, [token]])
    return new is not None


def test_the_broker_may_die_again_before_its_clients_are_back(bench: Bench) -> None:
    """They claim what they hold in whichever life they meet; nobody else gets it before."""
    (peer, token), early = holding(bench), bench.peer()
    for _ in range(3):
        bench.crash()
        # One is quick, and makes the broker write; the other did not know of this life.
        early.hello(b"early")
        assert early.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1]) == []
        bench.wait(bench.limits.reclaim / 2)
    peer.hello(b"late")
    assert claims(peer, token)
    assert early.inbox == []


def test_a_welcome_may_be_lost(bench: Bench) -> None:
    """Who says HELLO again, in the same life or the next, with the session it knows may claim."""
    peer, token = holding(bench)
    old = peer.session, peer.secret
    for crash in (True, False, True):
        if crash:
            bench.crash()
        peer.hello(b"%d" % bench.engine.epoch)
        assert peer.welcome[5] is False
        peer.session, peer.secret = old
    peer.hello(b"at last")
    assert claims(peer, token)
    assert bench.engine.sessions.former.awaited_until is not None, "of lives in between"


def test_sessions_that_do_not_come_back_are_forgotten(bench: Bench) -> None:
    """A second life does not wait for those that the first one has given up."""
    peer, token = holding(bench)
    bench.crash()
    bench.wait(bench.limits.reclaim)
    bench.crash()
    assert bench.engine.sessions.former.awaited_until is None
    peer.hello(b"too late")
    assert not claims(peer, token)


def test_strangers_claim_nothing(bench: Bench) -> None:
    """Without the secret of a former session a token is worth nothing."""
    peer = bench.peer()
    peer.publish("id")
    (delivered,) = peer.send([Op.CONSUME, 1, "q"], [Op.CREDIT, 1, 1])
    bench.crash()
    stranger = bench.peer()
    answer = stranger.send([Op.CONSUME, 1, "q"], [Op.CLAIM, 5, 1, [delivered[2][0][0]]])
    assert answer == [[Reply.OK, 5, [None]]]


def test_the_brokers_own_absence_is_nobodys_death(bench: Bench) -> None:
    """Time in which the broker was stopped is given back to the sessions."""
    bench.peer()
    bench.engine.sessions.extend(3600)
    bench.wait(3600)
    assert len(bench.engine.sessions) == 1
