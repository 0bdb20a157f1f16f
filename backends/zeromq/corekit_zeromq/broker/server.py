"""The broker process: its connections, one loop, and the engine behind them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sqlite3
from collections.abc import Sequence
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
from .plain_transport import PlainTransport
from .processes import Processes
from .security import Authenticator
from .sessions import Session
from .transport import Transport
from .turns import Turns

logger = logging.getLogger("corekit.broker")

#: What reading a journal raises in which something stands that was never written.
_DAMAGE = (sqlite3.Error, ValueError, TypeError, ArithmeticError, LookupError)

#: Pauses between looks at the connections of processes that died, in seconds: the first, the most.
_FIRST_LOOK = 0.001
_LAST_LOOK = 0.05


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
        async with contextlib.AsyncExitStack() as undo:
            self._directory.open()
            undo.callback(self._directory.close)
            self._processes = Processes(self._loop, self._process_died)
            self._open_engine()
            undo.callback(self._journal.close)
            transport = self._make_transport(listen)
            undo.push_async_callback(transport.close)
            await transport.open()
            self._transport = transport
            self.addresses = transport.addresses
            undo.pop_all()
        self.stopped: asyncio.Future[int] = self._loop.create_future()
        self._ticked_at = self._marked_at = self._last_client_at = self._clock.monotonic()
        self._turns = Turns(self._engine, self._journal, transport, self._clock, self._fail)
        self._look: asyncio.Handle | None = None
        self._tick()
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

    def _make_transport(self, listen: Sequence[Endpoint]) -> Transport:
        if self._authenticator is None:
            return PlainTransport(listen, self._limits, self._engine.complaints, self._clock)
        # libzmq's socket; only encrypted connections need it.
        from .curve_transport import CurveTransport

        return CurveTransport(listen, self._limits, self._authenticator)

    def reload(self) -> None:
        """Read the list of keys again; sessions whose key was removed end."""
        authenticator = self._authenticator
        if authenticator is None or self._transport is None:
            return
        authenticator.reload()

        def end_sessions() -> None:
            for session in self._engine.sessions:
                # ZAP looks at the handshake only: an open connection would go on.
                if not authenticator.allows(session.user):
                    error = AuthenticationFailed("the key is no longer allowed")
                    self._engine.refuse(session, error)

        self._turns.within(end_sessions)

    def _open_engine(self) -> None:
        try:
            self._journal = Journal(self._directory.path, durable=self._durable)
        except _DAMAGE as error:
            raise self._damaged(error) from error
        try:
            mark = self._directory.high_water()
            self._compare(mark)
            self._engine = Engine(
                self._journal,
                self._limits,
                os.urandom,
                now=self._clock.monotonic(),
                wall=self._clock.time(),
                version=self._version,
                high_water=mark,
                processes=self._processes,
            )
            self._journal.commit()
        except BrokerRefused:
            self._journal.close()
            raise
        except _DAMAGE as error:
            self._journal.close()
            raise self._damaged(error) from error
        except BaseException:
            self._journal.close()
            raise

    def _damaged(self, error: Exception) -> BrokerRefused:
        return BrokerRefused(
            exits.CORRUPT, f"the journal in {self._directory.path} is damaged: {error}"
        )

    def _compare(self, mark: HighWater | None) -> None:
        """Say so if the journal is behind what an earlier life had committed."""
        if mark is None or self._journal.last >= mark.seq:
            return
        text = (
            f"the journal in {self._directory.path} ends at message {self._journal.last}, but "
            f"{mark.seq} was confirmed: it is an older copy, or its end was lost"
        )
        if self._strict:
            raise BrokerRefused(exits.CORRUPT, text)
        logger.error("%s", text)

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
        self._transport = None
        self._ticker.cancel()
        await self._turns.close()
        self._processes.close()
        if self._look is not None:
            self._look.cancel()
        await transport.close()
        self._keep_high_water()
        self._journal.close()
        self._directory.close()
        self.addresses = []
        gc.unfreeze()
        self.stop()
        logger.info("stopped")

    def _fail(self, error: Exception) -> None:
        by_disk = isinstance(error, sqlite3.Error | OSError)
        what = "the journal failed" if by_disk else "a turn failed"
        logger.critical("%s, the broker ends: %s", what, error, exc_info=error)
        if not self.stopped.done():
            self.stopped.set_result(exits.IO_ERROR if by_disk else exits.FAULT)

    # -- what time asks for

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(min(0.1, self._limits.heartbeat / 4), self._tick)
        now = self._clock.monotonic()
        away = now - self._ticked_at
        self._ticked_at = now
        if away > self._limits.heartbeat:
            # We were away, not the clients: nobody is judged for what we could not hear.
            logger.warning("the broker was paused for %.1f s", away)
            self._engine.sessions.extend(away)
        if self._transport is not None:
            self._transport.tick(now)
        try:
            self._check_space()
        except OSError as error:
            # Its directory was removed: what is confirmed from now on would be nowhere.
            self._fail(error)
            return
        self._turns.tick(now)
        if now - self._marked_at >= 1.0:
            self._marked_at = now
            self._keep_high_water()
        self._check_idle(now)

    def _process_died(self, session: Session) -> None:
        self._engine.orphan(self._clock.monotonic(), session)
        if self._look is not None:
            self._look.cancel()
        # Not at once: a message must not go from one dead process to another, whose death stands
        # next in line.
        self._look = self._loop.call_soon(self._look_after_orphans, _FIRST_LOOK)

    def _look_after_orphans(self, pause: float) -> None:
        """End the sessions whose process died, as soon as what they said was read."""
        self._look = None
        self._turns.tick(self._clock.monotonic())
        if self._engine.sessions.orphans:
            more = min(2 * pause, _LAST_LOOK)
            self._look = self._loop.call_later(pause, self._look_after_orphans, more)

    def _keep_high_water(self) -> None:
        """Keep how far the journal got; only what is committed counts."""
        self._directory.keep_high_water(HighWater(self._journal.last, self._clock.time()))

    def _check_space(self) -> None:
        free = self._directory.free_space()
        self._engine.disk = {"disk_free": free, "disk_used": self._directory.used()}
        # What is done leaves room in the journal, not on the disk; the log before it needs the
        # disk's.
        least = self._limits.free_space
        full = free + self._journal.reusable < least or free < least / 2
        if full != self._engine.queues.storage_full:
            self._engine.queues.storage_full = full
            if full:
                logger.error(
                    "less than %d bytes are free in %s: no messages are taken",
                    least,
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
