"""Questions to the broker that wait for their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from corekit.arguments import shown
from corekit.errors import BackendUnavailable, CorekitError, OutcomeUnknown, SerializationError

from .answers import is_answer
from .protocol import Op
from .request import Pending, PublishRequest, Request, error_from
from .session import Session

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


class Requests:
    """The requests of one connection, by number, the oldest first."""

    def __init__(
        self, session: Session, loop: asyncio.AbstractEventLoop, timeout: float, where: str
    ) -> None:
        self._session = session
        self._loop = loop
        self._timeout = timeout
        self._where = where
        self._rids = count(1)
        self._waiting: dict[int, Pending] = {}
        #: Those without a deadline of their own; they end when the broker is away for long.
        self._patient: dict[int, Pending] = {}
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
        deadline = None if patient else self._loop.time() + self._timeout
        future = self._loop.create_future()
        command = [op, next(self._rids), *arguments]
        request = Request(owner, command, size, deadline, future, then)
        self._add(request)
        return request

    def publish(self, owner: object, channel: str) -> PublishRequest:
        """Publish to a queue what is going to be added to the request until its frame leaves."""
        deadline = self._loop.time() + self._timeout
        rid = next(self._rids)
        request = PublishRequest(owner, rid, channel, deadline, self._loop.create_future)
        self._add(request)
        return request

    def _add(self, request: Pending) -> None:
        deadline = request.deadline
        (self._patient if deadline is None else self._waiting)[request.rid] = request
        request.frame = self._session.add(request.command, request.size)
        if deadline is not None and self._timer is None:
            self._timer = self._loop.call_at(deadline, self._sweep)

    def answer(self, rid: int, value: Any) -> None:
        """Take note of OK; an answer that nobody waits for is ignored.

        Raises SerializationError for one that makes no sense; whoever waits for it is told.
        """
        request = self._pop(rid)
        if request is None:
            return
        if not is_answer(request.command, value):
            self._fail_without_answer(request, "the answer makes no sense")
            raise SerializationError(f"{shown(value)} answers no {request.op.name}")
        request.answer(value)

    def refuse(self, rid: int, code: object, text: object) -> None:
        """Take note of FAIL."""
        request = self._pop(rid)
        if request is not None:
            request.fail(lambda _: error_from(code, text))

    def _pop(self, rid: int) -> Pending | None:
        return self._waiting.pop(rid, None) or self._patient.pop(rid, None)

    def abandon(self, request: Pending) -> bool:
        """Wait no longer for the answer of *request*; return whether it was never sent."""
        self._pop(request.rid)
        return self._session.withdraw(request.command, request.frame, request.size)

    def abandon_message(self, request: PublishRequest, future: asyncio.Future[str]) -> None:
        """Wait no longer for the message of *future*, which is not sent if it was not yet."""
        if request.frame > self._session.transmitted:
            request.withdraw(future)
        if not request.is_awaited:
            self.abandon(request)
            # No frame has this number: nothing joins it.
            request.frame = 0

    def session_ended(self, transmitted: int) -> list[Pending]:
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
                    self._fail_without_answer(request, "the broker lost the session")
        return again

    def again(self, requests: list[Pending]) -> None:
        """Ask *requests* once more."""
        for request in requests:
            if request.is_awaited:
                request.renew()
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

    def _time_out(self, request: Pending) -> None:
        unsent = self.abandon(request)
        if unsent:
            text = f"{self._where}: not reached for {self._timeout:g} s"
            request.fail(lambda _: BackendUnavailable(text))
            return
        if request.op is Op.LOCK_ACQUIRE:
            self._session.add([Op.LOCK_ABANDON, request.rid])
        self._fail_without_answer(request, f"no answer for {self._timeout:g} s")

    def _fail_without_answer(self, request: Pending, reason: str) -> None:
        text = f"{self._where}: {reason}"
        if request.op in _READING:
            request.fail(lambda _: BackendUnavailable(text))
            return
        text += ": it may have been done, or not"
        request.fail(lambda message_id: OutcomeUnknown(text, message_id=message_id))

    def close(self, owner: object, error: Callable[[], CorekitError]) -> None:
        """Fail what *owner* asked with *error*."""
        for table in (self._waiting, self._patient):
            for request in [r for r in table.values() if r.owner is owner]:
                self.abandon(request)
                request.fail(lambda _: error())
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None
