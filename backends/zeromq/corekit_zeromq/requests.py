"""Questions to the broker that wait for their answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from corekit import errors
from corekit.arguments import shown
from corekit.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    CorekitError,
    OutcomeUnknown,
    SerializationError,
)

from .answers import is_answer
from .protocol import Op
from .session import Command, Session

#: What a request does twice is done as if once, or answers only: after the loss of a session it is
#: simply sent again. (What a lock request got in the old session is freed with that session.)
_REPEATABLE = frozenset(
    {
        Op.SUBSCRIBE,
        Op.QUEUE_PUBLISH,
        Op.QUEUE_STATS,
        Op.DEAD_LETTERS,
        Op.CACHE_GET,
        Op.CACHE_KEYS,
        Op.LOCK_ACQUIRE,
        Op.LOCK_EXTEND,
        Op.LOCK_RELEASE,
        Op.STATUS,
    }
)

#: Requests that change nothing: without an answer, nothing was done.
_READING = frozenset(
    {Op.QUEUE_STATS, Op.DEAD_LETTERS, Op.CACHE_GET, Op.CACHE_KEYS, Op.STATUS, Op.SUBSCRIBE}
)

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


class Request:
    """A question under way."""

    __slots__ = ("command", "deadline", "frame", "future", "op", "owner", "rid", "size", "then")

    def __init__(
        self,
        owner: object,
        command: Command,
        size: int,
        deadline: float | None,
        future: asyncio.Future[Any],
        then: Callable[[Any], None] | None,
    ) -> None:
        self.owner = owner
        self.op: Op = command[0]
        self.rid: int = command[1]
        self.command = command
        self.size = size
        self.deadline = deadline
        self.future = future
        self.then = then
        #: The number of the frame that carries it.
        self.frame = 0

    def __repr__(self) -> str:
        return f"<Request {self.rid} {self.op.name} frame={self.frame}>"


class Requests:
    """The requests of one connection, by number, the oldest first."""

    def __init__(
        self, session: Session, loop: asyncio.AbstractEventLoop, timeout: float, where: str
    ) -> None:
        self._session = session
        self._loop = loop
        self._timeout = timeout
        self._where = where
        self._rids = itertools.count(1)
        self._waiting: dict[int, Request] = {}
        #: Those without a deadline of their own; they end when the broker is away for long.
        self._patient: dict[int, Request] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Requests waiting={len(self._waiting)} patient={len(self._patient)}>"

    def begin(
        self,
        owner: object,
        op: Op,
        arguments: tuple[Any, ...],
        *,
        size: int = 0,
        patient: bool = False,
        then: Callable[[Any], None] | None = None,
    ) -> Request:
        """Ask; the answer arrives in the request's future.

        *then* gets it before whatever the broker said after it is looked at. A *patient* request
        waits as long as the broker is there, and for ever if nobody owns it.
        """
        rid = next(self._rids)
        deadline = None if patient else self._loop.time() + self._timeout
        future = self._loop.create_future()
        request = Request(owner, [op, rid, *arguments], size, deadline, future, then)
        (self._patient if patient else self._waiting)[rid] = request
        request.frame = self._session.add(request.command, size)
        if deadline is not None and self._timer is None:
            self._timer = self._loop.call_at(deadline, self._sweep)
        return request

    def answer(self, rid: int, value: Any) -> None:
        """Take note of OK; an answer that nobody waits for is ignored.

        Raises SerializationError for one that makes no sense; whoever waits for it is told.
        """
        request = self._pop(rid)
        if request is None or request.future.done():
            return
        if not is_answer(request.command, value):
            _fail(request, self._without_answer(request, "the answer makes no sense"))
            raise SerializationError(f"{shown(value)} answers no {request.op.name}")
        if request.then is not None:
            request.then(value)
        request.future.set_result(value)

    def refuse(self, rid: int, code: object, text: object) -> None:
        """Take note of FAIL."""
        request = self._pop(rid)
        if request is not None:
            _fail(request, error_from(code, text))

    def _pop(self, rid: int) -> Request | None:
        return self._waiting.pop(rid, None) or self._patient.pop(rid, None)

    def abandon(self, request: Request) -> bool:
        """Wait no longer for the answer of *request*; return whether it was never sent."""
        self._pop(request.rid)
        return self._session.withdraw(request.command, request.frame)

    def session_ended(self, transmitted: int) -> list[Request]:
        """Return what is to be asked `again` in a new session, and fail what cannot be.

        *transmitted* is the last frame that left; what was in later ones is asked again anyhow.
        """
        again = []
        for table in (self._waiting, self._patient):
            for request in list(table.values()):
                if request.frame > transmitted or request.op in _REPEATABLE:
                    again.append(request)
                else:
                    del table[request.rid]
                    _fail(request, self._without_answer(request, "the broker lost the session"))
        return again

    def again(self, requests: list[Request]) -> None:
        """Ask *requests* once more."""
        for request in requests:
            if not request.future.done():
                request.frame = self._session.add(request.command, request.size)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        # In the order of their deadlines: all wait equally long.
        while self._waiting:
            request = next(iter(self._waiting.values()))
            deadline = request.deadline
            if deadline is not None and deadline > now:
                self._timer = self._loop.call_at(deadline, self._sweep)
                return
            self._time_out(request)

    def give_up(self) -> None:
        """Fail the patient ones too, except our own: the broker has been away for long."""
        for request in list(self._patient.values()):
            if request.owner is not None:
                self._time_out(request)

    def _time_out(self, request: Request) -> None:
        unsent = self.abandon(request)
        if unsent:
            _fail(
                request,
                BackendUnavailable(f"{self._where}: not reached for {self._timeout:g} s"),
            )
            return
        if request.op is Op.LOCK_ACQUIRE:
            self._session.add([Op.LOCK_ABANDON, request.rid])
        _fail(request, self._without_answer(request, f"no answer for {self._timeout:g} s"))

    def _without_answer(self, request: Request, reason: str) -> BackendUnavailable:
        text = f"{self._where}: {reason}"
        if request.op in _READING:
            return BackendUnavailable(text)
        message_id = request.command[3] if request.op is Op.QUEUE_PUBLISH else None
        return OutcomeUnknown(f"{text}: it may have been done, or not", message_id=message_id)

    def close(self, owner: object, error: Callable[[], CorekitError]) -> None:
        """Fail what *owner* asked with *error*."""
        for table in (self._waiting, self._patient):
            for request in [r for r in table.values() if r.owner is owner]:
                self.abandon(request)
                _fail(request, error())
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _fail(request: Request, error: CorekitError) -> None:
    if not request.future.done():
        request.future.set_exception(error)
        # Whoever asked may have been cancelled in this very turn, and not look any more.
        request.future.exception()
