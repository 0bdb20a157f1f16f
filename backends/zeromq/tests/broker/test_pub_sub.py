"""Pub/sub in the broker: order, replay, gaps, slow subscribers."""

import tempfile
from pathlib import Path

import pytest
from corekit_zeromq.protocol import Op, Reply, encode
from hypothesis import given, settings
from hypothesis import strategies as st

from ..batches import messages, payloads_of, publish
from .peer import Bench, Peer


def received(peer: Peer) -> list[bytes | str]:
    """Return the payloads in the peer's inbox; a gap is told as "gap"."""
    seen: list[bytes | str] = []
    for command in peer.inbox:
        if command[0] == Reply.MESSAGES:
            seen += payloads_of(command)
        elif command[0] == Reply.GAP:
            seen.append("gap")
    return seen


def subscribe(peer: Peer, epoch: int | None = None, seq: int = 0) -> int:
    """Subscribe and return the number of the next message."""
    before = len(peer.inbox)
    peer.send([Op.SUBSCRIBE, 1, "c", epoch, seq])
    kind, rid, answer = peer.inbox[before]
    assert (kind, rid) == (Reply.OK, 1)
    return int(answer)


def test_every_subscriber_gets_every_message(bench: Bench) -> None:
    """In the order of publishing, the publisher too; what was published before does not come."""
    one, two = bench.peer(), bench.peer()
    one.send(publish("c", b"before"))
    assert subscribe(one) == subscribe(two) == 2
    two.send(publish("c", b"a", b"b"), publish("other", b"x"), publish("c", b"c"))
    assert received(one) == received(two) == [b"a", b"b", b"c"]


def test_one_turn_is_one_command(bench: Bench) -> None:
    """What was published in one turn goes out together, encoded once for all subscribers."""
    one, two = bench.peer(), bench.peer()
    subscribe(one), subscribe(two)
    frames = [(one.route, encode(n, 0, [publish("c", b"%d" % n)])) for n in (2, 3, 4)]
    bench.turn(*frames)
    assert two.inbox[1:] == [messages("c", 1, [b"2"], [b"3"], [b"4"])]


def test_subscribing_within_a_turn(bench: Bench) -> None:
    """What comes before the SUBSCRIBE in a frame does not arrive, what follows does."""
    peer = bench.peer()
    peer.send(
        publish("c", b"1"),
        [Op.SUBSCRIBE, 1, "c", None, 0],
        publish("c", b"2"),
        [Op.UNSUBSCRIBE, "c"],
        publish("c", b"3"),
    )
    assert received(peer) == [b"2"]


def test_a_subscriber_that_comes_back_gets_what_it_lacks(bench: Bench) -> None:
    """With epoch and number of the next message: in order, without duplicates, without a gap."""
    one, two = bench.peer(), bench.peer()
    subscribe(one)
    one.send(publish("c", b"1"))
    two.send(publish("c", b"2", b"3"))
    assert subscribe(two, bench.engine.epoch, 2) == 2
    two.send(publish("c", b"4"))
    assert received(two) == [b"2", b"3", b"4"]


@pytest.mark.parametrize("seq", [0, 1, 99])
def test_a_gap_is_told(tmp_path: Path, seq: int) -> None:
    """If the history does not reach back, or the number is from nowhere."""
    bench = Bench(tmp_path, history_count=2)
    peer = bench.peer()
    peer.send(publish("c", b"1", b"2", b"3", b"4"))
    assert subscribe(peer, bench.engine.epoch, seq) == 5
    peer.send(publish("c", b"5"))
    assert received(peer) == ["gap", b"5"]


def test_a_batch_is_replayed_whole(bench: Bench) -> None:
    """Who lacks the end of a batch gets all of it again, under the number of its first message."""
    one, two = bench.peer(), bench.peer()
    one.send(publish("c", b"1"), publish("c", b"2", b"3", b"4"), publish("c", b"5"))
    assert subscribe(two, bench.engine.epoch, 3) == 3
    assert two.inbox[1:] == [messages("c", 2, [b"2", b"3", b"4"], [b"5"])]


