"""Commands with batches, written and read by hand."""

from __future__ import annotations

from typing import Any

from corekit_zeromq.protocol import Op, Reply, decode_batch, packed


def publish(channel: str, *payloads: bytes) -> list[Any]:
    """Return the command that publishes *payloads*."""
    return [Op.PUBLISH, channel, len(payloads), packed(payloads)]


def messages(channel: str, first: int, *batches: list[bytes]) -> list[Any]:
    """Return the reply with *batches*, whose first message has the number *first*."""
    batched = [[len(payloads), packed(payloads)] for payloads in batches]
    return [Reply.MESSAGES, channel, first, batched]


def payloads_of(command: list[Any]) -> list[bytes]:
    """Return the payloads of such a command or reply."""
    batches = [command[2:]] if command[0] == Op.PUBLISH else command[3]
    return [payload for count, batch in batches for payload in decode_batch(count, batch)]
