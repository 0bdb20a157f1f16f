"""A message of the event queue as its handler, its envelope and its dead letter show it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from ..adapters import DeadMessage
from ..arguments import LONGEST, seconds, shown, whole
from ..errors import SerializationError
from ..serialization import Serializer
from . import backoff

T = TypeVar("T", bound=tuple[Any, ...])

#: Makes a named tuple of a sequence, in half the time of its own constructor.
make: Callable[[type[T], Sequence[Any]], T] = tuple.__new__

#: How much of an error's text a dead letter keeps, in characters.
_ERROR_LENGTH = 2048


class DeliveryContext(NamedTuple):
    """What a handler is told about the delivery beside the message itself."""

    id: str
    """The message's id, the same in every delivery of it: handlers can be idempotent by it."""

    attempt: int
    """1 for the first; one more after each failure."""

    channel: str
    """The channel, as it was named in `subscribe`."""

    published_at: float
    """When the message was published, in Unix seconds."""

    deadline: float
    """When this delivery times out and the handler is cancelled, in Unix seconds."""


Process = Callable[[Any, DeliveryContext], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed for good and is kept for inspection and `requeue`."""

    id: str
    message: Any
    """The message; the bytes of its envelope if they cannot be decoded."""

    error: str
    """Why it failed the last time: "ClassName: text"."""

    attempts: int
    died_at: float
    """Unix seconds."""


#: What travels with a message, fixed by its publisher: timeout, max_retries, and its waits.
Terms = tuple[float, int, backoff.Waits]


class Envelope(NamedTuple):
    """A message and the terms on which it is handled."""

    timeout: float
    max_retries: int
    waits: backoff.Waits
    body: Any


#: How many fields stand before the body of an envelope.
_TERMS = 3

#: The most retries a message may have.
_MOST_RETRIES = 100_000


def terms(timeout: float | timedelta, max_retries: int, chosen: backoff.Backoff | None) -> Terms:
    """Return what `publish` was told of a message, checked; *chosen* is its back-off.

    Raises InvalidType or InvalidArgument.
    """
    limit = seconds("timeout", timeout)
    retries = whole("max_retries", max_retries, least=0, most=_MOST_RETRIES)
    return limit, retries, backoff.planned(chosen, retries)


def opened(serializer: Serializer, payload: bytes) -> Envelope:
    """Return the envelope in *payload*; raises SerializationError if there is none."""
    timeout, max_retries, waits, body = serializer.unseal(payload, _TERMS)
    if type(timeout) is not float or not 0 < timeout <= LONGEST:
        raise SerializationError(f"the envelope's timeout is {shown(timeout)}")
    if type(max_retries) is not int or max_retries < 0:
        raise SerializationError(f"the envelope's max_retries is {shown(max_retries)}")
    # Nearly every message has the default, which needs no check.
    if waits != backoff.FIRST:
        try:
            waits = backoff.checked(waits)
        except ValueError as error:
            raise SerializationError(f"the envelope's back-off: {error}") from None
    return make(Envelope, (timeout, max_retries, waits, body))


def dead_letter(serializer: Serializer, dead: DeadMessage) -> DeadLetter:
    """Return *dead* as its finder sees it."""
    try:
        message = opened(serializer, dead.payload).body
    except SerializationError:
        message = dead.payload
    return DeadLetter(dead.id, message, dead.error, dead.attempts, dead.died_at)


def error_text(error: BaseException) -> str:
    """Return *error* as a dead letter keeps it: "ClassName: text", cut."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a handler's error may be broken in any way
        text = "(its text cannot be had)"
    text = f"{name}: {text}" if text else name
    # Lone surrogates, which file names bring along, could not be stored.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 3] + "..."
