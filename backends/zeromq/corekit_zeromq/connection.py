"""The connection of one App to its broker, which comes back by itself when it is lost."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from typing import Any, Protocol, TypeVar

from corekit.adapters import AdapterContext
from corekit.errors import (
    BackendError,
    BackendUnavailable,
    NotOpenError,
    SerializationError,
    VersionMismatch,
)

from .admission import Admission
from .answers import is_duration
from .dispatch import Dispatcher
from .link_keeper import LinkKeeper
from .process_identity import process_claim
from .protocol import MAGIC, VERSION, Op, Reply, encode
from .request import PublishRequest, Request, error_from
from .requests import Requests
from .session import FULL, OVERHEAD, Command, Session
from .settings import Settings

logger = logging.getLogger("corekit.zeromq")

#: What is sent so many seconds after the last frame is no part of the same load.
_REST = 0.001

T = TypeVar("T")


class Component(Protocol):
    """An adapter, as its connection sees it."""

    def restore(self, confirmed: int) -> None:
        """Add the commands that build up, in a new session, what this adapter had.

        The broker had the frames of the old session up to *confirmed*.
        """
        ...


class Connection:
    """One session with the broker, over one link after the other.

    Adapters add commands to `session` and call `flush_soon`; under load what is ready in one turn
    of the loop leaves as one frame. What the broker says reaches them through `dispatcher`.
    """

    def __init__(self, settings: Settings, context: AdapterContext) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.session = Session()
        self.requests = Requests(self.session, self.loop, settings.timeout, settings.text)
        self.components: dict[str, Component] = {}
        self.admission = Admission(self._has_room)
        self.link = LinkKeeper(
            settings,
            context.clock,
            greeting=self._hello,
            heartbeat=self.session.empty,
            take=self._take,
            dropped=self._link_dropped,
            away=self.requests.give_up,
        )
        self.dispatcher = Dispatcher(self._nonsense, self.link.read_on)
        self.dispatcher.handlers |= {
            Reply.WELCOME: self._on_welcome,
            Reply.UNKNOWN: self._on_unknown,
            Reply.REFUSED: self._on_refused,
            Reply.OK: self._on_ok,
            Reply.FAIL: self._on_fail,
        }
        #: What the broker said about itself in its last WELCOME.
        self.broker: dict[str, Any] = {}
        self.max_message = context.max_message
        self._context = context
        #: What is published to queues until the next flush, by channel.
        self._publishing: dict[str, PublishRequest] = {}
        #: Whether `flush` is called at the end of this turn.
        self.flushing = False
        self._now = context.clock.monotonic
        self._flushed_at = 0.0
        self._arrivals: list[tuple[int, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        state = "up" if self.link.is_up else "down"
        return f"<Connection {self.settings.text} {state} {self.session!r} {self.requests!r}>"

    async def close(self) -> None:
        """Say good-bye, if anybody is there to hear it, and disconnect."""

        def farewell() -> None:
            self.session.add([Op.BYE])
            self.flush()

        try:
            await self.link.close(farewell)
        finally:
            self.dispatcher.clear()
            for _, arrival in self._arrivals:
                arrival.cancel()

    # -- what comes

    def _hello(self) -> bytes:
        session = self.session
        info = {"name": self._context.instance_id, "version": _own_version()}
        info |= process_claim(self.settings)
        hello = [Op.HELLO, MAGIC, VERSION, session.identity, session.secret, session.received, info]
        return encode(0, session.received, [hello])

    def _take(self, frame: bytes) -> bool:
        self.link.heard_at = self._now()
        try:
            commands = self.session.take(frame)
        except SerializationError as error:
            self._nonsense(str(error))
            return False
        can_take_more = self.dispatcher.take(commands)
        if self.link.is_up:
            if self.admission.waiting:
                self._admit()
            if self._arrivals:
                self._tell_arrivals()
            if self.session.acknowledgement_due:
                self.flush_soon()
        return can_take_more

    def _link_dropped(self) -> None:
        # One that has not been looked at yet would accept the next link.
        self.dispatcher.forget(Reply.WELCOME)

    def _nonsense(self, reason: str) -> None:
        """Begin a new session, over a new link, because what came makes no sense."""
        if self.link.was_up:
            logger.error("%s: the broker breaks the protocol: %s", self.settings.text, reason)
            self.session.identity = self.session.secret = b""
        self.dispatcher.clear()
        text = f"{self.settings.text}: something that is not a corekit broker answers"
        self.link.end(BackendUnavailable(f"{text} ({reason})"))

    def _on_welcome(self, command: Command) -> int:
        _, number, identity, secret, epoch, resumed, received, info = command
        if number != VERSION:
            text = f"{self.settings.text}: the broker speaks version {number} of the protocol"
            self.link.end(VersionMismatch(f"{text}, not {VERSION}"))
            return 0
        heartbeat, most = info.get("heartbeat", 1.0), info.get("max_message", math.inf)
        if not (
            [*map(type, command[2:7])] == [bytes, bytes, int, bool, int]
            and received >= 0
            and is_duration(heartbeat)
            and most > 0
        ):
            raise SerializationError("a field of WELCOME makes no sense")
        self.broker = info
        self.max_message = min(self._context.max_message, most)
        if resumed:
            self.session.resume(received)
        else:
            self._rebuild(identity, secret, epoch)
        self.link.accept(heartbeat)
        self._admit()
        self.flush()
        return 0

    def _rebuild(self, identity: bytes, secret: bytes, epoch: int) -> None:
        session = self.session
        remains = session.reset()
        if remains.uncertain:
            logger.warning(
                "%s: the session ended: %d published messages may not have arrived",
                self.settings.text,
                remains.uncertain,
            )
        again = self.requests.session_ended(remains.transmitted)
        former = session.epoch
        session.identity, session.secret, session.epoch = identity, secret, epoch
        if former is not None:
            # The broker, after its start, waits for the first frame with consumers and claims.
            for kind in sorted(self.components, key=lambda kind: kind != "event_queue"):
                session.full = math.inf if kind == "event_queue" else FULL
                self.components[kind].restore(remains.confirmed)
            session.full = FULL
        self.requests.again(again)
        for channel, payloads in remains.unsent:
            for payload in payloads:
                session.publish(channel, payload)
        # What they waited for is on its way again.
        self._arrivals = [(session.last, arrival) for _, arrival in self._arrivals]

    def _on_unknown(self, command: Command) -> int:
        self.link.end(BackendUnavailable(f"{self.settings.text}: the session ended"))
        return 0

    def _on_refused(self, command: Command) -> int:
        error = error_from(command[1], f"{self.settings.text}: {command[2]}")
        if not isinstance(error, BackendError):
            error = BackendUnavailable(str(error))
        self.session.identity = self.session.secret = b""
        if self.link.was_up:
            logger.error("the broker ended the session: %s", error)
        self.link.end(error)
        return 0

    def _on_ok(self, command: Command) -> int:
        self.requests.answer(command[1], command[2])
        return 0

    def _on_fail(self, command: Command) -> int:
        self.requests.refuse(command[1], command[2], command[3])
        return 0

    # -- what goes

    def flush_soon(self) -> None:
        """Send what was added to the session.

        At rest at once; under load at the end of this turn of the loop, in one frame with what is
        added until then.
        """
        if self.flushing or not self.link.is_up:
            return
        if self._now() - self._flushed_at > _REST:
            self.flush()
        else:
            self.flush_together()

    def flush_together(self) -> None:
        """Send what was added to the session at the end of this turn of the loop.

        For what comes in waves, and is worth more together: a lone frame costs the broker a commit.
        """
        if not self.flushing and self.link.is_up:
            self.flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what was added to the session now."""
        self.flushing = False
        if self._publishing:
            self.part_publishes()
        link = self.link
        if not link.is_up:
            return
        next_frame = self.session.next_frame
        while (frame := next_frame()) is not None:
            link.send(frame)
        if self.session.acknowledgement_due:
            link.send(self.session.empty())
        self._flushed_at = self._now()

    def enqueue(
        self, owner: object, channel: str, message: list[Any]
    ) -> tuple[PublishRequest, asyncio.Future[str]]:
        """Publish *message* to a queue, by one request with what goes there in the same turn.

        The future gets the message's id.
        """
        request = self._publishing.get(channel)
        if request is None or request.frame != self.session.number:
            request = self._publishing[channel] = self.requests.publish(owner, channel)
            self.flush_together()
        cost = len(message[1]) + OVERHEAD
        future = request.add(message, cost)
        if self.session.extend(cost):
            self.flush()
        return request, future

    def part_publishes(self) -> None:
        """Let what is published to queues from now on come after what was added so far."""
        self._publishing.clear()

    @property
    def is_open(self) -> bool:
        """Whether something that takes room in the window can be added now."""
        return not self.admission.waiting and self._has_room()

    def _has_room(self) -> bool:
        return self.link.is_up and self.session.room >= 0

    def _admit(self) -> None:
        self.admission.admit()
        self.flush_soon()

    async def admit(self, owner: object, action: Callable[[], T]) -> T:
        """Do *action* as soon as there is a connection and room, in the order of the calls.

        Raises BackendUnavailable if there is none in time; *action* is then never done. The same
        holds for a call that is cancelled, unless it was done already.
        """
        try:
            return await self.admission.wait(owner, action, self.settings.timeout)
        except TimeoutError:
            reason: object = self.link.absence()
            if self.link.is_up:
                reason = f"{self.settings.text}: the broker does not keep up"
            raise BackendUnavailable(f"{reason}; nothing was sent") from None

    def ask(
        self,
        owner: object,
        op: Op,
        *arguments: Any,
        size: int = 0,
        patient: bool = False,
        then: Callable[[Any], None] | None = None,
    ) -> Request:
        """Begin a request, as `Requests.begin` does."""
        request = self.requests.begin(owner, op, arguments, size=size, patient=patient, then=then)
        self.flush_soon()
        return request

    async def request(self, owner: object, op: Op, *arguments: Any, size: int = 0) -> Any:
        """Return the broker's answer.

        Raises BackendUnavailable, OutcomeUnknown, what the broker refuses with, and NotOpenError
        if *owner* is closed meanwhile. A cancelled request is not sent if it was not yet.
        """
        request = self.ask(owner, op, *arguments, size=size)
        try:
            return await request.future
        except asyncio.CancelledError:
            self.requests.abandon(request)
            raise

    async def arrived(self, timeout: float) -> bool:
        """Wait until the broker has all that was added so far; return whether it has."""
        number = self.session.last
        if self.session.confirmed >= number:
            return True
        self.flush_soon()
        arrival: asyncio.Future[None] = self.loop.create_future()
        self._arrivals.append((number, arrival))
        await asyncio.wait([arrival], timeout=timeout)
        return arrival.done() and not arrival.cancelled()

    def _tell_arrivals(self) -> None:
        confirmed = self.session.confirmed
        for number, arrival in self._arrivals:
            if number <= confirmed and not arrival.done():
                arrival.set_result(None)
        self._arrivals = [one for one in self._arrivals if one[0] > confirmed]

    def leave(self, owner: object) -> None:
        """Fail with NotOpenError whatever *owner* waits for."""

        def error() -> NotOpenError:
            return NotOpenError("closed before the broker answered")

        self.part_publishes()
        self.admission.leave(owner, error)
        self.requests.close(owner, error)


@cache
def _own_version() -> str:
    try:
        return distribution_version("corekit-zeromq")
    except PackageNotFoundError:
        return "0"
