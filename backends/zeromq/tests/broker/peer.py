"""A client that speaks the protocol by hand: to the engine directly, or over a socket."""

from __future__ import annotations

from random import Random
from typing import Any

import zmq
from corekit_zeromq.broker import rows
from corekit_zeromq.broker.engine import Engine
from corekit_zeromq.broker.journal import Journal
from corekit_zeromq.broker.limits import Limits
from corekit_zeromq.protocol import MAGIC, VERSION, Op, Reply, decode, encode

WALL = 1_700_000_000.0


class Bench:
    """An engine on a journal, with a clock that stands still."""

    #: Shared: a bench may go on with the journal of another.
    random = Random(1).randbytes  # noqa: S311 - no secret

    def __init__(self, directory: Any, **limits: Any) -> None:
        self.directory = directory
        self.limits = Limits(**limits)
        self.now = 1000.0
        self.wall = WALL
        self.peers: dict[bytes, Peer] = {}
        self.start()

    def start(self) -> None:
        self.journal = Journal(self.directory)
        self.engine = Engine(self.journal, self.limits, self.random, now=self.now, wall=self.wall)
        self.journal.commit()

    def crash(self) -> None:
        """End without any farewell, and start again."""
        self.journal.close()
        self.peers.clear()
        self.start()

    def turn(self, *frames: tuple[bytes, bytes], tick: bool = False, user: str = "") -> None:
        """Take one turn and bring what is sent to the peers."""
        self.engine.now, self.engine.wall = self.now, self.wall
        for route, data in frames:
            self.engine.receive(route, data, user)
        if tick:
            self.engine.tick(drained=True)
        self.engine.finish()
        self.journal.commit()
        self.engine.tell(settled=True)
        for route, data in self.engine.replies:
            self.bring(route, data)
        self.engine.replies.clear()
        for session in list(self.engine.sessions.ready):
            if session.route is not None:
                for number in range(session.transmitted + 1, session.sent + 1):
                    data = session.encoded(number)
                    session.transmitted = number
                    self.bring(session.route, data)
                session.spoke(self.now)
            del self.engine.sessions.ready[session]
        self.engine.queues.read_ahead()

    def on_disk(self) -> int:
        """Count the messages in the database, once everything is in it."""
        return rows.counted(self.journal.writer(), 0, 1 << 62)[0]

    def bring(self, route: bytes, data: bytes) -> None:
        peer = self.peers.get(route)
        if peer is not None:
            peer.take(data)

    def wait(self, seconds: float) -> None:
        """Let time pass; a turn follows."""
        self.now += seconds
        self.wall += seconds
        self.turn(tick=True)

    def peer(self, **arguments: Any) -> Peer:
        """Return a client that has said HELLO."""
        peer = Peer(self, b"route%d" % self.engine.sessions._by_id.__len__(), **arguments)
        peer.hello()
        return peer


class Peer:
    """A client of the engine. `inbox` has the commands that came in, in order."""

    def __init__(self, bench: Bench, route: bytes, user: str = "") -> None:
        self.bench = bench
        self.route = route
        self.user = user
        self.sent = self.received = 0
        self.session = self.secret = b""
        self.welcome: list[Any] = []
        self.inbox: list[list[Any]] = []
        self.info: dict[str, Any] = {"name": "peer"}
        bench.peers[route] = self

    def take(self, data: bytes) -> None:
        number, _, commands = decode(data)
        if number:
            assert number == self.received + 1
            self.received = number
        for command in commands:
            if command[0] == Reply.WELCOME:
                self.welcome = command
                self.session, self.secret = command[2], command[3]
                if not command[5]:
                    self.sent = self.received = 0
            else:
                self.inbox.append(command)

    def hello(self, route: bytes | None = None) -> None:
        if route is not None:
            self.bench.peers.pop(self.route, None)
            self.route = route
            self.bench.peers[route] = self
        hello = [Op.HELLO, MAGIC, VERSION, self.session, self.secret, self.received, self.info]
        self.raw(encode(0, 0, [hello]))

    def raw(self, data: bytes) -> None:
        self.bench.turn((self.route, data), user=self.user)

    def send(self, *commands: Any) -> list[list[Any]]:
        """Send *commands* in one frame, and return what came in by it."""
        before = len(self.inbox)
        self.sent += 1
        self.raw(encode(self.sent, self.received, commands))
        return self.inbox[before:]

    def publish(
        self, id_: str, body: bytes = b"x", delay: float = 0, dedup: str | None = None
    ) -> Any:
        """Publish to the queue "q"; return the message's id, or code and text of a refusal."""
        answer, *_ = self.send(queue_publish(id_, body, delay, dedup))
        assert answer[:2] == [Reply.OK, 1]
        return id_ if answer[2] is None else answer[2][0]


def drained(
    peer: Peer, number: int, name: str, *, leave: str | None = None
) -> list[tuple[str, bytes, int]]:
    """Return id, body and attempt of all that *peer* gets of a queue, and acknowledge it.

    But for the message with the id *leave*.
    """
    got = []
    delivered = peer.send([Op.CONSUME, number, name], [Op.CREDIT, number, 10_000])
    while delivered:
        batch = [one for command in delivered for one in command[2]]
        got += [(one[1], one[2], one[3]) for one in batch]
        delivered = peer.send([Op.ACK, number, [one[0] for one in batch if one[1] != leave]])
    return got


def queue_publish(
    id_: str, body: bytes = b"x", delay: float = 0, dedup: str | None = None, *, rid: int = 1
) -> list[Any]:
    """Return the command that publishes one message to the queue "q"."""
    return [Op.QUEUE_PUBLISH, rid, "q", [[id_, body, delay, dedup]]]


class Dealer:
    """A client over a socket, as raw as can be."""

    def __init__(self, address: str, *, identity: bytes | None = None, **options: Any) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        if identity is not None:
            self.socket.identity = identity
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.connect(address)
        self.sent = self.received = 0
        self.welcome: list[Any] = []

    def __enter__(self) -> Dealer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        self._context.term()

    def hello(
        self, session: bytes = b"", secret: bytes = b"", within: float = 5.0, **info: Any
    ) -> list[Any]:
        """Say HELLO and return the WELCOME."""
        hello = [Op.HELLO, MAGIC, VERSION, session, secret, self.received, info]
        self.socket.send(encode(0, 0, [hello]))
        self.welcome = self.command(Reply.WELCOME, within)
        return self.welcome

    def send(self, *commands: Any) -> None:
        self.sent += 1
        self.socket.send(encode(self.sent, self.received, commands))

    def frame(self, within: float = 5.0) -> list[list[Any]]:
        if not self.socket.poll(int(within * 1000)):
            raise TimeoutError("nothing came in")
        number, _, commands = decode(self.socket.recv())
        if number:
            self.received = number
        return commands

    def command(self, kind: int, within: float = 5.0) -> list[Any]:
        """Return the next command of this *kind*; others are thrown away."""
        while True:
            for command in self.frame(within):
                if command[0] == kind:
                    return command
