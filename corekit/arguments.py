"""What a call accepts: durations, counts, flags, functions.

Every check names the parameter, shows what was given, and says what is allowed. It is made before
anything changes, so a refused call leaves nothing behind.
"""

from __future__ import annotations

import inspect
import math
from datetime import timedelta
from functools import partial
from typing import Any

from .errors import InvalidArgument, InvalidType

#: The longest finite duration, in seconds: ten years. Longer ones are mistakes of unit.
LONGEST = 10 * 366 * 86400.0

_SHOWN = 80


def shown(value: object) -> str:
    """Return *value* as an error message shows it: its repr, cut, on one line."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide the error it is shown in
        text = f"<{type(value).__name__}>"
    if not text.isprintable():  # a class's own __repr__ may hold line breaks and worse
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def seconds(
    parameter: str, value: float | timedelta, *, zero: bool = False, infinite: bool = False
) -> float:
    """Return the duration *value* in seconds.

    A number (int or float, not bool) or a timedelta. It must be above 0, or not below with
    *zero*; `math.inf` is allowed with *infinite*. At most `LONGEST` otherwise.

    Raises InvalidType for another type and InvalidArgument for NaN or a value out of range.
    """
    # The usual case first: this check is on every data path.
    if (type(value) is float or type(value) is int) and 0 < value <= LONGEST:
        return float(value)
    given = value
    if isinstance(value, timedelta):
        value = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(
            f"{parameter} must be seconds (int or float) or a timedelta, not {shown(value)}"
        )
    # Compared before it becomes a float: an int may be beyond a float's range. NaN compares false.
    if 0 < value <= LONGEST or (zero and value == 0) or (infinite and value == math.inf):
        return float(value)
    least = "at least 0" if zero else "greater than 0"
    most = ", or math.inf" if infinite else ""
    raise InvalidArgument(
        f"{parameter} must be {least} and at most ten years in seconds{most}, not {shown(given)}"
    )


def whole(parameter: str, value: int, *, least: int, most: int | None = None) -> int:
    """Return the whole number *value*, which must lie between *least* and *most*.

    Raises InvalidType for anything but an int (a bool is none) and InvalidArgument out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{parameter} must be a whole number, not {shown(value)}")
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"between {least} and {most}"
        raise InvalidArgument(f"{parameter} must be {allowed}, not {shown(value)}")
    return value


def flag(parameter: str, value: bool) -> bool:
    """Return *value*, which must be True or False; raises InvalidType for anything else."""
    if not isinstance(value, bool):
        raise InvalidType(f"{parameter} must be True or False, not {shown(value)}")
    return value


def is_async(function: Any) -> bool:
    """Tell whether calling *function* gives a coroutine.

    Sees through `functools.partial`, bound methods and objects with an async `__call__`.
    """
    if isinstance(function, partial):  # one of a partial is a single partial
        function = function.func
    return inspect.iscoroutinefunction(function) or (
        callable(function)
        and inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004 - the method itself is inspected
    )


def async_function(parameter: str, value: Any) -> None:
    """Check that calling *value* gives a coroutine; raises InvalidType if not."""
    if not is_async(value):
        raise InvalidType(f"{parameter} must be an async function, not {shown(value)}")