def test_a_batch_is_kept_unread(bench: Bench) -> None:
    """Whatever is in it: it counts as so many messages, and goes out as it came, replayed too."""
    one, two = bench.peer(), bench.peer()
    subscribe(one)
    one.send([Op.PUBLISH, "c", 3, b"any bytes"])
    assert one.inbox[1:] == [[Reply.MESSAGES, "c", 1, [[3, b"any bytes"]]]]
    assert subscribe(two, bench.engine.epoch, 2) == 2
    assert two.inbox[1:] == one.inbox[1:]


@given(st.lists(st.integers(1, 7), max_size=12), st.integers(0, 90))
def test_the_history_is_bounded_in_messages(lengths: list[int], seq: int) -> None:
    """Exactly, whatever the batches: messages beyond the bound cannot be had again.

    What is kept of the batches is less than one batch more.
    """
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), history_count=10)
        peer = bench.peer()
        for length in lengths:
            peer.send(publish("c", *[b"x"] * length))
        following = sum(lengths) + 1
        answered = subscribe(peer, bench.engine.epoch, seq)
        reached = max(1, following - 10) <= seq <= following
        assert answered == (seq if reached else following)
        assert ("gap" in received(peer)) is not reached
        channel = bench.engine.pub_sub.channels["c"]
        assert sum(count for count, _ in channel.history) < 10 + max(lengths, default=1)
        assert channel.bytes == sum(len(payloads) for _, payloads in channel.history)
        bench.journal.close()


def test_another_life_is_a_gap(bench: Bench) -> None:
    """Numbers of an earlier life of the broker mean nothing, even if they would fit."""
    epoch = bench.engine.epoch
    bench.crash()
    peer = bench.peer()
    assert subscribe(peer, epoch, 1) == 1
    assert received(peer) == ["gap"]


