"""Sessions: what makes one out of the connections that a client has one after the other."""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgpack

from ..process_identity import ProcessIdentity
from ..protocol import FRAME_ALLOWANCE, Reply
from .former_sessions import FormerSessions, digest_of
from .orphans import Orphans

if TYPE_CHECKING:
    from .consumer import Consumer
    from .journal import Journal
    from .limits import Limits
    from .locks import Lease, Waiter
    from .processes import Processes
    from .pub_sub import Subscription

pack = msgpack.Packer(autoreset=True).pack

#: Commands are put into one frame up to this size; a larger one goes alone. A frame then never
#: exceeds the largest payload by more than what the protocol allows.
_FRAME = FRAME_ALLOWANCE // 2

#: How msgpack begins an array of up to 15 elements.
_LENGTHS = tuple(bytes([0x90 | size]) for size in range(16))

#: A frame that was made and not acknowledged: its number, its commands, which are shared among
#: sessions, and their size.
Frame = tuple[int, list[bytes], int]


class Session:
    """A client, over all its connections."""

    __slots__ = (
        "_outbox_size",
        "_ready",
        "acknowledged",
        "acquired",
        "consumers",
        "deadline",
        "ended",
        "former",
        "greeted_at",
        "id",
        "info",
        "lagging",
        "lost_route",
        "may_claim",
        "may_repeat_until",
        "outbox",
        "outstanding",
        "process",
        "received",
        "route",
        "secret",
        "sent",
        "spoke_at",
        "subscriptions",
        "told",
        "transmitted",
        "unacknowledged",
        "unanswered_bytes",
        "unanswered_frames",
        "user",
        "waiting",
    )

    def __init__(
        self,
        id: bytes,  # noqa: A002 - the session's id
        secret: bytes,
        user: str,
        info: dict[str, str],
        ready: dict[Session, None],
    ) -> None:
        self.id = id
        self.secret = secret
        self.user = user
        """Whose key it came with; empty without encryption."""
        self.info = info
        self.route: bytes | None = None
        """The connection that it has at the moment."""
        self.lost_route: bytes | None = None
        """The connection that has gone, while what it brought may not have been read yet."""
        self.process: ProcessIdentity | None = None
        """The process that is watched for it."""
        self.deadline = 0.0
        """When it ends if nothing is heard of it until then."""
        self.greeted_at = 0.0
        self.spoke_at = 0.0
        self.received = 0
        """The last frame that came in."""
        self.told = 0
        """The last frame that the client may be told of: what it changed is on disk."""
        self.sent = 0
        """The last frame that was made."""
        self.transmitted = 0
        """The last frame that was given to the present connection."""
        self.acknowledged = 0
        """The last frame that the client is known to have."""
        self.unanswered_frames = 0
        self.unanswered_bytes = 0
        """What came in since a frame was sent."""
        self.ended = False
        self.outbox: list[bytes] = []
        self._outbox_size = 0
        self._ready = ready
        self.unacknowledged: deque[Frame] = deque()
        self.outstanding = 0
        """Bytes in the outbox and not acknowledged."""
        self.may_claim = False
        """Whether its client had a session in a former life of the broker."""
        self.former = b""
        """That session, until the first frame of this one is here."""
        self.may_repeat_until = 0.0
        """Until when its publishes may be repeated ones."""
        self.subscriptions: dict[str, Subscription] = {}
        self.lagging: dict[str, Subscription] = {}
        """Subscriptions that fell behind and wait for the client to catch up."""
        self.consumers: dict[int, Consumer] = {}
        self.waiting: dict[int, Waiter] = {}
        """Acquisitions of locks that wait, by their rid."""
        self.acquired: dict[int, Lease] = {}
        """Leases by the rid that got them."""

    def __repr__(self) -> str:
        return (
            f"<Session {self.name} received={self.received} sent={self.sent} "
            f"outstanding={self.outstanding} {'connected' if self.route else 'disconnected'}>"
        )

    @property
    def name(self) -> str:
        """What log lines call it; the id itself stays out of them."""
        return f"{self.info.get('name', '?')!r}/{self.id[:3].hex()}"

    def send(self, command: bytes) -> None:
        """Put an encoded command on its way."""
        size = len(command)
        self.outbox.append(command)
        self._outbox_size += size
        self.outstanding += size
        self._ready[self] = None

    def spoke(self, now: float) -> None:
        """Take note that a frame was sent, which acknowledges all that came in."""
        self.spoke_at = now
        self.unanswered_frames = self.unanswered_bytes = 0

    def can_resume(self, received: int) -> bool:
        """Whether everything after the frame *received* is still here to be sent again."""
        return self.sent - len(self.unacknowledged) <= received <= self.sent

    def answer(self, rid: int, value: Any) -> None:
        """Answer a request."""
        self.send(pack((Reply.OK, rid, value)))

    def make_frames(self) -> None:
        """Make frames of the outbox."""
        outbox, whole = self.outbox, self._outbox_size
        if not outbox:
            return
        self.outbox, self._outbox_size = [], 0
        for commands, size in ((outbox, whole),) if whole <= _FRAME else _parts(outbox):
            self.sent += 1
            self.unacknowledged.append((self.sent, commands, size))

    def encoded(self, number: int) -> bytes:
        """Return the frame *number*, which was made and not acknowledged, as it is sent."""
        _, commands, _ = self.unacknowledged[number - self.sent - 1]
        # The commands are encoded already: an array of both numbers and of them is made of it.
        size = len(commands)
        length = _LENGTHS[size] if size < 16 else b"\xdd" + size.to_bytes(4, "big")
        numbers = pack((number, self.told))[1:]
        return b"".join((b"\x93", numbers, length, *commands))

    def acknowledge(self, received: int) -> bool:
        """Forget the frames up to *received*; False if its connection was never given that one."""
        if received > self.transmitted:
            return False
        frames = self.unacknowledged
        while frames and frames[0][0] <= received:
            _, _, size = frames.popleft()
            self.outstanding -= size
        self.acknowledged = received
        return True


