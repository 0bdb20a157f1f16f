"""A program that sends a broker what no client sends.

    hostile.py PORT COUNT SEED

Prints how much it sent, by kind, as a JSON object.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import zmq
from corekit_zeromq.protocol import MAGIC, VERSION, Op, encode

#: So much is sent over one connection; the broker ends most of them before.
PER_CONNECTION = 100


class Hostile:
    """Makes frames, each kind in its own way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable

    def value(self, depth: int = 0) -> Any:
        """Return anything that msgpack has."""
        kinds: list[Callable[[], Any]] = [
            lambda: None,
            lambda: self.random.random() < 0.5,
            lambda: self.random.randrange(-(2**63), 2**64),
            lambda: self.random.choice([0, 1, -1, 2**31, 2**63]),
            lambda: self.random.choice([float("nan"), float("inf"), -1.0, 1e300]),
            lambda: self.random.randbytes(self.random.randrange(40)),
            lambda: "x" * self.random.randrange(3000),
            lambda: "\0",
        ]
        if depth < 3:
            kinds += [
                lambda: [self.value(depth + 1) for _ in range(self.random.randrange(5))],
                lambda: {str(n): self.value(depth + 1) for n in range(self.random.randrange(4))},
            ]
        return self.random.choice(kinds)()

    def command(self) -> list[Any]:
        """Return a command whose form is nearly right."""
        op = self.random.choice([*Op, *Op, *range(70), -1, 2**40])
        return [op, *(self.value() for _ in range(self.random.randrange(8)))]

    def shaped(self) -> list[bytes]:
        """Return a frame of the protocol with commands that are nonsense."""
        number = self.random.choice([0, 1, 2, self.random.randrange(2**32), 2**63])
        commands = [self.command() for _ in range(self.random.randrange(4))]
        return [encode(number, self.random.randrange(3), commands)]

    def good(self) -> bytes:
        """Return a frame that is right."""
        hello = [Op.HELLO, MAGIC, VERSION, b"", b"", 0, {"name": "hostile"}]
        return encode(0, 0, [hello, [Op.CONSUME, 1, "x"], [Op.CREDIT, 1, 20]])

    def noise(self) -> list[bytes]:
        """Return random bytes."""
        return [self.random.randbytes(self.random.randrange(2000))]

    def truncated(self) -> list[bytes]:
        """Return the beginning of a good frame."""
        frame = self.good()
        return [frame[: self.random.randrange(len(frame))]]

    def flipped(self) -> list[bytes]:
        """Return a good frame with a few bits turned over."""
        frame = bytearray(self.good())
        for _ in range(self.random.randrange(1, 4)):
            frame[self.random.randrange(len(frame))] ^= 1 << self.random.randrange(8)
        return [bytes(frame)]

    def claiming(self) -> list[bytes]:
        """Return a header that claims more than follows, or nests without end."""
        huge = struct.pack(">I", self.random.randrange(2**32))
        return [
            self.random.choice(
                [
                    *(b"\xdd" + huge, b"\xdf" + huge, b"\xc6" + huge, b"\xdb" + huge),
                    b"\x91" * self.random.randrange(20_000),
                    b"\x93\x00\x00\xdd" + huge,
                    msgpack.packb([1, 0, [[Op.ACK, 1, list(range(5000))]]]),
                ]
            )
        ]

    def parts(self) -> list[bytes]:
        """Return a message of several parts, where one is right."""
        return [self.good()] + [b""] * self.random.randrange(1, 300)


KINDS = ("shaped", "noise", "truncated", "flipped", "claiming", "parts")


def strangers(port: int, hostile: Hostile) -> None:
    """Speak no ZeroMQ at all, and go; or say half of the greeting."""
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL"
    for data in (hostile.random.randbytes(500), greeting, greeting + b"\0" * 48 + b"\4\xff"):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            one.sendall(data)


def main(port: int, count: int, seed: int) -> None:
    """Send *count* frames."""
    hostile = Hostile(seed)
    sent: Counter[str] = Counter()
    context = zmq.Context()
    while sent.total() < count:
        peer = context.socket(zmq.DEALER)
        peer.linger = 200
        peer.sndtimeo = 5000
        peer.connect(f"tcp://127.0.0.1:{port}")
        if hostile.random.random() < 0.7:
            peer.send(hostile.good())
        for _ in range(PER_CONNECTION):
            kind = hostile.random.choice(KINDS)
            with suppress(zmq.Again):
                peer.send_multipart(getattr(hostile, kind)())
                sent[kind] += 1
            if hostile.random.random() < 0.5:
                with suppress(zmq.Again):
                    peer.recv(zmq.NOBLOCK)
        if hostile.random.random() < 0.02:
            peer.send(bytes(80 * 1024 * 1024))
            sent["oversized"] += 1
        if hostile.random.random() < 0.02:
            peer.send(b"\x93\1\0\xdc\0\x50" + (b"\xdc\x10\0" + b"\x90" * 4096) * 80)
            sent["heavy"] += 1
        peer.close()
        strangers(port, hostile)
        sent["strangers"] += 3
    context.term()
    print(json.dumps(sent))  # noqa: T201 - this is how a program tells


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
