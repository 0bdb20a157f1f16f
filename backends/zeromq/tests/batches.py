"""Commands with batches, written and read by hand."""

from __future__ import annotations

from typing import Any

from corekit_zeromq.protocol import Op, Reply, decode_batch, encode_batch


def publish(channel: str, *payloads: bytes) -> list[Any]:
    """Return the command that publishes *payloads*."""
    return [Op.PUBLISH, channel, len(payloads), encode_batch(payloads)]


def messages(channel: str, first: int, *batches: list[bytes]) -> list[Any]:
    """Return the reply with *batches*, whose first message has the number *first*."""
    packed = [[len(payloads), encode_batch(payloads)] for payloads in batches]
    return [Reply.MESSAGES, channel, first, packed]


def payloads_of(command: list[Any]) -> list[bytes]:
    """Return the payloads of such a command or reply."""
    batches = [command[2:]] if command[0] == Op.PUBLISH else command[3]
    return [payload for count, batch in batches for payload in decode_batch(count, batch)]
