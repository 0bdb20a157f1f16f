"""Where the memory adapters of one process meet."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from ..adapters import AdapterContext
from ..config import BackendURL

T = TypeVar("T")

#: The state behind every `memory://NAME` of this process, by name and component. It lives as
#: long as the process; `corekit.testing.drop_memory` empties it.
_HUBS: dict[tuple[str, type], Any] = {}


#: The options of a memory URL. Each component takes all of them, since one URL may serve them all,
#: and heeds its own: `max` and `copy` the cache, `max_messages` the event queue.
OPTIONS = ("copy", "max", "max_messages")


def hub(url: BackendURL, context: AdapterContext, kind: type[T]) -> T:
    """Return the *kind* of state that all Apps with this URL share, made on first use.

    `memory://NAME` is shared by every App that names it; without a name the App's name is used.
    """
    name = url.name or context.app
    found = _HUBS.get((name, kind))
    if found is None:
        # `setdefault` is one step: of Apps that come at once from several threads, one is first.
        found = _HUBS.setdefault((name, kind), kind())
    return cast(T, found)


def drop() -> None:
    """Forget every hub; Apps that are open keep the one they have."""
    _HUBS.clear()
