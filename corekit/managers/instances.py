"""The live instances of an application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .. import names
from ..adapters import Member
from ..errors import BackendError, LockLost, NotOpenError
from ..tasks import TaskOwner
from .context import ManagerContext
from .lease import Lease
from .lock import LockManager
from .membership import PresenceFormat

logger = logging.getLogger("corekit.instances")

#: How long an instance that died is still seen, in seconds.
TTL = 15.0

#: The pause before joining is tried again, in seconds.
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Instance:
    """A live instance of the application."""

    id: str

    started: float
    """When its App was started, in Unix seconds by its own clock."""

    metadata: Any
    """What it was told to show to the others."""


@dataclass(frozen=True, slots=True)
class InstanceChange:
    """An instance joined or left."""

    event: Literal["joined", "left"]

    instance: Instance


class Instances:
    """The live instances, this one included.

    `await app.instances()` is the list of them, the oldest first. `async for change in
    app.instances()` yields an `InstanceChange` for each one that is there, then for each that joins
    or leaves; it ends with NotOpenError when the App stops. An instance that stops leaves at once,
    one that dies within its ttl. One that was away (paused, cut off) leaves and joins again; if
    that was too quick to be seen, both changes come one after the other all the same.

    Raises ConfigurationError if the backend of the locks cannot keep members, BackendUnavailable,
    NotOpenError.
    """

    def __init__(self, locks: LockManager, presence: PresenceFormat, prefix: str) -> None:
        self._locks = locks
        self._presence = presence
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"<Instances {self._prefix}>"

    def __await__(self) -> Generator[Any, None, list[Instance]]:
        return self._list().__await__()

    async def __aiter__(self) -> AsyncIterator[InstanceChange]:
        known: dict[tuple[str, int], Instance] = {}
        async for members in self._locks.membership().watch(self._prefix):
            present = self._read(members)
            for mark, instance in known.items():
                if mark not in present:
                    yield InstanceChange("left", instance)
            for mark, instance in present.items():
                if mark not in known:
                    yield InstanceChange("joined", instance)
            known = present

    async def _list(self) -> list[Instance]:
        members = await self._locks.membership().members(self._prefix)
        return list(self._read(members).values())

    def _read(self, members: list[Member]) -> dict[tuple[str, int], Instance]:
        return {
            (seen.name, seen.token): Instance(seen.instance_id, seen.since, seen.body)
            for seen in self._presence.read(members)
        }


class InstanceRegistry:
    """Keeps this instance among the live ones, from `open` to `close`.

    It joins again by itself if it was away for longer than its ttl. On a backend that cannot keep
    members it does nothing.
    """

    def __init__(
        self, context: ManagerContext, locks: LockManager, metadata: Mapping[str, Any] | None = None
    ) -> None:
        self._clock = context.clock
        self._locks = locks
        self._metadata = dict(metadata or {})
        self._presence = PresenceFormat(context)
        self._prefix = names.full(context.app, names.INSTANCE)
        self._name = names.full(context.app, names.INSTANCE, context.instance_id)
        self._tasks = TaskOwner("instances")

    def __repr__(self) -> str:
        return f"<InstanceRegistry {self._name} {'joined' if len(self._tasks) else 'closed'}>"

    async def open(self) -> None:
        """Join the live instances; the lock manager must be open.

        Raises SerializationError for the metadata, and BackendError. If an instance with the same
        id is still seen (this one, before it died), joining waits for it in the background.
        """
        value = self._presence.write(self._clock.time(), self._metadata)
        if self._locks.keeps_members:
            lease = await self._join(value, wait=0)
            if lease is None:
                logger.warning(
                    "%s is still held by another: two instances with one id?", self._name
                )
            self._tasks.spawn(self._stay(lease, value), name=f"stay {self._name}")

    async def close(self) -> None:
        """Leave the live instances; on a closed registry it does nothing."""
        await self._tasks.close()

    def instances(self) -> Instances:
        """Return the live instances, to be awaited or iterated."""
        return Instances(self._locks, self._presence, self._prefix)

    async def _join(self, value: bytes, wait: float | None) -> Lease | None:
        return await self._locks.hold(self._name, TTL, wait, lambda: value)

    async def _stay(self, lease: Lease | None, value: bytes) -> None:
        while True:
            try:
                if lease is None:
                    lease = await self._join(value, wait=None)
                if lease is not None:
                    await self._locks.keep(lease)
            except LockLost as error:
                logger.warning("this instance was not seen by the others for a while: %s", error)
            except BackendError as error:
                logger.warning("%s cannot join, trying again: %s", self._name, error)
                await asyncio.sleep(_PAUSE)
            except NotOpenError:
                return
            lease = None
