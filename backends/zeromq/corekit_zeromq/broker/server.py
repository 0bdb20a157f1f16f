"""The broker process: one ROUTER socket, one loop, and the engine behind them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from corekit.clock import SYSTEM_CLOCK, Clock
from corekit.errors import AuthenticationFailed

from . import exits
from .addresses import Endpoint
from .data_directory import DataDirectory, HighWater
from .engine import Engine
from .exits import BrokerRefused
from .journal import Journal
from .limits import Limits
from .security import Authenticator
from .transport import Transport

logger = logging.getLogger("corekit.broker")

#: Frames, and bytes, that are read in one turn before others get theirs.
_TURN_FRAMES = 256
_TURN_BYTES = 8 * 1024 * 1024

#: The longest commit that the loop does itself, in seconds. Handing it to a thread costs more than
#: a fast disk takes.
_INLINE = 0.002


class Broker:
    """A broker, as `async with Broker(...)` for tests and other programs, or as a process.

    `listen` are addresses such as `tcp://127.0.0.1:7650` or `ipc:///run/shop/broker`; with port 0
    the system chooses one, and `addresses` tells which. `data` is the directory of the journal.
    `key_file` holds the broker's CURVE keys, `allow_file` the public keys of those who may connect;
    without both, an address that other machines reach is refused unless `insecure`. `durable=False`
    trades the last moments before a power cut for speed; `strict` refuses to start with a journal
    that is older than what was confirmed; after `idle` seconds without clients `stopped` is set.
    """

    def __init__(
        self,
        listen: Sequence[str],
        data: str | os.PathLike[str],
        *,
        key_file: str | os.PathLike[str] | None = None,
        allow_file: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        durable: bool = True,
        strict: bool = False,
        idle: float | None = None,
        limits: Limits | None = None,
        version: str = "?",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._listen = tuple(listen)
        self._directory = DataDirectory(data)
        self._key_file = key_file
        self._allow_file = allow_file
        self._insecure = insecure
        self._durable = durable
        self._strict = strict
        self._idle = idle
        self._limits = limits or Limits()
        self._version = version
        self._clock = clock
        self._transport: Transport | None = None
        self._failed = False
        self.addresses: list[str] = []

    def __repr__(self) -> str:
        return f"<Broker {', '.join(self.addresses) or 'closed'} {self._directory}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # -- beginning and end

    async def start(self) -> None:
        """Open the data directory and listen.

        Raises BrokerRefused, whose `status` is the exit code that fits; nothing is left open then.
        """
        self._loop = asyncio.get_running_loop()
        listen = self._checked_addresses()
        self._authenticator = self._open_authenticator()
        with contextlib.ExitStack() as undo:
            self._directory.open()
            undo.callback(self._directory.close)
            self._open_engine()
            undo.callback(self._journal.close)
            transport = Transport(listen, self._limits, self._authenticator)
            undo.callback(transport.close)
            if self._authenticator is not None:
                self._authenticator.start(self._loop)
                undo.callback(self._authenticator.stop, self._loop)
            await transport.probe()
            self._transport = transport
            self.addresses = transport.addresses
            undo.pop_all()
        self.stopped: asyncio.Future[int] = self._loop.create_future()
        self._thread = ThreadPoolExecutor(1, "journal")
        self._commit_time = 0.0
        self._committing: asyncio.Future[None] | None = None
        self._turn_is_due = False
        self._alarm: asyncio.TimerHandle | None = None
        self._ticked_at = self._marked_at = self._last_client_at = self._clock.monotonic()
        self._tick_is_due = False
        self._loop.add_reader(self._transport.fileno(), self._wake)
        self._tick()
        self._wake()
        # What exists now stays: the collector need not look at it again.
        gc.freeze()
        logger.info("listening on %s, data in %s", self.addresses, self._directory.path)

    def _checked_addresses(self) -> list[Endpoint]:
        endpoints = [Endpoint.parse(text) for text in self._listen]
        if not endpoints:
            raise BrokerRefused(exits.USAGE, "there is no address to listen on")
        for endpoint in endpoints:
            if self._key_file is None and not self._insecure and not endpoint.is_private:
                raise BrokerRefused(
                    exits.CONFIGURATION,
                    f"{endpoint.text} ({', '.join(endpoint.hosts)}) is not loopback: it needs "
                    "--keys and --allow, or --insecure",
                )
        return endpoints

    def _open_authenticator(self) -> Authenticator | None:
        if self._key_file is None and self._allow_file is None:
            return None
        if self._key_file is None or self._allow_file is None:
            raise BrokerRefused(
                exits.CONFIGURATION, "--keys (the broker's) and --allow (its clients') go together"
            )
        return Authenticator(Path(self._key_file), Path(self._allow_file))

    def reload(self) -> None:
        """Read the list of keys again; sessions whose key was removed end."""
        authenticator = self._authenticator
        if authenticator is None or self._transport is None:
            return
        authenticator.reload()
        for session in self._engine.sessions:
            # ZAP looks at the handshake only: an open connection would go on.
            if not authenticator.allows(session.user):
                self._engine.refuse(session, AuthenticationFailed("the key is no longer allowed"))
        self._wake()

    def _open_engine(self) -> None:
        mark = self._directory.high_water()
        self._journal = Journal(self._directory.path, durable=self._durable)
        try:
            behind = mark is not None and self._journal.meta("seq") < mark.seq
            if mark is not None and behind:
                text = (
                    f"the journal in {self._directory.path} ends at message "
                    f"{self._journal.meta('seq')}, but {mark.seq} was confirmed: it is an older "
                    "copy, or its end was lost"
                )
                if self._strict:
                    raise BrokerRefused(exits.CORRUPT, text)
                logger.error("%s", text)
            self._engine = Engine(
                self._journal,
                self._limits,
                os.urandom,
                now=self._clock.monotonic(),
                wall=self._clock.time(),
                version=self._version,
                high_water=mark,
            )
            self._journal.commit()
        except sqlite3.Error as error:
            self._journal.close()
            raise BrokerRefused(
                exits.CORRUPT, f"the journal in {self._directory.path} is damaged: {error}"
            ) from error
        except BaseException:
            self._journal.close()
            raise

    def stop(self) -> None:
        """Let `stopped` be set: whoever runs the broker closes it then."""
        if not self.stopped.done():
            self.stopped.set_result(os.EX_OK)

    async def close(self) -> None:
        """Stop: what came in is committed and answered, then the sockets are closed.

        A second call does nothing.
        """
        transport = self._transport
        if transport is None:
            return
        self._engine.closing = True
        self._loop.remove_reader(transport.fileno())
        self._ticker.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._committing is not None:
            await asyncio.wait([self._committing])
        if not self._failed:
            self._turn()
            if self._committing is not None:
                await asyncio.wait([self._committing])
            self._keep_high_water()
        self._transport = None
        self.addresses = []
        if self._authenticator is not None:
            self._authenticator.stop(self._loop)
        transport.close()
        self._thread.shutdown()
        self._journal.close()
        self._directory.close()
        gc.unfreeze()
        self.stop()
        logger.info("stopped")

    def _fail(self, error: Exception) -> None:
        """Stop serving: memory and disk no longer agree, only a new start can help."""
        logger.critical("the journal failed, the broker ends: %s", error, exc_info=error)
        self._failed = True
        if self._transport is not None:
            self._loop.remove_reader(self._transport.fileno())
        if not self.stopped.done():
            self.stopped.set_result(exits.IO_ERROR)

    # -- turns

    def _wake(self) -> None:
        """Take a turn as soon as possible."""
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._due_turn)

    def _due_turn(self) -> None:
        self._turn_is_due = False
        if self._committing is None and not self._failed and self._transport is not None:
            self._turn()

    def _turn(self) -> None:
        """Read what came in, carry it out, commit, and send what there is to say."""
        transport = self._transport
        if transport is None:
            return
        engine = self._engine
        engine.begin(self._clock.monotonic(), self._clock.time())
        more = self._drain(transport)
        try:
            if self._tick_is_due:
                self._work_of_a_tick(engine.now, drained=not more)
            engine.finish()
            if not self._journal.pending:
                self._send(transport)
            elif self._commit_time <= _INLINE:
                begun = self._clock.monotonic()
                self._journal.commit()
                self._measure(self._clock.monotonic() - begun)
                self._send(transport)
            else:
                self._commit_in_thread(transport)
                return
        except sqlite3.Error as error:
            self._fail(error)
            return
        self._plan(more=more)

    def _commit_in_thread(self, transport: Transport) -> None:
        """Commit while the loop goes on: it reads nothing meanwhile, but time passes for it."""
        # What comes in waits in the socket, and becomes the next turn's batch. asyncio watches
        # levels: without this it would call for a turn all the time.
        self._loop.remove_reader(transport.fileno())
        begun = self._clock.monotonic()
        self._committing = self._loop.run_in_executor(self._thread, self._journal.commit)

        def committed(commit: asyncio.Future[None]) -> None:
            self._committing = None
            error = commit.exception()
            if isinstance(error, Exception):
                self._fail(error)
            elif self._transport is not None:
                seconds = self._clock.monotonic() - begun
                self._measure(seconds)
                if seconds > self._limits.heartbeat:
                    # What clients said meanwhile is not read yet.
                    self._engine.sessions.extend(seconds)
                self._send(self._transport)
                if not self._engine.closing:
                    self._loop.add_reader(self._transport.fileno(), self._wake)
                    self._plan(more=True)

        self._committing.add_done_callback(committed)

    def _measure(self, seconds: float) -> None:
        # Halves in about 20 commits: one slow commit does not change the way, a slow disk does.
        self._commit_time += (seconds - self._commit_time) / 32

    def _plan(self, *, more: bool) -> None:
        """See to it that the next turn comes when there is something to do."""
        if more or self._engine.queues.busy or (
            self._transport is not None and self._transport.readable()
        ):
            self._wake()
            return
        alarm = self._engine.next_alarm()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if alarm is not None:
            self._alarm = self._loop.call_at(
                self._loop.time() + max(0.0, alarm - self._clock.monotonic()), self._wake
            )

    def _drain(self, transport: Transport) -> bool:
        """Give the engine what came in, up to a turn's worth; return whether there may be more."""
        engine = self._engine
        size = 0
        for _ in range(_TURN_FRAMES):
            frame = transport.receive()
            if frame is None:
                return False
            route, data, user = frame
            size += len(data)
            try:
                engine.receive(route, data, user)
            except sqlite3.Error as error:
                self._fail(error)
                return False
            except Exception:
                # A fault of ours; whoever provoked it loses its session, the others go on.
                logger.exception("a frame of %d bytes could not be handled", len(data))
                engine.drop(route)
            if size > _TURN_BYTES:
                break
        return True

    def _send(self, transport: Transport) -> None:
        engine = self._engine
        for route, data in engine.replies:
            transport.send(route, data)
        engine.replies.clear()
        ready = engine.sessions.ready
        for session in list(ready):
            if session.route is None:
                del ready[session]
                continue
            for number, data in session.untransmitted():
                outcome = transport.send(session.route, data)
                if outcome is None:
                    # The connection has gone: the session waits for its next one.
                    engine.sessions.detach(session)
                    del ready[session]
                    break
                if not outcome:
                    break  # full: it stays among those that are ready
                session.transmitted = number
            else:
                session.spoke(engine.now)
                del ready[session]

    def _tick(self) -> None:
        """Do what time asks for; also the safety net should an edge of the socket be missed."""
        interval = min(0.1, self._limits.heartbeat / 4)
        self._ticker = self._loop.call_later(interval, self._tick)
        if self._failed or self._transport is None:
            return
        now = self._clock.monotonic()
        away = now - self._ticked_at
        self._ticked_at = now
        if away > self._limits.heartbeat:
            # We were away, not the clients: nobody is judged for what we could not hear.
            logger.warning("the broker was paused for %.1f s", away)
            self._engine.sessions.extend(away)
        if self._authenticator is not None:
            self._authenticator.answer()
        for route, frame in self._engine.heartbeats(now):
            self._transport.send(route, frame)
        self._tick_is_due = True
        if self._committing is None:
            self._turn()
        self._check_idle(now)

    def _work_of_a_tick(self, now: float, *, drained: bool) -> None:
        self._tick_is_due = False
        self._check_space()
        self._engine.tick(drained=drained)
        if now - self._marked_at >= 1.0:
            self._marked_at = now
            self._keep_high_water()

    def _keep_high_water(self) -> None:
        """Keep how far the journal got; only what is committed counts."""
        self._directory.keep_high_water(HighWater(self._journal.last, self._clock.time()))

    def _check_space(self) -> None:
        free = self._directory.free_space()
        self._engine.disk = {"disk_free": free, "disk_used": self._directory.used()}
        full = free < self._limits.free_space
        if full != self._engine.queues.storage_full:
            self._engine.queues.storage_full = full
            if full:
                logger.error(
                    "less than %d bytes are free in %s: no messages are taken",
                    self._limits.free_space,
                    self._directory.path,
                )
            else:
                logger.info("there is room in %s again", self._directory.path)

    def _check_idle(self, now: float) -> None:
        if len(self._engine.sessions):
            self._last_client_at = now
        elif self._idle is not None and now - self._last_client_at > self._idle:
            logger.info("no client for %.0f s: stopping", self._idle)
            self.stop()
