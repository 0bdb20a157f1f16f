"""What an instance shows of itself while it holds a name: how it is written and read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ..adapters import Member
from ..errors import SerializationError
from .context import ManagerContext
from .log_limit import LogLimit

logger = logging.getLogger("corekit.membership")

#: How many fields stand before the body of an envelope.
_HEAD_FIELDS = 2


@dataclass(frozen=True, slots=True)
class Presence:
    """One instance, seen at a name that it holds."""

    name: str
    token: int
    instance_id: str
    since: float
    """Unix seconds, by that instance's clock."""

    body: Any


class PresenceFormat:
    """Writes and reads the value that is shown at a name."""

    def __init__(self, context: ManagerContext) -> None:
        self._serializer = context.serializer
        self._instance_id = context.instance_id
        self._unreadable = LogLimit(context.clock)

    def __repr__(self) -> str:
        return f"<PresenceFormat {self._instance_id}>"

    def write(self, since: float, body: Any = None) -> bytes:
        """Return this instance's value; raises SerializationError for *body*."""
        return self._serializer.seal((self._instance_id, since), body, what="metadata")

    def read(self, members: Iterable[Member]) -> Iterator[Presence]:
        """Yield every one of *members* that can be read; the others are logged."""
        for member in members:
            try:
                instance_id, since, body = self._serializer.unseal(member.value, _HEAD_FIELDS)
                if type(instance_id) is not str or type(since) is not float or not isfinite(since):
                    raise SerializationError("not an instance's")  # noqa: TRY301 - the same line
            except SerializationError as error:
                if self._unreadable.passes():
                    logger.warning("what is shown at %s cannot be read: %s", member.name, error)
            else:
                yield Presence(member.name, member.token, instance_id, since, body)
