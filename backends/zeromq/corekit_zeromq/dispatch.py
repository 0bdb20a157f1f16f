"""Handing on what the broker says, at a pace at which it can be taken."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from corekit.arguments import shown
from corekit.errors import SerializationError

from .protocol import MESSAGES, decode_batch
from .session import Command

logger = logging.getLogger("corekit.zeromq")

#: Takes a command and returns how many messages it handed on.
Handler = Callable[[Command], int]

#: Messages that are handed on in one turn of the loop. Whoever gets them has a bounded buffer, and
#: needs a turn to empty it.
MESSAGES_PER_TURN = 256

#: Seconds between two log lines about batches that cannot be read.
_QUIET = 60.0


class Dispatcher:
    """Calls `handlers`, by kind of reply, with each command in order.

    MESSAGES are handed on in portions, as `[kind, channel, first, payloads]`. A batch that cannot
    be read is left out, and a portion without payloads stands where it ends.

    *nonsense* is called with a reason when a handler cannot make sense of its command; *caught_up*
    when what was too much for one turn has been handed on.
    """

    def __init__(self, nonsense: Callable[[str], None], caught_up: Callable[[], None]) -> None:
        self.handlers: dict[int, Handler] = {}
        self._nonsense = nonsense
        self._caught_up = caught_up
        self._loop = asyncio.get_running_loop()
        self._backlog: deque[Command] = deque()
        self._next_turn: asyncio.Handle | None = None
        self._quiet_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Dispatcher backlog={len(self._backlog)}>"

    def take(self, commands: Iterable[Command]) -> bool:
        """Hand on *commands*; return whether there may be more in this turn."""
        try:
            for command in commands:
                if command[0] == MESSAGES:
                    self._unpack(command)
                else:
                    self._backlog.append(command)
        except (TypeError, ValueError) as error:
            self._nonsense(f"malformed reply {shown(command[0])}: {error!r}")
        return self._next_turn is None and self._hand_on()

    def _unpack(self, command: Command) -> None:
        kind, channel, first, batches = command
        payloads: list[bytes] = []
        for count, batch in batches:
            try:
                payloads += decode_batch(count, batch)
            except SerializationError as error:
                # Its publisher's fault, and no reason to listen to the others no more.
                self._complain(channel, error)
                self._add(kind, channel, first, payloads)
                first += len(payloads) + count
                payloads = []
                self._backlog.append([kind, channel, first, payloads])
        if 0 < len(payloads) <= MESSAGES_PER_TURN:
            self._backlog.append([kind, channel, first, payloads])
        else:
            self._add(kind, channel, first, payloads)

    def _add(self, kind: int, channel: str, first: int, payloads: list[bytes]) -> None:
        for start in range(0, len(payloads), MESSAGES_PER_TURN):
            portion = payloads[start : start + MESSAGES_PER_TURN]
            self._backlog.append([kind, channel, first + start, portion])

    def _complain(self, channel: str, error: SerializationError) -> None:
        now = self._loop.time()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            logger.warning("channel %s: messages could not be read: %s", shown(channel), error)

    def _hand_on(self) -> bool:
        messages = 0
        backlog = self._backlog
        while backlog:
            if messages >= MESSAGES_PER_TURN:
                self._next_turn = self._loop.call_soon(self._go_on)
                return False
            command = backlog.popleft()
            handler = self.handlers.get(command[0]) if type(command[0]) is int else None
            if handler is None:
                logger.debug("the broker says something unknown: %s", shown(command[0]))
                continue
            try:
                messages += handler(command)
            except Exception as error:  # noqa: BLE001 - whatever malformed content leads to
                self._nonsense(f"malformed reply {shown(command[0])}: {error!r}")
        if messages < MESSAGES_PER_TURN:
            return True
        self._next_turn = self._loop.call_soon(self._go_on)
        return False

    def _go_on(self) -> None:
        self._next_turn = None
        if self._hand_on():
            self._caught_up()

    def forget(self, kind: int) -> None:
        """Forget the commands of a kind that were not handed on yet."""
        for command in [one for one in self._backlog if one[0] == kind]:
            self._backlog.remove(command)

    def clear(self) -> None:
        """Forget what was not handed on yet."""
        self._backlog.clear()
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