def test_the_history_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Per channel and over all channels."""
    bench = Bench(tmp_path, history_bytes=100, history_total=250)
    peer = bench.peer()
    for channel in "abcdef":
        peer.send(*[publish(channel, b"x" * 37)] * 5)
    channels = bench.engine.pub_sub.channels
    assert [channel.bytes for channel in channels.values()] == [0, 0, 0, 80, 80, 80]
    assert bench.engine.pub_sub._kept == 240


def test_a_forgotten_channel_is_a_gap(tmp_path: Path) -> None:
    """A channel that was forgotten for want of room does not begin at 1 again."""
    bench = Bench(tmp_path, channels=1)
    peer = bench.peer()
    peer.send(publish("c", b"1", b"2"))
    peer.send(publish("other", b"x"))
    assert subscribe(peer, bench.engine.epoch, 2) > 3
    assert received(peer) == ["gap"]


def test_a_slow_subscriber_slows_nobody(tmp_path: Path) -> None:
    """It gets what fits, then a gap, then what is new; others get all; its buffer is bounded."""
    bench = Bench(tmp_path, outstanding=1000, history_count=10)
    slow, fast, publisher = bench.peer(), bench.peer(), bench.peer()
    subscribe(slow), subscribe(fast)
    read_until = slow.received
    for n in range(200):
        publisher.send(publish("c", b"%03d" % n * 10))
        fast.raw(encode(0, fast.received, []))
    assert len(received(fast)) == 200
    session = bench.engine.sessions.by_route.get(slow.route)
    assert session.outstanding < 1100
    assert read_until < slow.received
    slow.raw(encode(0, slow.received, []))  # now it has read everything
    publisher.send(publish("c", b"new"))
    seen = received(slow)
    assert seen.count("gap") == 1
    assert seen[-1] == b"new"
    place = seen.index("gap")
    assert seen[:place] == received(fast)[:place]


def test_a_slow_subscriber_that_comes_back_catches_up(tmp_path: Path) -> None:
    """Its HELLO says that it has read everything: what it lacked meanwhile follows."""
    bench = Bench(tmp_path, outstanding=2000)
    slow, other = bench.peer(), bench.peer()
    subscribe(slow)
    bodies = [b"%d" % n * 500 for n in range(9)]
    for body in bodies:
        other.send(publish("c", body))
    assert len(received(slow)) < len(bodies)
    slow.hello(b"another route")
    while len(received(slow)) < len(bodies):
        before = len(slow.inbox)
        slow.raw(encode(0, slow.received, []))
        assert len(slow.inbox) > before, "it gets more as often as it has read"
    assert received(slow) == bodies


def test_a_subscriber_a_little_slow_loses_nothing(tmp_path: Path) -> None:
    """As long as the history reaches back, it is the subscriber's buffer."""
    bench = Bench(tmp_path, outstanding=1000)
    slow, publisher = bench.peer(), bench.peer()
    subscribe(slow)
    for n in range(100):
        publisher.send(publish("c", b"%03d" % n * 10))
    while received(slow)[-1] != b"099" * 10:
        before = slow.received
        slow.raw(encode(0, slow.received, []))
        assert slow.received > before
    assert received(slow) == [b"%03d" % n * 10 for n in range(100)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(1, 5), st.sampled_from(["cut", "return", "return late"])), max_size=30
    )
)
def test_nothing_is_lost_silently(steps: list[int | str]) -> None:
    """However the connection breaks: a hole in what a subscriber got has a gap in it."""
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), history_count=6)
        peer, publisher = bench.peer(), bench.peer()
        expected = subscribe(peer)
        epoch, routes, count, seen = bench.engine.epoch, 0, 0, []
        peer.inbox.clear()
        for step in steps:
            if isinstance(step, int):
                publisher.send(publish("c", *(b"%d" % (count + n) for n in range(step))))
                count += step
            elif step == "cut":
                bench.peers.pop(peer.route, None)
            else:
                if step == "return late":
                    session = bench.engine.sessions.find(peer.session, peer.secret, "")
                    bench.engine.end(session, died=True)
                routes += 1
                peer.hello(b"route %d" % routes)
                if not peer.welcome[5]:
                    peer.send([Op.SUBSCRIBE, 1, "c", epoch, expected])
            for command in peer.inbox:
                if command[0] == Reply.MESSAGES:
                    payloads = payloads_of(command)
                    following = command[2] + len(payloads)
                    # After a reconnect the first batch is sent whole.
                    assert command[2] <= expected < following
                    seen += payloads[expected - command[2] :]
                    expected = following
                elif command[0] == Reply.GAP:
                    expected = command[2]
            peer.inbox.clear()
        if peer.route in bench.peers:
            assert expected == count + 1
        assert seen == sorted(set(seen), key=int)
        bench.journal.close()


def test_what_is_used_again_is_not_forgotten(bench: Bench) -> None:
    """Also if housekeeping comes in the very turn in which somebody publishes at last."""
    peer = bench.peer()
    peer.send(publish("c", b"old"))
    bench.now += 1000.0
    bench.turn((peer.route, encode(2, 0, [publish("c", b"new"), publish("d", b"x")])), tick=True)
    peer.sent += 1
    assert len(bench.engine.pub_sub) == 2
    assert subscribe(peer, bench.engine.epoch, 1) == 1
    assert received(peer) == [b"old", b"new"]


def test_what_nobody_uses_costs_nothing(bench: Bench) -> None:
    """Channels and queues are forgotten when they were empty and unused for a while."""
    peer = bench.peer()
    subscribe(peer)
    for n in range(50):
        peer.send(publish(f"c{n}", b"x"), [Op.CONSUME, n, f"q{n}"], [Op.CANCEL, n])
    assert len(bench.engine.pub_sub) == 51
    assert len(bench.engine.queues) == 50
    for _ in range(80):
        peer.raw(encode(0, peer.received, []))
        bench.wait(5)
    assert len(bench.engine.pub_sub) == 1
    assert len(bench.engine.queues) == 0
    assert bench.journal.execute("SELECT count(*) FROM channel").fetchone() == (0,)
