"""Patterns of keys."""

from __future__ import annotations

from collections.abc import Callable


def key_pattern(pattern: str) -> Callable[[str], bool]:
    """Return a test whether a key matches *pattern*: a `*` stands for any text, also for none.

    It takes linear time, which a regular expression with several stars does not.
    """
    first, *middle = pattern.split("*")
    if not middle:
        return first.__eq__
    last = middle.pop()

    def matches(key: str) -> bool:
        end = len(key) - len(last)
        at = len(first)
        if end < at or not key.startswith(first) or not key.endswith(last):
            return False
        for part in middle:
            at = key.find(part, at, end) + len(part)
            if at < len(part):
                return False
        return True

    return matches
