"""What each command does: its fields are checked, the part of the broker it is for is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from corekit.arguments import shown
from corekit.errors import BackendError, BackendRefused, CorekitError, InvalidArgument

from ..protocol import BATCH_ALLOWANCE, Op, Reply
from . import fields
from .consumer import Consumer, Held
from .memory_handlers import memory_table
from .sessions import Session, pack

if TYPE_CHECKING:
    from .engine import Engine

Handler = Callable[[Session, list[Any]], None]

_NUMBER = 1 << 62


class Handlers:
    """The commands of clients that have a session."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.limits
        self._queues = engine.queues
        self._pub_sub = engine.pub_sub
        #: By operation: the handler, the command's length, and whether it is a request.
        self._table: dict[int, tuple[Handler, int, bool]] = {
            Op.BYE: (self._bye, 1, False),
            Op.SUBSCRIBE: (self._subscribe, 5, True),
            Op.UNSUBSCRIBE: (self._unsubscribe, 2, False),
            Op.PUBLISH: (self._publish, 4, False),
            Op.QUEUE_PUBLISH: (self._queue_publish, 4, True),
            Op.CONSUME: (self._consume, 3, False),
            Op.CANCEL: (self._cancel, 2, False),
            Op.CREDIT: (self._credit, 3, False),
            Op.REVOKE: (self._revoke, 2, False),
            Op.ACK: (self._ack, 3, False),
            Op.RELEASE: (self._release, 4, False),
            Op.RETRY: (self._retry, 5, False),
            Op.BURY: (self._bury, 4, False),
            Op.CLAIM: (self._claim, 4, True),
            Op.QUEUE_STATS: (self._queue_stats, 3, True),
            Op.DEAD_LETTERS: (self._dead_letters, 4, True),
            Op.REQUEUE: (self._requeue, 4, True),
            Op.PURGE: (self._purge, 3, True),
            **memory_table(engine),
        }

    def __repr__(self) -> str:
        return f"<Handlers of {self._engine!r}>"

    def handle(self, session: Session, commands: list[list[Any]]) -> None:
        """Carry out *commands* in order; the first one that ends the session is the last."""
        table = self._table
        for command in commands:
            entry = None
            try:
                # Whatever stands there; not all of it can be looked up.
                entry = table.get(command[0]) if type(command[0]) is int else None
                if entry is None or len(command) != entry[1]:
                    self._malformed(command, entry)
                entry[0](session, command)  # type: ignore[index]
            except CorekitError as error:
                if not self._fail(session, command, entry, error):
                    return
            if session.ended:
                return

    def _malformed(self, command: list[Any], entry: tuple[Handler, int, bool] | None) -> None:
        if entry is None:
            raise BackendRefused(f"unknown operation {shown(command[0])}")
        raise InvalidArgument(f"operation {command[0]} has {entry[1]} elements")

    def _fail(
        self,
        session: Session,
        command: list[Any],
        entry: tuple[Handler, int, bool] | None,
        error: CorekitError,
    ) -> bool:
        """Answer a command that cannot be carried out; False if that ends the session."""
        rid = command[1] if len(command) > 1 else None
        has_rid = type(rid) is int and 0 <= rid < _NUMBER
        if entry is None:
            # A newer client: what it asks is refused, what it tells is ignored.
            self._engine.complaints.warning(session.id, "session %s: %s", session.name, error)
            if has_rid:
                session.send(pack((Reply.FAIL, rid, error.code, str(error))))
            return True
        if entry[2] and has_rid:
            self._complain(session, error)
            session.send(pack((Reply.FAIL, rid, error.code, str(error))))
            return True
        self._engine.refuse(session, error)
        return False

    def _complain(self, session: Session, error: CorekitError) -> None:
        # What the backend's state refuses is no fault of the client's.
        if not isinstance(error, BackendError):
            self._engine.complaints.warning(session.id, "session %s: %s", session.name, error)

    def _name(self, value: Any) -> str:
        return fields.text("name", value, self._limits.name_length)

    def _bye(self, session: Session, _command: list[Any]) -> None:
        self._engine.end(session, died=False)

    # -- pub/sub

    def _subscribe(self, session: Session, command: list[Any]) -> None:
        _, rid, channel, epoch, seq = command
        rid = self._rid(rid)
        name = self._name(channel)
        if epoch is not None:
            fields.whole("epoch", epoch, 0, _NUMBER * 2)
        seq = fields.whole("seq", seq, 0, _NUMBER)
        expected = None if epoch is None else (seq if epoch == self._engine.epoch else 0)
        subscription = self._pub_sub.subscribe(session, name, expected)
        channel = subscription.channel
        reached = expected is not None and channel.first <= expected <= channel.next
        session.answer(rid, expected if reached else channel.next)
        self._pub_sub.catch_up(session)

    def _unsubscribe(self, session: Session, command: list[Any]) -> None:
        self._pub_sub.unsubscribe(session, self._name(command[1]))

    def _publish(self, session: Session, command: list[Any]) -> None:
        _, name, count, batch = command
        # The name of a channel that is there was checked before.
        if type(name) is not str or name not in self._pub_sub.channels:
            self._name(name)
        largest = self._limits.max_message + BATCH_ALLOWANCE
        if type(batch) is not bytes or len(batch) > largest:
            fields.binary("batch", batch, largest)
        # What is inside is the subscribers' to check. They need not fear the count.
        if type(count) is not int or not 1 <= count <= len(batch) or count > self._limits.elements:
            fields.whole("count", count, 1, min(len(batch), self._limits.elements))
        try:
            self._pub_sub.publish(name, count, batch)
        except BackendRefused as error:
            # Nobody waits for an answer: it is lost, and no reason to end the session.
            self._engine.complaints.warning(session.id, "%s: %s", session.name, error)

    # -- queues

    def _rid(self, rid: Any) -> int:
        return fields.whole("rid", rid, 0, _NUMBER)

    def _queue_publish(self, session: Session, command: list[Any]) -> None:
        _, rid, channel, messages = command
        rid = self._rid(rid)
        name = self._name(channel)
        if type(messages) is not list:
            raise InvalidArgument(f"messages must be a list, not {shown(messages)}")
        now, wall = self._engine.now, self._engine.wall
        repeated = session.may_repeat_until > now
        if (
            not repeated
            and self._are_plain(messages)
            and self._queues.publish_all(now, wall, name, messages)
        ):
            session.answer(rid, None)
            return
        outcomes = [self._published(session, name, one, repeated=repeated) for one in messages]
        session.answer(rid, outcomes if any(outcomes) else None)

    def _are_plain(self, messages: list[Any]) -> bool:
        """Whether these are messages, one at least, with nothing but an id and a payload each.

        Nearly all are, and `_checked_message`, with a call for each field, takes much longer.
        """
        longest, largest = self._limits.name_length, self._limits.max_message
        for message in messages:
            if type(message) is not list or len(message) != 2:
                return False
            id_, payload = message
            if not (
                type(id_) is str
                and type(payload) is bytes
                and 0 < len(id_) <= longest
                and len(payload) <= largest
                and id_.isprintable()
            ):
                return False
        return bool(messages)

    def _published(self, session: Session, name: str, message: Any, *, repeated: bool) -> Any:
        """Publish *message* and return its outcome."""
        now, wall = self._engine.now, self._engine.wall
        try:
            id_, payload, delay, dedup_id = self._checked_message(message)
            published = self._queues.publish(
                now, wall, name, id_, payload, delay, dedup_id, repeated=repeated
            )
        except CorekitError as error:
            self._complain(session, error)
            return error.code, str(error)
        return None if published == id_ else published

    def _checked_message(self, message: Any) -> tuple[str, bytes, float, str | None]:
        """Return id, payload, delay and dedup_id of a message that is to be published."""
        if type(message) is not list or len(message) not in {2, 4}:
            raise InvalidArgument("a message has two elements or four")
        longest, largest = self._limits.name_length, self._limits.max_message
        id_ = fields.text("id", message[0], longest)
        payload = fields.binary("payload", message[1], largest)
        delay, dedup_id = message[2:] or (0.0, None)
        if dedup_id is not None:
            fields.text("dedup_id", dedup_id, longest)
        return id_, payload, fields.seconds("delay", delay, zero=True), dedup_id

    def _consumer(self, session: Session, number: Any) -> Consumer:
        consumer = session.consumers.get(fields.whole("consumer", number, 0, _NUMBER))
        if consumer is None:
            raise InvalidArgument(f"there is no consumer {number}")
        return consumer

    def _consume(self, session: Session, command: list[Any]) -> None:
        number = fields.whole("consumer", command[1], 0, _NUMBER)
        self._queues.consume(self._engine.now, session, number, self._name(command[2]))

    def _cancel(self, session: Session, command: list[Any]) -> None:
        self._queues.cancel(self._engine.now, self._consumer(session, command[1]))

    def _credit(self, session: Session, command: list[Any]) -> None:
        consumer = self._consumer(session, command[1])
        self._queues.grant(consumer, fields.whole("credit", command[2], 0, _NUMBER))

    def _revoke(self, session: Session, command: list[Any]) -> None:
        self._queues.revoke(self._consumer(session, command[1]))

    def _ack(self, session: Session, command: list[Any]) -> None:
        consumer = self._consumer(session, command[1])
        self._engine.settling.add(session)
        expired = self._queues.ack(consumer, fields.binaries("tokens", command[2], 64))
        if expired:
            session.send(pack((Reply.EXPIRED, consumer.number, expired)))

    def _held(self, session: Session, command: list[Any]) -> tuple[Consumer, Held | None]:
        """Take the delivery that the command settles out of its consumer's hands."""
        consumer = self._consumer(session, command[1])
        token = fields.binary("token", command[2], 64)
        held = consumer.held.get(token)
        if held is None:
            session.send(pack((Reply.EXPIRED, consumer.number, (token,))))
        return consumer, held

    def _release(self, session: Session, command: list[Any]) -> None:
        started = fields.flag("started", command[3])
        consumer, held = self._held(session, command)
        if held is not None:
            del consumer.held[command[2]]
            self._queues.release(consumer, held, started=started)

    def _retry(self, session: Session, command: list[Any]) -> None:
        delay = fields.seconds("delay", command[3], zero=True)
        consumer, held = self._held(session, command)
        if held is not None:
            del consumer.held[command[2]]
            self._queues.retry(self._engine.now, consumer, held, delay)

    def _bury(self, session: Session, command: list[Any]) -> None:
        if type(command[3]) is not str:
            raise InvalidArgument("error must be a text")
        consumer, held = self._held(session, command)
        if held is not None:
            del consumer.held[command[2]]
            self._queues.bury(self._engine.wall, consumer, held, command[3])

    def _claim(self, session: Session, command: list[Any]) -> None:
        rid = self._rid(command[1])
        consumer = self._consumer(session, command[2])
        tokens = fields.binaries("tokens", command[3], 64)
        if not session.may_claim:
            session.answer(rid, [None] * len(tokens))
            return
        session.answer(rid, [self._queues.claim(consumer, token) for token in tokens])

    def _queue_stats(self, session: Session, command: list[Any]) -> None:
        session.answer(
            self._rid(command[1]), self._queues.stats(self._engine.now, self._name(command[2]))
        )

    def _dead_letters(self, session: Session, command: list[Any]) -> None:
        limit = fields.whole("limit", command[3], 0, _NUMBER)
        session.answer(
            self._rid(command[1]), self._queues.dead_letters(self._name(command[2]), limit)
        )

    def _requeue(self, session: Session, command: list[Any]) -> None:
        rid = self._rid(command[1])
        id_ = fields.text("id", command[3], self._limits.name_length)
        self._queues.requeue(self._engine.now, self._name(command[2]), id_)
        session.answer(rid, None)

    def _purge(self, session: Session, command: list[Any]) -> None:
        session.answer(self._rid(command[1]), self._queues.purge(self._name(command[2])))