def _parts(commands: list[bytes]) -> Iterator[tuple[list[bytes], int]]:
    """Yield *commands* in parts that fit into a frame each, and their sizes."""
    part: list[bytes] = []
    size = 0
    for command in commands:
        if part and size + len(command) > _FRAME:
            yield part, size
            part, size = [], 0
        part.append(command)
        size += len(command)
    yield part, size


class Sessions:
    """All sessions, by id and by connection."""

    def __init__(
        self,
        journal: Journal,
        limits: Limits,
        random: Callable[[int], bytes],
        now: float,
        processes: Processes | None = None,
    ) -> None:
        self._journal = journal
        self._limits = limits
        self._random = random
        self._processes = processes
        self._by_id: dict[bytes, Session] = {}
        self.by_route: dict[bytes, Session] = {}
        """By their connection."""
        self.ready: dict[Session, None] = {}
        """Sessions that have something to send."""
        self.orphans = Orphans()
        self._lost: dict[Session, None] = {}
        self.former = FormerSessions(journal, now + limits.reclaim)

    def __repr__(self) -> str:
        return f"<Sessions {len(self._by_id)} {self.former!r}>"

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def find(self, id: bytes, secret: bytes, user: str) -> Session | None:  # noqa: A002
        """Return the session *id* if this is its secret, and its key."""
        session = self._by_id.get(id)
        if session is None or session.user != user:
            return None
        return session if hmac.compare_digest(session.secret, secret) else None

    def full(self) -> bool:
        """Whether there may be no further session."""
        return len(self._by_id) >= self._limits.sessions

    def begin(
        self, now: float, user: str, info: dict[str, str], old: tuple[bytes, bytes]
    ) -> Session:
        """Return a new session for a client that had the session *old* (id and secret) before."""
        session = Session(self._random(16), self._random(16), user, info, self.ready)
        self._by_id[session.id] = session
        id_, secret = old
        if id_:
            session.may_repeat_until = now + self._limits.dedup_window
            if self.former.knows(id_, secret):
                session.may_claim = True
                session.former = id_
        self._journal.execute(
            "INSERT INTO session VALUES (?,?)", (session.id, digest_of(session.secret))
        )
        return session

    def attach(self, session: Session, route: bytes, received: int, now: float) -> None:
        """Let *session* go on over the connection *route*, on which it got *received* frames."""
        self.detach(session)
        other = self.by_route.get(route)
        if other is not None:
            self.detach(other)
        session.route = route
        session.transmitted = received
        session.spoke_at = now
        self.by_route[route] = session
        session.deadline = now + self._limits.session_timeout

    def detach(self, session: Session) -> None:
        """Let *session* wait for its next connection."""
        if session.route is not None:
            self.by_route.pop(session.route, None)
            session.route = None
        self._forget_lost(session)

    def gone(self, route: bytes) -> None:
        """Take note that a connection has gone; what it brought and was not read yet counts."""
        session = self.by_route.get(route)
        if session is not None and session.route == route:
            session.lost_route, session.route = route, None
            self._lost[session] = None

    def all_read(self) -> None:
        """Take note that everything was read that the connections which have gone brought."""
        for session in list(self._lost):
            self._forget_lost(session)

    def _forget_lost(self, session: Session) -> None:
        if session.lost_route is not None:
            self.by_route.pop(session.lost_route, None)
            session.lost_route = None
            del self._lost[session]

    def identify(self, session: Session, process: ProcessIdentity | None) -> None:
        """Take note of the process that *session* says it belongs to, and watch it if possible."""
        if process == session.process:
            return
        self._unwatch(session)
        watching = self._processes
        if process is not None and watching is not None and watching.watch(session, process):
            session.process = process

    def _unwatch(self, session: Session) -> None:
        self.orphans.discard(session)
        if self._processes is not None and session.process is not None:
            self._processes.forget(session, session.process)
            session.process = None

    def end(self, session: Session) -> None:
        """Forget *session*."""
        session.ended = True
        self.detach(session)
        self._unwatch(session)
        self.ready.pop(session, None)
        self._by_id.pop(session.id, None)
        self._journal.execute("DELETE FROM session WHERE id=?", (session.id,))

    def begun(self, session: Session) -> None:
        """Take note that the first frame of *session*, which had a former one, is here."""
        self.former.returned(session.former)
        session.former = b""

    def expired(self, now: float) -> list[Session]:
        """Return the sessions that were not heard of for too long."""
        return [session for session in self._by_id.values() if session.deadline <= now]

    def extend(self, seconds: float) -> None:
        """Give every session *seconds* more: the broker itself was not there to hear them."""
        for session in self._by_id.values():
            session.deadline += seconds
        self.former.extend(seconds)
