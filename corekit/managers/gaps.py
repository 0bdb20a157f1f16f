"""Telling from the publishers' numbers whether messages were missed."""

from __future__ import annotations

from enum import Enum, auto

from ..errors import SerializationError


class Verdict(Enum):
    """What a message's number says."""

    IN_ORDER = auto()
    """Nothing was missed, as far as can be known."""

    AFTER_GAP = auto()
    """The messages between the last one and this one were missed."""

    REPEATED = auto()
    """It was there before, or its absence has been told as a gap: drop it."""


#: The same by names of their own: to look a member up in its Enum takes as long as a call.
IN_ORDER, AFTER_GAP, REPEATED = Verdict


class SequenceTracker:
    """The next number expected from each publisher of one channel.

    A publisher numbers its messages 1, 2, 3 ... under an id that no other run of it uses. The
    first number seen of a publisher is taken as it is: whether it published something before that
    was missed, or published it before anybody listened here, cannot be known from numbers.

    At most *limit* publishers are remembered; those not heard for the longest time are forgotten,
    and are new when they come back.
    """

    __slots__ = ("_generation", "_older", "_recent")

    def __init__(self, limit: int = 4096) -> None:
        # Two generations instead of an order of use: a message in order costs one look-up. When
        # the recent one is full it becomes the older one, and whoever is heard moves back.
        # A negative number is one whose publisher may jump, once: that gap has been told.
        self._generation = max(1, limit // 2)
        self._recent: dict[int, int] = {}
        self._older: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<SequenceTracker publishers={len(self)}>"

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def observe(self, publisher: int, number: int) -> Verdict:
        """Take note of message *number* of *publisher* and tell what it says.

        Raises SerializationError if they are no whole numbers, or *number* is below 1.
        """
        expected = self._recent.get(publisher, 0)
        if expected == number and number > 0:
            self._recent[publisher] = number + 1
            return IN_ORDER
        if type(publisher) is not int or type(number) is not int or number < 1:
            raise SerializationError("the publisher and number of a message are whole numbers")
        expected = expected or self._older.pop(publisher, 0)
        if number < abs(expected):
            self._remember(publisher, expected)
            return REPEATED
        self._remember(publisher, number + 1)
        return AFTER_GAP if 0 < expected < number else IN_ORDER

    def advance(self, publisher: int, following: int) -> None:
        """Take note that up to *following* all came in order after what was observed last.

        That was a message of *publisher*, and no repeated one.
        """
        self._recent[publisher] = following

    def forgive(self) -> None:
        """Let every publisher jump once: a gap has been told that covers what is missing now."""
        for generation in (self._recent, self._older):
            for publisher, expected in generation.items():
                generation[publisher] = -abs(expected)

    def _remember(self, publisher: int, expected: int) -> None:
        if publisher not in self._recent and len(self._recent) >= self._generation:
            self._older = self._recent
            self._recent = {}
        self._recent[publisher] = expected
