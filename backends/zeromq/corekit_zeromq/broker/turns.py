"""Turns of the broker's loop: read what came in, carry it out, commit, send."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from corekit.clock import Clock

from .engine import Engine
from .journal import Journal
from .sessions import Session
from .transport import Transport

logger = logging.getLogger("corekit.broker")

#: Frames, and bytes, that are read in one turn before others get theirs.
_TURN_FRAMES = 256
_TURN_BYTES = 8 * 1024 * 1024

#: The longest commit that the loop does itself, in seconds. Handing it to a thread costs more than
#: a fast disk takes.
_INLINE = 0.002


class _Pace:
    """How long commits took lately, in seconds.

    It halves in about 20 commits: one slow commit does not change the way, a slow disk does.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __repr__(self) -> str:
        return f"{self.seconds * 1000:.2f}ms"

    def add(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) / 32


class Turns:
    """Drives the engine. Everything that comes in while a turn commits is the next turn's batch.

    *failed* is called when the journal fails, or a turn by a fault of ours: memory and disk may no
    longer agree then, and only a new start from the disk can help. No turn is taken after that.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        transport: Transport,
        clock: Clock,
        failed: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._transport = transport
        self._clock = clock
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "journal")
        #: A checkpoint may take many times as long as what goes into the log before and after it.
        self._appending, self._checkpointing = _Pace(), _Pace()
        self._committing: asyncio.Future[bool] | None = None
        self._is_due = False
        self._tick_is_due = False
        self._ended = False
        self._actions: list[Callable[[], object]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._transport.attend(self._turn)
        self.wake()

    def __repr__(self) -> str:
        state = "ended" if self._ended else "committing" if self._committing else "waiting"
        return f"<Turns {state} appending={self._appending} checkpointing={self._checkpointing}>"

    async def close(self) -> None:
        """Take the last turn, unless the journal failed, and no more; leave the log empty."""
        self._transport.ignore()
        self._engine.closing = True
        if self._committing is not None:
            await asyncio.wait([self._committing])
        self._turn()
        if self._committing is not None:
            await asyncio.wait([self._committing])
        if not self._ended:
            self._checkpoint()
        self._ended = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._thread.shutdown()

    def wake(self) -> None:
        """Take a turn as soon as possible."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def within(self, action: Callable[[], object]) -> None:
        """Do *action* in the next turn: between turns the journal may belong to its thread."""
        self._actions.append(action)
        self.wake()

    def tick(self, now: float) -> None:
        """Do what time asks for; also the safety net should an edge of the socket be missed."""
        if self._ended:
            return
        try:
            # Also while a slow disk commits: the clients must not take that for our death.
            for route, frame in self._engine.heartbeats(now):
                if self._transport.send(route, frame) is None:
                    self._engine.sessions.gone(route)
        except Exception as error:  # noqa: BLE001 - as in a turn
            self._fail(error)
            return
        self._tick_is_due = True
        self._turn()

    def _checkpoint(self) -> None:
        try:
            self._journal.checkpoint()
        except (sqlite3.Error, OSError) as error:
            # What it was about stays in the log.
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._ended = True
        self._transport.ignore()
        self._failed(error)

    def _turn(self) -> None:
        self._is_due = False
        if self._committing is not None or self._ended:
            return
        engine = self._engine
        engine.now, engine.wall = self._clock.monotonic(), self._clock.time()
        try:
            self._drain()
            for action in self._actions:
                action()
            self._actions.clear()
            self._pass_on()
            # What may wait for the next commit of others waits for the next tick at most.
            is_due = self._tick_is_due or engine.closing
            if self._tick_is_due:
                self._tick_is_due = False
                engine.tick(drained=not self._transport.readable())
            engine.finish()
            if self._commit(is_due=is_due):
                self._send(settled=not self._journal.pending)
                self._end()
        except Exception as error:  # noqa: BLE001 - half a turn was done, whatever it was
            self._fail(error)

    def _commit(self, *, is_due: bool) -> bool:
        """Commit what cannot wait, or everything if it *is_due*; False if a thread is at it."""
        journal = self._journal
        if not (journal.urgent or (is_due and journal.pending)):
            return True
        if self._pace(checkpoint=not journal.appends).seconds > _INLINE:
            self._commit_in_thread()
            return False
        begun = self._clock.monotonic()
        checkpoint = journal.commit()
        self._pace(checkpoint=checkpoint).add(self._clock.monotonic() - begun)
        return True

    def _pass_on(self) -> None:
        """Send what came, if it needs no commit: it does not wait for what else is to be done."""
        # A tick judges who is silent: first what a connection brought that has gone is read.
        pending = self._journal.pending
        if self._tick_is_due or (pending and self._journal.urgent):
            return
        if not self._engine.pass_on():
            self._send(settled=not pending)

    def _pace(self, *, checkpoint: bool) -> _Pace:
        return self._checkpointing if checkpoint else self._appending

    def _commit_in_thread(self) -> None:
        """Commit while the loop goes on: no turn is taken meanwhile, but time passes."""
        self._transport.ignore()
        begun = self._clock.monotonic()
        self._committing = self._loop.run_in_executor(self._thread, self._journal.commit)

        def committed(commit: asyncio.Future[bool]) -> None:
            self._committing = None
            try:
                checkpoint = commit.result()
                seconds = self._clock.monotonic() - begun
                self._pace(checkpoint=checkpoint).add(seconds)
                self._go_on(seconds)
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(error)

        self._committing.add_done_callback(committed)

    def _go_on(self, seconds: float) -> None:
        if seconds > self._engine.limits.heartbeat:
            # What clients said meanwhile is not read yet: that is no silence of theirs.
            self._engine.sessions.extend(seconds)
        self._send(settled=True)
        if not self._engine.closing:
            self._transport.attend(self._turn)
            self._engine.queues.read_ahead()
            self.wake()

    def _end(self) -> None:
        """Prepare the next turn, and see to it that it comes when there is something to do."""
        if not self._engine.closing:
            self._engine.queues.read_ahead()
        if self._engine.queues.busy or self._transport.readable():
            self.wake()
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        alarm = self._engine.next_alarm()
        if alarm is not None:
            delay = max(0.0, alarm - self._clock.monotonic())
            self._alarm = self._loop.call_later(delay, self.wake)

    def _drain(self) -> None:
        """Give the engine what came in, up to a turn's worth."""
        for route, data, user in self._transport.receive(_TURN_FRAMES, _TURN_BYTES):
            try:
                self._engine.receive(route, data, user)
            except sqlite3.Error:
                raise
            except Exception:
                # A fault of ours; whoever provoked it loses its session, the others go on.
                logger.exception("a frame of %d bytes could not be handled", len(data))
                self._engine.drop(route)

    def _send(self, *, settled: bool) -> None:
        """Send what the turn has to say; everything it depends on is committed.

        *settled*: settled messages, too. They may not be: whoever settled them is not told yet, and
        would settle them again after a crash. So no publisher waits for a commit that only these
        need.
        """
        engine = self._engine
        engine.tell(settled=settled)
        for route, data in engine.replies:
            self._transport.send(route, data)
        engine.replies.clear()
        ready = engine.sessions.ready
        for session in list(ready):
            if self._transmit(session):
                del ready[session]

    def _transmit(self, session: Session) -> bool:
        """Send the frames of *session*; False if its connection is full and it must wait."""
        if session.route is None:
            return True
        while session.transmitted < session.sent:
            number = session.transmitted + 1
            sent = self._transport.send(session.route, session.encoded(number))
            if sent is None:
                # The connection has gone: the session waits for its next one.
                self._engine.sessions.gone(session.route)
                return True
            if not sent:
                return False
            session.transmitted = number
        session.spoke(self._engine.now)
        return True
