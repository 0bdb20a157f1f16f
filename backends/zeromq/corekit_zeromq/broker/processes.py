"""The processes of clients on this machine: their death is known at once, and for certain."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..process_identity import ProcessIdentity, own_identity, start_time

if TYPE_CHECKING:
    from .sessions import Session

#: The part of the descriptors which the broker may open that watching may use.
_SHARE = 4


class _Watched:
    """A process, and the sessions it has."""

    __slots__ = ("descriptor", "sessions")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.sessions: dict[Session, None] = {}


class Processes:
    """Watches the processes that sessions say they belong to; *died* is called for each session.

    What a client says of itself is believed only as far as it harms nobody else: the session of
    whoever names another's process ends with that process, and nothing more. A process that cannot
    be watched (on another machine, in another pid namespace, on a system without pidfds, one too
    many) is left to its heartbeats.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, died: Callable[[Session], None]) -> None:
        self._loop = loop
        self._died = died
        self._own = own_identity()
        self._watched: dict[ProcessIdentity, _Watched] = {}

    def __repr__(self) -> str:
        return f"<Processes {len(self._watched)}>"

    def watch(self, session: Session, process: ProcessIdentity) -> bool:
        """Watch *process* for *session*; return whether that is possible."""
        watched = self._watched.get(process)
        if watched is None:
            descriptor = self._open(process)
            if descriptor is None:
                return False
            watched = self._watched[process] = _Watched(descriptor)
            self._loop.add_reader(descriptor, self._ended, process)
        watched.sessions[session] = None
        return True

    def _open(self, process: ProcessIdentity) -> int | None:
        own = self._own
        if own is None or (process.boot, process.namespace) != (own.boot, own.namespace):
            return None
        if len(self._watched) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE:
            return None
        try:
            descriptor = os.pidfd_open(process.pid)
        except (AttributeError, OSError):
            return None
        # Asked after it was opened: if this is the process now, that is the one which was opened.
        if start_time(process.pid) == process.started:
            return descriptor
        os.close(descriptor)
        return None

    def _ended(self, process: ProcessIdentity) -> None:
        sessions = self._watched[process].sessions
        self._close(process)
        for session in sessions:
            self._died(session)

    def forget(self, session: Session, process: ProcessIdentity) -> None:
        """Watch *process* no longer for *session*."""
        watched = self._watched.get(process)
        if watched is not None:
            watched.sessions.pop(session, None)
            if not watched.sessions:
                self._close(process)

    def _close(self, process: ProcessIdentity) -> None:
        descriptor = self._watched.pop(process).descriptor
        self._loop.remove_reader(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Watch nothing any more."""
        for process in list(self._watched):
            self._close(process)
