"""The broker without I/O: frames come in, frames come out, changes go to the journal.

In a turn `now` and `wall` are set, `receive` is called any number of times, and `finish`. What is
to be sent after it may leave only when the journal has committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from corekit.errors import BackendError, CorekitError, InvalidArgument, SerializationError

from .. import protocol
from ..protocol import ACKNOWLEDGE_BYTES, ACKNOWLEDGE_FRAMES, Reply
from .cache import Cache
from .data_directory import HighWater
from .handlers import Handlers
from .handshake import Handshake
from .journal import Journal
from .limits import Limits
from .locks import Locks
from .processes import Processes
from .pub_sub import PubSub
from .queues import Queues
from .rate import RateLimit
from .sessions import Session, Sessions, pack

logger = logging.getLogger("corekit.broker")

#: Cache entries past their lifetime that one turn removes: well below a millisecond's work.
_EXPIRED = 300


class Engine:
    """The state of the broker and what its clients may do with it."""

    def __init__(
        self,
        journal: Journal,
        limits: Limits,
        random: Callable[[int], bytes],
        *,
        now: float,
        wall: float,
        version: str = "?",
        high_water: HighWater | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.limits = limits
        self.journal = journal
        self.random = random
        self.now, self.wall = now, wall
        """When the present turn began (monotonic, and Unix seconds): whoever takes it says so."""
        self.epoch = int.from_bytes(random(8), "big") >> 1
        self.version = version
        self.started = now
        self.disk: dict[str, int] = {}
        """What the server knows of the disk: bytes `disk_free` and `disk_used`."""
        self.sessions = Sessions(journal, limits, random, now, processes)
        self.pub_sub = PubSub(limits)
        self.cache = Cache(limits.cache_bytes, int(wall * 1000) << 20)
        self.locks = Locks(journal, limits, random, now=now, wall=wall)
        self.queues = Queues(
            journal, limits, epoch=self.epoch, now=now, wall=wall, high_water=high_water
        )
        self.replies: list[tuple[bytes, bytes]] = []
        """Frames for connections, outside of any session's count."""
        self.complaints = RateLimit(logger)
        self._handlers = Handlers(self)
        self._handshake = Handshake(self)
        self._acknowledge: dict[Session, None] = {}
        self._untold: dict[Session, None] = {}
        """Sessions that may not be told yet of all their frames."""
        self.settling: set[Session] = set()
        """Those of them that settled deliveries since the last commit."""
        self._kept_house_at = now
        self.closing = False
        """Set while the broker drains: nothing new is begun."""

    def __repr__(self) -> str:
        return f"<Engine {self.sessions} {self.queues} {self.pub_sub}>"

    # -- a turn

    def receive(self, route: bytes, data: bytes, user: str = "") -> None:
        """Take a frame that came in over the connection *route* from the key *user*."""
        session = self.sessions.by_route.get(route)
        if session is None:
            self._handshake.receive(route, data, user)
            return
        try:
            number, received, commands = protocol.decode(data, elements=self.limits.elements)
        except SerializationError as error:
            self.refuse(session, error)
            return
        session.deadline = self.now + self.limits.session_timeout
        if received != session.acknowledged and not self.acknowledge(session, received):
            return
        if number == 0:
            if commands:
                self._handshake.greet(route, commands[0], user)
            return
        if number <= session.received:
            return  # sent again after a reconnect, although it had arrived
        if number != session.received + 1:
            # Something was lost on this connection: the client starts the next one.
            self.sessions.detach(session)
            self._handshake.tell_unknown(route)
            return
        session.received = number
        self._untold[session] = None
        session.unanswered_frames += 1
        session.unanswered_bytes += len(data)
        if (
            session.unanswered_frames >= ACKNOWLEDGE_FRAMES
            or session.unanswered_bytes >= ACKNOWLEDGE_BYTES
        ):
            self._acknowledge[session] = None
        self._handlers.handle(session, commands)
        if session.former:
            self.sessions.begun(session)

    def pass_on(self) -> bool:
        """Make frames of what was published to subscribers, and of answers, up to now.

        Returns whether a session was ended: what it leaves has to be committed.
        """
        has_ended = False
        self.pub_sub.flush()
        # The end of a session may have something to say to one that was passed already.
        ready = list(self.sessions.ready)
        for session in ready:
            if session.ended:
                continue
            session.make_frames()
            if session.outstanding > self.limits.replies:
                self._acknowledge.pop(session, None)
                self.complaints.warning(
                    session.id, "session %s does not read: it is ended", session.name
                )
                self.end(session, died=True)
                ready += [one for one in self.sessions.ready if one.outbox]
                has_ended = True
        return has_ended

    def finish(self) -> None:
        """End a turn: hand out messages, and make frames of everything there is to say."""
        self.queues.held_back = self.sessions.former.awaiting(self.now)
        self.locks.wake(self.now)
        self.queues.wake(self.now)
        self.cache.expire(self.now, _EXPIRED)
        for consumer in self.queues.dispatch(self.now):
            consumer.session.outstanding -= sum(len(one[2]) for one in consumer.batch)
            consumer.session.send(pack((Reply.DELIVERIES, consumer.number, consumer.batch)))
            consumer.batch = []
        self.pass_on()
        self.pub_sub.trim(self.now)

    def tell(self, *, settled: bool) -> None:
        """Let clients know what arrived, before the frames of a turn are sent.

        *settled*: the journal has everything; otherwise all but the messages that were settled.
        """
        if settled:
            self.settling.clear()
        for session in list(self._untold):
            if session in self.settling:
                continue
            del self._untold[session]
            session.told = session.received
            if session in self._acknowledge:
                del self._acknowledge[session]
                if session not in self.sessions.ready:
                    self._say_nothing(session)

    def next_alarm(self) -> float | None:
        """Return when a turn is due even if nothing comes in, None for never."""
        alarms = [
            self.queues.next_alarm(),
            self.locks.next_alarm(),
            self.sessions.former.awaited_until,
            self.now if self.cache.overdue(self.now) else None,
        ]
        return min((alarm for alarm in alarms if alarm is not None), default=None)

    def heartbeats(self, now: float) -> list[tuple[bytes, bytes]]:
        """Return connections and frames for those who were told nothing for a heartbeat.

        May be called between turns: nothing in these frames waits for the journal.
        """
        beats = []
        orphans = self.sessions.orphans
        for session in self.sessions:
            # Sending to an orphan shows whether its connection has gone.
            due = now - session.spoke_at >= self.limits.heartbeat or session in orphans
            if session.route is not None and due:
                session.spoke(now)
                beats.append((session.route, protocol.encode(0, session.told, ())))
        return beats

    def tick(self, *, drained: bool) -> None:
        """Do what has to be done regularly; called within a turn, several times a heartbeat.

        *drained*: everything that came in has been received, so silence is silence.
        """
        for session in self.sessions.expired(self.now) if drained else ():
            self.complaints.info(
                (session.id, "ended"), "session %s was not heard of and has ended", session.name
            )
            self.end(session, died=True)
        for session in self.sessions.orphans.over(self.now, drained=drained):
            self.complaints.info(
                (session.id, "ended"), "session %s has ended with its process", session.name
            )
            self.end(session, died=True)
        if drained:
            self.sessions.all_read()
        if self.now - self._kept_house_at >= 1.0:
            self._kept_house_at = self.now
            self.queues.keep_house(self.now)
            self.pub_sub.keep_house(self.now)
            self.complaints.tell()
            self._handshake.keep_house(self.now)

    # -- sessions

    def acknowledge(self, session: Session, received: int) -> bool:
        """Take note of the frames that *session* has; False if that ended it, being impossible."""
        was_slow = session.outstanding > self.limits.outstanding // 2
        if not session.acknowledge(received):
            self.refuse(session, InvalidArgument(f"frame {received} was never sent"))
            return False
        if was_slow and session.outstanding <= self.limits.outstanding // 2:
            self.queues.resume(session)
            self.pub_sub.catch_up(session)
        return True

    def _say_nothing(self, session: Session) -> None:
        if session.route is not None:
            session.spoke(self.now)
            self.replies.append((session.route, protocol.encode(0, session.told, ())))

    def reply(self, route: bytes, received: int, command: tuple[Any, ...]) -> None:
        """Send *command* to a connection, saying that the frames up to *received* are here."""
        self.replies.append((route, protocol.encode(0, received, (command,))))

    def refuse(self, session: Session, error: CorekitError) -> None:
        """End *session* for what it sent."""
        self.complaints.warning(
            session.id, "session %s sent what it may not, and is ended: %s", session.name, error
        )
        route = session.route
        self.end(session, died=True)
        if route is not None:
            self.reply(route, session.received, (Reply.REFUSED, error.code, str(error)))

    def end(self, session: Session, *, died: bool) -> None:
        """End *session*: what it holds goes to others, as a death each if it *died*.

        What it was answered before still reaches its connection.
        """
        session.make_frames()
        if session.route is not None:
            for number in range(session.transmitted + 1, session.sent + 1):
                self.replies.append((session.route, session.encoded(number)))
        for consumer in list(session.consumers.values()):
            self.queues.cancel(self.now, consumer, died=died)
        for name in list(session.subscriptions):
            self.pub_sub.unsubscribe(session, name)
        self.locks.end_session(self.now, session)
        self.sessions.end(session)

    def orphan(self, now: float, session: Session) -> None:
        """Take note that the process of *session* has died: it gets no messages any more.

        It ends as soon as everything it said was read.
        """
        for consumer in session.consumers.values():
            self.queues.revoke(consumer)
        self.sessions.orphans.add(now, session)

    def drop(self, route: bytes) -> None:
        """End the session of a connection because of a fault of ours."""
        session = self.sessions.by_route.get(route)
        if session is not None:
            self.refuse(session, BackendError("the broker could not handle a frame"))
