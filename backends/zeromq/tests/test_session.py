"""The session layer, without any I/O."""

from __future__ import annotations

from typing import Any

import pytest
from corekit_zeromq.protocol import Op, decode, encode
from corekit_zeromq.session import WINDOW, Session
from hypothesis import given
from hypothesis import strategies as st

from corekit.errors import SerializationError

from .batches import payloads_of, publish


def sent(session: Session) -> list[tuple[int, int, list[list[Any]]]]:
    """Return the frames that the session gives to its connection now."""
    return [decode(frame) for frame in iter(session.next_frame, None)]


def test_a_turn_is_a_frame() -> None:
    """What is added before `frames` leaves in one frame, numbered from 1, and only once."""
    session = Session()
    session.add([Op.UNSUBSCRIBE, "a"])
    session.add([Op.UNSUBSCRIBE, "b"])
    assert sent(session) == [(1, 0, [[Op.UNSUBSCRIBE, "a"], [Op.UNSUBSCRIBE, "b"]])]
    assert sent(session) == []
    session.add([Op.UNSUBSCRIBE, "c"])
    assert sent(session) == [(2, 0, [[Op.UNSUBSCRIBE, "c"]])]


def test_payloads_of_a_channel_share_a_command() -> None:
    """Publishes of one turn are grouped by channel, and acknowledgements by consumer."""
    session = Session()
    for channel, payload in (("a", b"1"), ("b", b"2"), ("a", b"3")):
        session.publish(channel, payload)
    for consumer, token in ((1, b"x"), (2, b"y"), (1, b"z")):
        session.ack(consumer, token)
    assert sent(session) == [
        (
            1,
            0,
            [
                publish("a", b"1", b"3"),
                publish("b", b"2"),
                [Op.ACK, 1, [b"x", b"z"]],
                [Op.ACK, 2, [b"y"]],
            ],
        )
    ]


def test_groups_end_with_their_frame() -> None:
    """What is published after a frame has left is in the next frame."""
    session = Session()
    session.publish("a", b"1")
    sent(session)
    session.publish("a", b"2")
    assert sent(session) == [(2, 0, [publish("a", b"2")])]


def test_a_full_frame_is_told() -> None:
    """`publish` says when a frame is full, and begins another: frames stay small."""
    session = Session()
    filled = [session.publish("a", b"x" * 1000) for _ in range(300)]
    assert any(filled)
    frames = sent(session)
    assert len(frames) == sum(filled) + 1
    assert all(len(encode(*frame)) < 200_000 for frame in frames)
    assert sum(len(payloads_of(frame[2][0])) for frame in frames) == 300


def test_what_is_unconfirmed_takes_room() -> None:
    """The window shrinks with what is added and grows back with what the broker confirms."""
    session = Session()
    session.publish("a", b"x" * 1000)
    session.add([Op.BYE], 5000)
    assert session.room < WINDOW - 6000
    sent(session)
    session.take(encode(0, 1, []))
    assert session.room == WINDOW


def test_frames_are_sent_again_over_a_new_connection() -> None:
    """After `resume` just the frames that the broker lacks are sent again, as they were."""
    session = Session()
    for name in "abc":
        session.add([Op.UNSUBSCRIBE, name])
        sent(session)
    session.resume(1)
    session.add([Op.UNSUBSCRIBE, "d"])
    assert [(number, commands[0][1]) for number, _, commands in sent(session)] == [
        (2, "b"),
        (3, "c"),
        (4, "d"),
    ]


def test_what_arrives_twice_is_taken_once() -> None:
    """Commands of a frame that arrived before are not given out again."""
    session = Session()
    frame = encode(1, 0, [[3, 1, None]])
    assert session.take(frame) == [[3, 1, None]]
    assert session.take(frame) == []
    assert session.received == 1


@pytest.mark.parametrize(
    "frame",
    [encode(2, 0, []), encode(0, 1, []), b"", b"\xc1", b"HTTP/1.1 400", encode(1, 0, [[]])],
    ids=["gap", "never-sent", "empty", "garbage", "http", "empty-command"],
)
def test_nonsense_is_refused(frame: bytes) -> None:
    """A frame out of order, one that confirms what was never sent, and garbage are errors."""
    with pytest.raises(SerializationError):
        Session().take(frame)


def test_acknowledgements_become_due() -> None:
    """Many frames, or many bytes, want to be acknowledged; any frame of ours does it."""
    session = Session()
    for number in range(1, 64):
        session.take(encode(number, 0, []))
    assert not session.acknowledgement_due
    session.take(encode(64, 0, []))
    assert session.acknowledgement_due
    assert decode(session.empty()) == (0, 64, [])
    assert not session.acknowledgement_due
    session.take(encode(65, 0, [[10, "c", 1, [b"x" * 300_000]]]))
    assert session.acknowledgement_due


