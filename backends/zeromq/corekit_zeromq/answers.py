"""What the broker's answers look like, by what was asked: see `protocol`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .protocol import Op
from .session import Command


def is_duration(value: Any) -> bool:
    """Tell whether *value* is a time that can be waited for."""
    return type(value) in {int, float} and 0 < value < math.inf


def _is_nothing(value: Any) -> bool:
    return value is None


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _are_texts(value: Any) -> bool:
    return type(value) is list and all(type(one) is str for one in value)


def _are_outcomes(value: Any) -> bool:
    return value is None or (type(value) is list and all(map(_is_outcome, value)))


def _is_outcome(value: Any) -> bool:
    return value is None or type(value) is str or _is_record(value, str, str)


def _is_map(value: Any) -> bool:
    return type(value) is dict


def _are_counts(value: Any) -> bool:
    return _is_record(value, int, int, int, int)


def _are_dead_letters(value: Any) -> bool:
    return type(value) is list and all(
        _is_record(one, str, bytes, str, int, float) for one in value
    )


def _are_entries(value: Any) -> bool:
    return type(value) is list and all(one is None or _is_record(one, bytes, int) for one in value)


def _are_payloads(value: Any) -> bool:
    return type(value) is list and all(one is None or type(one) is bytes for one in value)


def _is_grant(value: Any) -> bool:
    return value is None or (
        type(value) is list
        and len(value) == 3
        and type(value[0]) is int
        and is_duration(value[1])
        and type(value[2]) is bytes
    )


def _is_granted(value: Any) -> bool:
    return value is None or is_duration(value)


def _is_record(value: Any, *kinds: type) -> bool:
    return type(value) is list and [*map(type, value)] == [*kinds]


_ANSWERS: dict[Op, Callable[[Any], bool]] = {
    Op.SUBSCRIBE: _is_whole,
    Op.QUEUE_PUBLISH: _are_outcomes,
    Op.CLAIM: _are_payloads,
    Op.QUEUE_STATS: _are_counts,
    Op.DEAD_LETTERS: _are_dead_letters,
    Op.REQUEUE: _is_nothing,
    Op.PURGE: _is_whole,
    Op.CACHE_GET: _are_entries,
    Op.CACHE_SET: _is_nothing,
    Op.CACHE_SWAP: _is_flag,
    Op.CACHE_DELETE: _are_payloads,
    Op.CACHE_KEYS: _are_texts,
    Op.CACHE_CLEAR: _is_nothing,
    Op.CACHE_FLUSH: _is_nothing,
    Op.LOCK_ACQUIRE: _is_grant,
    Op.LOCK_EXTEND: _is_granted,
    Op.LOCK_RELEASE: _is_nothing,
    Op.STATUS: _is_map,
}


#: Requests with a list at the end, for each element of which the answer, unless nil, has one.
_FOR_EACH = frozenset({Op.QUEUE_PUBLISH, Op.CLAIM, Op.CACHE_GET, Op.CACHE_DELETE})


def is_answer(command: Command, value: Any) -> bool:
    """Tell whether *value* can be what answers *command*."""
    op = command[0]
    if not _ANSWERS[op](value):
        return False
    return value is None or op not in _FOR_EACH or len(value) == len(command[3])
