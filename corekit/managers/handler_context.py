"""Whether code runs inside a handler, so that it does not wait for its own end."""

from __future__ import annotations

from contextvars import ContextVar

_inside: ContextVar[str | None] = ContextVar("corekit_inside_handler", default=None)


def enter_handler(instance_id: str) -> None:
    """Mark the present context, and the tasks that begin in it, as a handler's of that App."""
    _inside.set(instance_id)


def inside_handler(instance_id: str) -> bool:
    """Tell whether the running code belongs to a handler of that App, or to a task it began."""
    return _inside.get() == instance_id