def test_withdrawn_commands_are_not_sent() -> None:
    """A command can be taken back until its frame was given to a connection."""
    session = Session()
    first, second = [Op.STATUS, 1], [Op.STATUS, 2]
    number = session.add(first)
    session.add(second)
    assert session.withdraw(first, number, 0)
    assert sent(session) == [(1, 0, [[Op.STATUS, 2]])]
    assert not session.withdraw(second, number, 0)
    session.resume(0)
    assert sent(session) == [(1, 0, [[Op.STATUS, 2]])]


def test_what_was_withdrawn_takes_no_room() -> None:
    """Requests that nobody waits for any more do not pile up while nothing can be sent."""
    session = Session()
    room = session.room
    for rid in range(2000):
        command = [Op.STATUS, rid]
        number = session.add(command, 100)
        if rid % 3:
            assert session.withdraw(command, number, 100)
            assert session.withdraw(command, number, 100), "again, as if it were the first time"
    assert session.room == room - 667 * 356
    frames = sent(session)
    assert sum(len(commands) for _, _, commands in frames) == 667
    session.confirm(frames[-1][0])
    assert session.room == room


def test_what_is_withdrawn_twice_gives_its_room_back_once() -> None:
    """Also if it stands before others, and so keeps its place."""
    session = Session()
    first, second = [Op.STATUS, 1], [Op.STATUS, 2]
    number = session.add(first)
    room = session.room
    session.add(second)
    for _ in range(2):
        assert session.withdraw(first, number, 0)
    assert session.room == room


def test_a_command_of_another_session_is_not_withdrawn_from_this_one() -> None:
    """Its frame's number is one of this session's, too: what is there stays as it is."""
    session = Session()
    old = [Op.STATUS, 1]
    number = session.add(old)
    session.reset()
    session.add([Op.STATUS, 2])
    room = session.room
    assert session.withdraw(old, number, 0)
    assert session.room == room
    assert sent(session) == [(1, 0, [[Op.STATUS, 2]])]


def test_a_new_session_begins_with_what_never_left() -> None:
    """`reset` tells publishes that were never sent from those that may have arrived."""
    session = Session()
    session.publish("a", b"1")
    session.publish("a", b"2")
    sent(session)
    session.publish("b", b"3")
    remains = session.reset()
    assert remains.unsent == [("b", [b"3"])]
    assert remains.uncertain == 2
    assert remains.transmitted == 1
    assert session.room == WINDOW
    assert sent(session) == []
    session.add([Op.BYE])
    assert sent(session) == [(1, 0, [[Op.BYE]])]


@given(st.lists(st.sampled_from(["add", "flush", "break", "reply"]), max_size=60))
def test_every_command_arrives_once_and_in_order(steps: list[str]) -> None:
    """However often the connection breaks, in either direction, nothing is lost or doubled."""
    session = Session()
    wire: list[tuple[int, int, list[list[Any]]]] = []
    arrived: list[int] = []
    received = 0
    added = 0

    def deliver() -> None:
        nonlocal received
        for number, _, commands in wire:
            if number == received + 1:
                received = number
                arrived.extend(command[1] for command in commands)
        wire.clear()

    for step in steps:
        if step == "add":
            added += 1
            session.add([Op.STATUS, added])
        elif step == "flush":
            wire += sent(session)
        elif step == "reply":
            deliver()
            session.take(encode(0, received, []))
        else:
            # Half of what is on the wire is lost with the connection.
            del wire[len(wire) // 2 :]
            deliver()
            session.resume(received)
            wire += sent(session)
    wire += sent(session)
    deliver()
    assert arrived == list(range(1, added + 1))


def test_a_frame_that_cannot_be_packed() -> None:
    """It is lost alone: what comes before and after it is sent."""
    session = Session()
    session.full = 1
    session.add([Op.STATUS, 1])
    session.add([Op.STATUS, "\ud800"])
    session.add([Op.STATUS, 3])
    assert session.next_frame() is not None
    with pytest.raises(UnicodeEncodeError):
        session.next_frame()
    assert [number for number, _, _ in sent(session)] == [3]


def test_a_broker_that_forgets() -> None:
    """One that had a frame, and says when the connection is back that it has not, is not ours."""
    session = Session()
    session.add([Op.STATUS, 1])
    sent(session)
    session.take(encode(0, 1, []))
    with pytest.raises(SerializationError, match="had arrived"):
        session.resume(0)
