"""Going through what stands in a list, tuple, dict or set, however deep."""

from __future__ import annotations

from collections.abc import Iterator
from gc import get_referents
from typing import Any

from .arguments import shown

CONTAINERS = frozenset({list, tuple, dict, set, frozenset})

_SHOWN_KEYS = frozenset({str, int, bool, float, type(None)})
_LONGEST_PATH = 120


def elements(container: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each element of *container*, which stands at *path*, after its own path."""
    if type(container) is dict:
        for key, value in container.items():
            yield f"a key of {path}", key
            yield f"{path}[{shown(key) if type(key) in _SHOWN_KEYS else '...'}]", value
    elif type(container) in {list, tuple}:
        for index, value in enumerate(container):
            yield f"{path}[{index}]", value
    else:
        for value in container:
            yield f"an element of {path}", value


def cut(path: str) -> str:
    """Return *path* as it is shown, without its middle if it is long."""
    return path if len(path) <= _LONGEST_PATH else f"{path[:60]} ... {path[-50:]}"


def depth(value: Any) -> int:
    """Return how deep containers are nested in *value*, which holds no cycle."""
    # Level by level, so that Python's stack does not limit it. get_referents lists the elements of
    # all containers of a level in one call: an element's own look would take most of the time.
    levels, level = 0, [value]
    while level:
        levels += 1
        level = [element for element in get_referents(*level) if type(element) in CONTAINERS]
    return levels
