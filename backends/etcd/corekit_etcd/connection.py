"""The connection of one App to an etcd cluster: one endpoint at a time, the next when it fails."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from random import SystemRandom
from typing import Any

from grpc.aio import AioRpcError, UsageError

from corekit.clock import Clock
from corekit.errors import (
    AuthenticationFailed,
    BackendError,
    BackendRefused,
    BackendUnavailable,
    NotOpenError,
    OutcomeUnknown,
)

from .driver import AuthenticateRequest, Call, Endpoint, StatusRequest
from .failures import TokenExpired, translated
from .settings import Settings

logger = logging.getLogger("corekit.etcd")

#: How long one try may take before another endpoint is asked, in seconds: longer than a write that
#: waits for a slow disk, and about as long as the election of a new leader.
TRY = 2.0

#: Seconds to reach one endpoint while there are others.
_REACH = 1.0

#: Seconds between two tries: the first, and what they grow to.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5

#: Fail-overs are told in the log at most once in so many seconds.
_TOLD_EACH = 10.0

#: Ask the servers to fail at once, instead of waiting, while there is no leader.
_NEED_LEADER = ("hasleader", "true")

#: Versions whose data may be damaged by a crash under load (etcd issue 13766).
_UNSAFE_VERSION = re.compile(r"3\.5\.[012](\D|$)")

_SHUFFLE = SystemRandom().shuffle


class Connection:
    """Calls to an etcd cluster. It holds no state that a failing endpoint could take with it."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._endpoints = [Endpoint(each, settings.tls) for each in settings.endpoints]
        # Not everybody begins with the same server.
        _SHUFFLE(self._endpoints)
        self._current = 0
        self._metadata: tuple[tuple[str, str], ...] = (_NEED_LEADER,)
        self._login = asyncio.Lock()
        self._logins = 0
        self._told_at = -_TOLD_EACH
        #: Called when another server is asked from now on.
        self.on_move: set[Callable[[], None]] = set()

    def __repr__(self) -> str:
        return f"<Connection {self.settings.text} {self.endpoint!r}>"

    @property
    def endpoint(self) -> Endpoint:
        """The server that is asked at present."""
        return self._endpoints[self._current]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every request."""
        return self._metadata

    async def open(self) -> None:
        """Reach a server and log in.

        Raises BackendUnavailable if none can be reached in time, and BackendRefused.
        """
        timeout = self.settings.connect_timeout
        if self.settings.username is not None:
            await self._log_in(0, timeout)
        status = await self.call(Call.STATUS, StatusRequest(), timeout=timeout)
        if _UNSAFE_VERSION.match(status.version):
            logger.warning(
                "%s: etcd %s may damage its data in a crash; use 3.5.5 or newer",
                self.settings.text,
                status.version,
            )
        if not self.settings.protected:
            logger.warning(
                "%s: neither a user nor a client certificate: anyone who reaches the servers may "
                "take every lock",
                self.settings.text,
            )

    async def close(self) -> None:
        """Disconnect from every server."""
        for endpoint in self._endpoints:
            await endpoint.close()

    async def call(
        self, name: Call, request: Any, *, repeatable: bool = True, timeout: float | None = None
    ) -> Any:
        """Send *request* to one server after the other until one answers; return its answer.

        *repeatable*: doing it twice is the same as doing it once. Otherwise it is sent again only
        if it was certainly not done. *timeout*: seconds over all tries, instead of the settings'.

        Raises BackendRefused; OutcomeUnknown if it was perhaps done (never for what only reads);
        BackendUnavailable otherwise.
        """
        timeout = self.settings.timeout if timeout is None else timeout
        deadline = self._clock.monotonic() + timeout
        failures: dict[str, BackendUnavailable] = {}
        unknown = renewed = False
        pause = _FIRST_PAUSE
        while True:
            endpoint, logins = self.endpoint, self._logins
            left = deadline - self._clock.monotonic()
            try:
                return await self._try(endpoint, name, request, left)
            except TokenExpired:
                if renewed or name is Call.AUTHENTICATE:
                    raise
                await self._log_in(logins, left)
                renewed = True
                continue
            except BackendUnavailable as error:
                failures[endpoint.text] = error
                unknown = unknown or isinstance(error, OutcomeUnknown)
                if (unknown and not repeatable) or self._clock.monotonic() + pause >= deadline:
                    raise self._failure(name, failures, unknown=unknown) from error
                self.failed(endpoint)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def failed(self, endpoint: Endpoint) -> None:
        """Ask the next server from now on, unless that was done meanwhile."""
        if endpoint is not self.endpoint or len(self._endpoints) == 1:
            return
        self._current = (self._current + 1) % len(self._endpoints)
        now = self._clock.monotonic()
        if now - self._told_at >= _TOLD_EACH:
            self._told_at = now
            logger.warning(
                "%s: %s does not answer, going on with %s",
                self.settings.text,
                endpoint.text,
                self.endpoint.text,
            )
        for moved in self.on_move:
            moved()

    async def reach(self, endpoint: Endpoint, timeout: float) -> None:
        """Return when *endpoint* is connected; raises BackendUnavailable after *timeout*."""
        if len(self._endpoints) > 1:
            timeout = min(timeout, _REACH)
        try:
            async with asyncio.timeout(timeout):
                await endpoint.connected()
        except TimeoutError:
            raise BackendUnavailable(f"{endpoint.text} cannot be reached") from None

    async def refresh_login(self) -> None:
        """Log in again, because a stream was told that the token has expired."""
        await self._log_in(self._logins, self.settings.timeout)

    async def _try(self, endpoint: Endpoint, name: Call, request: Any, left: float) -> Any:
        try:
            # Logging in with an old token is refused by some versions.
            metadata = (_NEED_LEADER,) if name is Call.AUTHENTICATE else self._metadata
            # A call on a connection that is not there could not be told from a lost answer.
            if not endpoint.is_connected:
                await self.reach(endpoint, left)
            return await endpoint.calls[name](request, timeout=min(left, TRY), metadata=metadata)
        except AioRpcError as error:
            raise translated(error, endpoint.text) from error
        except UsageError as error:
            raise NotOpenError(f"{self.settings.text} is closed") from error

    def _failure(
        self, name: Call, failures: dict[str, BackendUnavailable], *, unknown: bool
    ) -> BackendUnavailable:
        told = "; ".join(map(str, failures.values()))
        if unknown and name not in {Call.RANGE, Call.STATUS}:
            return OutcomeUnknown(f"{self.settings.text}: {name} may have been done: {told}")
        return BackendUnavailable(f"{self.settings.text}: {name}: {told}")

    async def _log_in(self, seen: int, timeout: float) -> None:
        """Get a new token, unless somebody else did since *seen* logins."""
        username, password = self.settings.username, self.settings.password
        if username is None:
            raise AuthenticationFailed(f"{self.settings.text}: the servers want a user")
        async with self._login:
            if self._logins != seen:
                return
            try:
                request = AuthenticateRequest(name=username, password=password)
                answer = await self.call(Call.AUTHENTICATE, request, timeout=timeout)
            except BackendRefused as error:
                raise self._login_failed(error) from error
            self._metadata = (_NEED_LEADER, ("token", answer.token))
            self._logins += 1

    def _login_failed(self, error: BackendError) -> AuthenticationFailed:
        if "not enabled" in str(error):
            return AuthenticationFailed(
                f"{self.settings.text}: the servers' authentication is off: remove the user from "
                "the URL, or switch it on"
            )
        return AuthenticationFailed(f"{self.settings.text}: {error}")
