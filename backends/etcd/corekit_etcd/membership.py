"""What the keys of locks look like, and what their owners show in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from corekit.adapters import Member
from corekit.errors import BackendUnavailable

from .client import Client
from .driver import Call, RangeRequest, is_text
from .watch import Watches

logger = logging.getLogger("corekit.etcd")

#: Stands between a name and the places in its queue. No name holds it, so none begins with another
#: and this.
SEPARATOR = b"\0"
AFTER_SEPARATOR = b"\1"

#: The value of a key that waits, of one that owns its name, and what stands before what such a one
#: shows.
WAITER = b"w"
OWNER = b"o"
SHOWN = b"o:"

#: Seconds until an absent backend is asked again.
_PAUSE = 0.5


class Seen(NamedTuple):
    """The members at a revision."""

    members: list[Member]
    revision: int


class Members:
    """Reads what the owners of names show."""

    def __init__(self, client: Client, watches: Watches, root: bytes) -> None:
        self._client = client
        self._watches = watches
        self._root = root

    def __repr__(self) -> str:
        return f"<Members {self._root!r}>"

    async def seen(self, prefix: str) -> Seen:
        """Return what is shown under *prefix* at the moment."""
        start, end = self._range(prefix)
        request = RangeRequest(key=start, range_end=end, sort_target=RangeRequest.CREATE)
        request.sort_order = RangeRequest.ASCEND
        answer = await self._client.call(Call.RANGE, request)
        covered = (SEPARATOR, b"/")
        members = [
            self._member(found)
            for found in answer.kvs
            if found.value.startswith(SHOWN)
            and found.key[len(start) - 1 :].startswith(covered)
            and is_text(found.key)
        ]
        return Seen(members, answer.header.revision)

    async def watch(self, prefix: str) -> AsyncGenerator[list[Member], None]:
        """Yield what is shown under *prefix*, now and whenever it has changed."""
        start, end = self._range(prefix)
        last: list[Member] | None = None
        while True:
            with self._client.pending():
                now = await self._seen_in_the_end(prefix)
            if now.members != last:
                last = now.members
                yield now.members
            with (
                self._client.pending(),
                self._watches.watch(start, end, revision=now.revision + 1) as watch,
            ):
                await watch.happened.wait()
                if watch.refusal is not None:
                    raise watch.refusal

    async def _seen_in_the_end(self, prefix: str) -> Seen:
        told = False
        while True:
            try:
                return await self.seen(prefix)
            except BackendUnavailable as error:
                if not told:
                    logger.warning("members of %s are not known at the moment: %s", prefix, error)
                told = True
                await asyncio.sleep(_PAUSE)

    def _range(self, prefix: str) -> tuple[bytes, bytes]:
        """Return the range of the name *prefix* and those below it; others may lie between."""
        name = self._root + prefix.encode()
        return name + SEPARATOR, name + bytes([b"/"[0] + 1])

    def _member(self, found: Any) -> Member:
        name, _, _ = found.key[len(self._root) :].rpartition(SEPARATOR)
        return Member(name.decode(), found.create_revision, found.value[len(SHOWN) :])
