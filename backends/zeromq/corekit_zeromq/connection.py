"""The connection of one App to its broker, which comes back by itself when it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

import zmq

from corekit.adapters import AdapterContext
from corekit.arguments import shown
from corekit.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CorekitError,
    NotOpenError,
    SerializationError,
    VersionMismatch,
)
from corekit.tasks import TaskOwner

from .endpoint import locate
from .link import Link, Stage
from .protocol import MAGIC, VERSION, Op, Reply, encode
from .requests import Request, Requests, error_from
from .session import Command, Session
from .settings import Settings

logger = logging.getLogger("corekit.zeromq")

T = TypeVar("T")
Handler = Callable[[Command], int]

#: Seconds between attempts to connect: the first, and what they grow to.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 0.5

#: Seconds in which a broker that was reached must answer HELLO.
_WELCOME_TIMEOUT = 3.0

#: After so many heartbeats in silence the link is lost.
_MISSED_HEARTBEATS = 3

#: When an absence is told in the log, in seconds; later on each minute.
_LOGGED_AT = (1.0, 10.0)
_LOGGED_EACH = 60.0

#: How long BYE may take to leave, in seconds.
_FAREWELL = 0.2


class Component(Protocol):
    """An adapter, as its connection sees it."""

    def restore(self, confirmed: int) -> None:
        """Add the commands that build up, in a new session, what this adapter had.

        The broker had the frames of the old session up to *confirmed*.
        """
        ...


class Connection:
    """One session with the broker, over one link after the other.

    Adapters add commands to `session` and call `flush_soon`; what is ready in one turn of the
    loop leaves as one frame. `handlers` take what the broker says, by kind of reply; each returns
    how many messages it handed on.
    """

    def __init__(self, settings: Settings, context: AdapterContext) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.session = Session()
        self.requests = Requests(self.session, self.loop, settings.timeout, settings.text)
        self.components: dict[str, Component] = {}
        self.handlers: dict[int, Handler] = {
            Reply.WELCOME: self._on_welcome,
            Reply.UNKNOWN: self._on_unknown,
            Reply.REFUSED: self._on_refused,
            Reply.OK: self._on_ok,
            Reply.FAIL: self._on_fail,
        }
        #: What the broker said about itself in its last WELCOME.
        self.broker: dict[str, Any] = {}
        self.max_message = context.max_message
        self._instance = context.instance_id
        self._clock = context.clock
        self._tasks = TaskOwner(f"zmq {settings.text}")
        self._link: Link | None = None
        #: Resolved when the broker has taken up the session over the link (True), and when the
        #: link ends (False).
        self._verdict: asyncio.Future[bool] | None = None
        self._up = False
        self._opened: asyncio.Future[None] = self.loop.create_future()
        self._failure: CorekitError = BackendUnavailable(f"{settings.text}: not connected yet")
        self._down_since = self._clock.monotonic()
        self._logged = 0
        self._flushing = False
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any], object]] = deque()
        self._arrivals: list[tuple[int, asyncio.Future[None]]] = []
        self._heartbeat = 1.0
        self._sent_at = self._heard_at = 0.0
        self._ticker: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "up" if self._up else "down"
        return f"<Connection {self.settings.text} {state} {self.session!r} {self.requests!r}>"

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to connect, and to stay connected until `close`."""
        self._tasks.spawn(self._stay_connected(), name="connection")

    async def ready(self) -> None:
        """Return when the broker has been reached for the first time.

        Raises BackendUnavailable after the time for it, and BackendRefused earlier.
        """
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                await asyncio.shield(self._opened)
        except TimeoutError:
            raise self._absence() from None

    async def close(self) -> None:
        """Say good-bye, if anybody is there to hear it, and disconnect."""
        try:
            await self._tasks.close()
        finally:
            if self._up and self._link is not None:
                self.session.add([Op.BYE])
                self._flush()
                self._link.close(_FAREWELL)
            self._drop_link()
            self._opened.cancel()
            for _, arrival in self._arrivals:
                _resolve(arrival)

    async def _stay_connected(self) -> None:
        pause = _FIRST_PAUSE
        refusals = 0
        while True:
            if await self._connect():
                pause = _FIRST_PAUSE
                refusals = 0
                if self._link is not None:
                    self._verdict = self.loop.create_future()
                    await self._verdict
            elif not isinstance(self._failure, BackendUnavailable):
                refusals += 1
            # Once may be a broker that died in the middle of it.
            if refusals > 1 and not self._opened.done():
                self._opened.set_exception(self._failure)
                self._opened.exception()
            self._drop_link()
            self._report_absence()
            if self._clock.monotonic() - self._down_since > self.settings.timeout:
                self.requests.give_up()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _connect(self) -> bool:
        """Open a link and take up the session over it; return whether the broker took it up."""
        verdict = self._verdict = self.loop.create_future()
        try:
            endpoint = await locate(self.settings)
            self._link = link = Link(endpoint, self.settings.keys, self._take, self._lost)
        except CorekitError as error:
            self._failure = error
            return False
        except (OSError, zmq.ZMQError) as error:  # such as too many open files
            self._failure = BackendUnavailable(f"{self.settings.text}: {error}")
            self._failure.__cause__ = error
            return False
        info = {"name": self._instance, "version": version("corekit-zeromq")}
        session = self.session
        hello = [Op.HELLO, MAGIC, VERSION, session.identity, session.secret, session.received, info]
        link.send(encode(0, session.received, [hello]))
        try:
            async with asyncio.timeout(_WELCOME_TIMEOUT):
                taken_up: bool = await verdict
        except TimeoutError:
            self._failure = self._describe(link)
            return False
        return taken_up

    def _describe(self, link: Link) -> BackendError:
        text = f"{self.settings.text}: {link.stage.value} at {link.endpoint}"
        if link.stage in {Stage.REFUSED, Stage.NEEDS_KEYS}:
            return AuthenticationFailed(text)
        return BackendUnavailable(text)

    def _absence(self) -> CorekitError:
        """Return why there is no connection: what the attempt under way shows, or the last one."""
        link = self._link
        if link is None or link.stage is Stage.CONNECTING:
            return self._failure
        return self._describe(link)

    def _lost(self) -> None:
        if self._up:
            self._end_link(BackendUnavailable(f"{self.settings.text}: the connection was lost"))
        elif self._link is not None:
            self._end_link(self._describe(self._link))

    def _end_link(self, reason: BackendError) -> None:
        self._failure = reason
        self._drop_link()
        self._decide(taken_up=False)

    def _decide(self, *, taken_up: bool) -> None:
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result(taken_up)

    def _drop_link(self) -> None:
        if self._up:
            self._up = False
            self._down_since = self._clock.monotonic()
            self._logged = 0
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if self._link is not None:
            self._link.close()
            self._link = None

    def _report_absence(self) -> None:
        away = self._clock.monotonic() - self._down_since
        due = (
            _LOGGED_AT[self._logged]
            if self._logged < len(_LOGGED_AT)
            else _LOGGED_EACH * (self._logged - len(_LOGGED_AT) + 1)
        )
        if away >= due:
            self._logged += 1
            logger.warning("no connection for %.0f s, trying again: %s", away, self._failure)

    # ------------------------------------------------------------------ what comes

    def _take(self, frame: bytes) -> int:
        self._heard_at = self._clock.monotonic()
        try:
            commands = self.session.take(frame)
        except SerializationError as error:
            self._nonsense(str(error))
            return 0
        messages = 0
        handlers = self.handlers
        for command in commands:
            handler = handlers.get(command[0])
            if handler is None:
                logger.debug("the broker says something unknown: %s", shown(command[0]))
                continue
            try:
                messages += handler(command)
            except Exception as error:  # noqa: BLE001 - whatever malformed content leads to
                self._nonsense(f"malformed reply {shown(command[0])}: {error!r}")
                return messages
        if self._up:
            self._after_frame()
        return messages

    def _after_frame(self) -> None:
        if self._waiting:
            self._admit_waiting()
        if self._arrivals:
            self._tell_arrivals()
        if self.session.acknowledgement_due:
            self.flush_soon()

    def _nonsense(self, reason: str) -> None:
        """Begin a new session, over a new link, because what came makes no sense."""
        if self._opened.done():
            logger.error("%s: the broker breaks the protocol: %s", self.settings.text, reason)
            self.session.identity = self.session.secret = b""
        text = f"{self.settings.text}: something that is not a corekit broker answers"
        self._end_link(BackendUnavailable(f"{text} ({reason})"))

    def _on_welcome(self, command: Command) -> int:
        _, number, identity, secret, epoch, resumed, received, info = command
        if number != VERSION:
            self._end_link(
                VersionMismatch(f"{self.settings.text}: protocol {number}, not {VERSION}")
            )
            return 0
        away = self._clock.monotonic() - self._down_since
        self.broker = dict(info)
        self.max_message = min(self.max_message, int(info.get("max_message", self.max_message)))
        self._heartbeat = float(info.get("heartbeat", 1.0))
        self.session.secret = secret
        self._up = True
        if resumed:
            self.session.resume(received)
        else:
            self._rebuild(identity, epoch)
        if self._logged:
            logger.warning(
                "connected again after %.0f s, %s",
                away,
                "nothing was lost" if resumed else "with a new session",
            )
        self._logged = 0
        _resolve(self._opened)
        self._decide(taken_up=True)
        self._sent_at = self._heard_at
        self._schedule_tick()
        self._admit_waiting()
        self._flush()
        return 0

    def _rebuild(self, identity: bytes, epoch: int) -> None:
        session = self.session
        remains = session.reset()
        if remains.uncertain:
            logger.warning(
                "%s: the session ended: %d published messages may not have arrived",
                self.settings.text,
                remains.uncertain,
            )
        again = self.requests.session_ended(remains.transmitted)
        former, session.identity, session.epoch = session.epoch, identity, epoch
        if former is not None:
            # The broker, after its start, waits for the first frame with consumers and claims.
            for kind in sorted(self.components, key=lambda kind: kind != "event_queue"):
                self.components[kind].restore(remains.confirmed)
        self.requests.again(again)
        for channel, payloads in remains.unsent:
            for payload in payloads:
                session.publish(channel, payload)
        for arrival in self._arrivals:
            _resolve(arrival[1])
        self._arrivals.clear()

    def _on_unknown(self, command: Command) -> int:
        self._end_link(BackendUnavailable(f"{self.settings.text}: the session ended"))
        return 0

    def _on_refused(self, command: Command) -> int:
        error = error_from(command[1], f"{self.settings.text}: {command[2]}")
        if not isinstance(error, BackendError):
            error = BackendUnavailable(str(error))
        self.session.identity = self.session.secret = b""
        if self._opened.done():
            logger.error("the broker ended the session: %s", error)
        self._end_link(error)
        return 0

    def _on_ok(self, command: Command) -> int:
        self.requests.answer(command[1], command[2])
        return 0

    def _on_fail(self, command: Command) -> int:
        self.requests.refuse(command[1], command[2], command[3])
        return 0

    # ------------------------------------------------------------------ what goes

    def flush_soon(self) -> None:
        """Send what was added to the session at the end of this turn of the loop."""
        if not self._flushing and self._up:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        link = self._link
        if link is None or not self._up:
            return
        sent = False
        for frame in self.session.frames():
            link.send(frame)
            sent = True
        if not sent and self.session.acknowledgement_due:
            link.send(self.session.empty())
            sent = True
        if sent:
            self._sent_at = self._clock.monotonic()

    def publish(self, channel: str, payload: bytes) -> bool | None:
        """Publish at once if that is possible now.

        Returns None if it is not, otherwise whether the caller should let others run: it has filled
        a frame.
        """
        session = self.session
        if not self._up or session.room < 0 or self._waiting:
            return None
        if session.publish(channel, payload):
            self._flush()
            return True
        if not self._flushing:
            self.flush_soon()
        return False

    @property
    def is_open(self) -> bool:
        """Whether something that takes room in the window can be added now."""
        return self._up and self.session.room >= 0 and not self._waiting

    async def admit(self, owner: object, action: Callable[[], T]) -> T:
        """Do *action* as soon as there is a connection and room, in the order of the calls.

        Raises BackendUnavailable if there is none in time; *action* is then never done. The same
        holds for a call that is cancelled, unless it was done already.
        """
        if self.is_open:
            return action()
        future: asyncio.Future[T] = self.loop.create_future()
        self._waiting.append((action, future, owner))
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await future
        except TimeoutError:
            reason = (
                str(self._absence())
                if not self._up
                else (f"{self.settings.text}: too much is under way: the broker does not keep up")
            )
            raise BackendUnavailable(f"{reason}; nothing was sent") from None

    def _admit_waiting(self) -> None:
        while self._waiting and self._up and self.session.room >= 0:
            action, future, _ = self._waiting.popleft()
            if not future.done():
                try:
                    future.set_result(action())
                except Exception as error:  # noqa: BLE001 - it belongs to the caller
                    future.set_exception(error)
        self.flush_soon()

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
        future: asyncio.Future[None] = self.loop.create_future()
        self._arrivals.append((number, future))
        await asyncio.wait([future], timeout=timeout)
        return self.session.confirmed >= number

    def _tell_arrivals(self) -> None:
        confirmed = self.session.confirmed
        for number, future in self._arrivals:
            if number <= confirmed:
                _resolve(future)
        self._arrivals = [a for a in self._arrivals if not a[1].done()]

    def leave(self, owner: object) -> None:
        """Fail with NotOpenError whatever *owner* waits for."""

        def error() -> NotOpenError:
            return NotOpenError("closed before the broker answered")

        for _, future, who in self._waiting:
            if who is owner and not future.done():
                future.set_exception(error())
        self.requests.close(owner, error)

    # ------------------------------------------------------------------ heartbeats

    def _schedule_tick(self) -> None:
        self._due = self._clock.monotonic() + self._heartbeat / 2
        self._ticker = self.loop.call_later(self._heartbeat / 2, self._tick)

    def _tick(self) -> None:
        now = self._clock.monotonic()
        if now - self._due > self._heartbeat:
            # This process was paused: the silence is its own.
            self._heard_at = now
        if now - self._heard_at > _MISSED_HEARTBEATS * self._heartbeat:
            self._end_link(BackendUnavailable(f"{self.settings.text}: the broker fell silent"))
            return
        if self._link is not None and now - self._sent_at >= self._heartbeat / 2:
            self._sent_at = now
            self._link.send(self.session.empty())
        self._schedule_tick()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
