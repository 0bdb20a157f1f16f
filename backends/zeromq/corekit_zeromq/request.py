"""One question to the broker, and who waits for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import repeat
from typing import Any

from corekit import errors
from corekit.errors import BackendError, BackendRefused, CorekitError

from .protocol import Op
from .session import Command

_ERRORS: dict[str, type[CorekitError]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, CorekitError)
}

_LONGEST_TEXT = 500


def error_from(code: object, text: object) -> CorekitError:
    """Return the error that the broker means by *code* and *text*."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text)[:_LONGEST_TEXT])
    error = _ERRORS.get(str(code), BackendRefused)
    if error in {CorekitError, BackendError}:
        error = BackendRefused
    return error(shown)


#: Makes the error for who waits, given the id of the message that was to be published, if any.
MakeError = Callable[[str | None], CorekitError]


class Pending:
    """What was asked and is not answered yet."""

    __slots__ = ("command", "deadline", "frame", "op", "owner", "rid", "size")

    def __init__(self, owner: object, command: Command, size: int, deadline: float | None) -> None:
        self.owner = owner
        self.op: Op = command[0]
        self.rid: int = command[1]
        self.command = command
        self.size = size
        self.deadline = deadline
        #: The number of the frame that carries it.
        self.frame = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.rid} {self.op.name} frame={self.frame}>"

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for the answer."""
        raise NotImplementedError

    def answer(self, value: Any) -> None:
        """Hand *value* on, which `is_answer`."""
        raise NotImplementedError

    def fail(self, make_error: MakeError) -> None:
        """Raise an error where the answer is waited for."""
        raise NotImplementedError

    def renew(self) -> None:
        """Get ready to be asked once more, in a new session."""


class Request(Pending):
    """A question under way. *then* gets the answer first, then `future`."""

    __slots__ = ("future", "then")

    def __init__(
        self,
        owner: object,
        command: Command,
        size: int,
        deadline: float | None,
        future: asyncio.Future[Any],
        then: Callable[[Any], None] | None,
    ) -> None:
        super().__init__(owner, command, size, deadline)
        self.future = future
        self.then = then

    @property
    def is_awaited(self) -> bool:
        return not self.future.done()

    def answer(self, value: Any) -> None:
        if self.future.done():
            return
        if self.then is not None:
            self.then(value)
        self.future.set_result(value)

    def fail(self, make_error: MakeError) -> None:
        _fail(self.future, make_error(None))


class PublishRequest(Pending):
    """Messages for one queue that are published together; each has a future for its id.

    While none of it has been sent, messages can be added.
    """

    __slots__ = ("_create_future", "_futures", "_messages")

    def __init__(
        self,
        owner: object,
        rid: int,
        channel: str,
        deadline: float,
        create_future: Callable[[], asyncio.Future[str]],
    ) -> None:
        self._create_future = create_future
        self._messages: list[list[Any]] = []
        self._futures: list[asyncio.Future[str]] = []
        command = [Op.QUEUE_PUBLISH, rid, channel, self._messages]
        super().__init__(owner, command, 0, deadline)

    @property
    def is_awaited(self) -> bool:
        return not all(future.done() for future in self._futures)

    def add(self, message: list[Any], size: int) -> asyncio.Future[str]:
        """Let *message* be published, too: id and payload, and maybe delay and dedup_id."""
        future = self._create_future()
        self._messages.append(message)
        self._futures.append(future)
        self.size += size
        return future

    def withdraw(self, future: asyncio.Future[str]) -> None:
        """Take the message of *future* back, unless that was done already."""
        if future in self._futures:
            index = self._futures.index(future)
            del self._futures[index], self._messages[index]

    def answer(self, value: Any) -> None:
        outcomes = repeat(None) if value is None else value
        for future, message, outcome in zip(self._futures, self._messages, outcomes, strict=False):
            if future.done():
                continue
            if outcome is None:
                future.set_result(message[0])
            elif type(outcome) is str:
                future.set_result(outcome)
            else:
                _fail(future, error_from(*outcome))

    def fail(self, make_error: MakeError) -> None:
        for future, message in zip(self._futures, self._messages, strict=True):
            _fail(future, make_error(message[0]))

    def renew(self) -> None:
        for future in [future for future in self._futures if future.done()]:
            self.withdraw(future)


def _fail(future: asyncio.Future[Any], error: CorekitError) -> None:
    if not future.done():
        future.set_exception(error)
        # Whoever asked may have been cancelled in this very turn, and not look any more.
        future.exception()
