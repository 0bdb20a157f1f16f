"""Keeping a link to the broker: connecting, noticing that it is gone, connecting again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from corekit.clock import Clock
from corekit.errors import AuthenticationFailed, BackendUnavailable, CorekitError
from corekit.tasks import TaskOwner

from .endpoint import locate
from .link import Link, Stage, Take
from .plain_link import PlainLink
from .settings import Keys, Settings

logger = logging.getLogger("corekit.zeromq")

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

#: How long what was sent last may take to leave, in seconds.
_FAREWELL = 0.2


class LinkKeeper:
    """Opens one link after the other, as long as it is not closed.

    *greeting* gives the frame that begins a link, *heartbeat* one that says nothing. *take* gets
    each frame that arrives, sets `heard_at`, and calls `accept` when the broker has accepted the
    greeting.
    *dropped* is called when a link has ended, *away* while the broker cannot be reached for longer
    than the time-out.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        greeting: Callable[[], bytes],
        heartbeat: Callable[[], bytes],
        take: Take,
        dropped: Callable[[], None],
        away: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._greeting = greeting
        self._heartbeat = heartbeat
        self._take = take
        self._dropped = dropped
        self._away = away
        self._loop = asyncio.get_running_loop()
        self._tasks = TaskOwner(f"zmq {settings.text}")
        self._link: Link | None = None
        #: Whether the broker has accepted the link.
        self.is_up = False
        #: Why there is no link.
        self._failure: CorekitError = BackendUnavailable(f"{settings.text}: not connected yet")
        #: Resolved when the broker has accepted the link (True), and when the link ends (False).
        self._verdict: asyncio.Future[bool] | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._down_since = clock.monotonic()
        self._logged = 0
        self._interval = 1.0
        #: When the broker was heard of last.
        self.heard_at = 0.0
        self._sent_at = self._due = 0.0
        self._ticker: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<LinkKeeper {'up' if self.is_up else self._failure} {self._link}>"

    @property
    def was_up(self) -> bool:
        """Whether the broker has ever been reached."""
        return self._opened.done()

    def start(self) -> None:
        """Begin to connect."""
        self._tasks.spawn(self._keep(), name="connection")

    async def ready(self) -> None:
        """Return when the broker has been reached for the first time.

        Raises BackendUnavailable after the time for it; what will not change by itself, such as
        AuthenticationFailed, earlier.
        """
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await asyncio.shield(self._opened)
        except TimeoutError:
            raise self.absence() from None

    async def close(self, farewell: Callable[[], None]) -> None:
        """Connect no more, and end the link; *farewell* may send a last word."""
        try:
            await self._tasks.close()
        finally:
            linger = 0.0
            if self.is_up:
                farewell()
                linger = _FAREWELL
            link = self._let_go()
            self._opened.cancel()
            if link is not None:
                await link.finish(linger)

    def send(self, frame: bytes) -> None:
        """Send *frame*; only while the link is up."""
        if self._link is not None:
            self._sent_at = self._clock.monotonic()
            self._link.send(frame)

    def read_on(self) -> None:
        """Go on reading, after *take* has said that it cannot take more."""
        if self._link is not None:
            # While we were busy with what had come, nobody listened.
            self.heard_at = self._clock.monotonic()
            self._link.read_on()

    def accept(self, interval: float) -> None:
        """Take note that the broker has accepted the link, and beats each *interval* seconds."""
        self.is_up = True
        self._interval = interval
        if self._logged:
            away = self._clock.monotonic() - self._down_since
            logger.warning("%s: connected again after %.0f s", self._settings.text, away)
        self._logged = 0
        if not self._opened.done():
            self._opened.set_result(None)
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result(True)
        self._sent_at = self.heard_at
        self._schedule_tick()

    def end(self, reason: CorekitError) -> None:
        """End the link for *reason*, and open another."""
        self._failure = reason
        self._drop_link()
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result(False)

    def absence(self) -> CorekitError:
        """Return why there is no connection: what the attempt under way shows, or the last one."""
        link = self._link
        if link is None or link.stage is Stage.CONNECTING:
            return self._failure
        return self._described(link)

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        refusals = 0
        while True:
            if await self._connect():
                pause = _FIRST_PAUSE
                refusals = 0
                if self._link is not None:
                    self._verdict = self._loop.create_future()
                    await self._verdict
            elif not isinstance(self._failure, BackendUnavailable):
                refusals += 1
            # Once may be a broker that died in the middle of it.
            if refusals > 1 and not self._opened.done():
                self._opened.set_exception(self._failure)
                self._opened.exception()
            self._drop_link()
            self._report_absence()
            if self._clock.monotonic() - self._down_since > self._settings.timeout:
                self._away()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _connect(self) -> bool:
        """Open a link and greet the broker; return whether the broker has accepted it."""
        verdict = self._verdict = self._loop.create_future()
        settings = self._settings
        try:
            endpoint = await locate(settings)
            self._link = link = _link(endpoint, settings.keys, self._take, self._lost)
        except CorekitError as error:
            self._failure = error
            return False
        except Exception as error:  # noqa: BLE001 - such as too many open files
            # Whatever it is: giving up would make everybody deaf without a word.
            self._failure = BackendUnavailable(f"{settings.text}: {error}")
            self._failure.__cause__ = error
            return False
        try:
            async with asyncio.timeout(_WELCOME_TIMEOUT):
                await link.open()
                link.send(self._greeting())
                accepted: bool = await verdict
        except OSError:  # TimeoutError is one
            self._failure = self._described(link)
            return False
        return accepted

    def _described(self, link: Link) -> CorekitError:
        text = f"{self._settings.text}: {link.stage.value} at {link.endpoint}"
        if link.stage in {Stage.REFUSED, Stage.NEEDS_KEYS}:
            return AuthenticationFailed(text)
        return BackendUnavailable(text)

    def _lost(self) -> None:
        if self.is_up:
            self.end(BackendUnavailable(f"{self._settings.text}: the connection was lost"))
        elif self._link is not None:
            self.end(self._described(self._link))

    def _drop_link(self) -> None:
        link = self._let_go()
        if link is not None:
            link.close()

    def _let_go(self) -> Link | None:
        """Have no link any more; return the one that there was, to be closed."""
        if self.is_up:
            self.is_up = False
            self._down_since = self._clock.monotonic()
            self._logged = 0
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        link, self._link = self._link, None
        if link is not None:
            self._dropped()
        return link

    def _report_absence(self) -> None:
        away = self._clock.monotonic() - self._down_since
        later = self._logged - len(_LOGGED_AT)
        due = _LOGGED_AT[self._logged] if later < 0 else _LOGGED_EACH * (later + 1)
        if away >= due:
            self._logged += 1
            logger.warning("no connection for %.0f s, trying again: %s", away, self._failure)

    def _schedule_tick(self) -> None:
        # Twice as often as needed: what was sent shortly after a tick must not make the next late.
        self._due = self._clock.monotonic() + self._interval / 2
        self._ticker = self._loop.call_later(self._interval / 2, self._tick)

    def _tick(self) -> None:
        now = self._clock.monotonic()
        if now - self._due > self._interval or (self._link is not None and self._link.held_back):
            # This process was paused, or is busy: the silence is its own.
            self.heard_at = now
        if now - self.heard_at > _MISSED_HEARTBEATS * self._interval:
            self.end(BackendUnavailable(f"{self._settings.text}: the broker fell silent"))
            return
        if now - self._sent_at >= self._interval / 2:
            self.send(self._heartbeat())
        self._schedule_tick()


def _link(endpoint: str, keys: Keys | None, take: Take, lost: Callable[[], None]) -> Link:
    if keys is None:
        return PlainLink(endpoint, take, lost)
    # libzmq is loaded only where it is needed.
    from .curve_link import CurveLink

    return CurveLink(endpoint, keys, take, lost)
