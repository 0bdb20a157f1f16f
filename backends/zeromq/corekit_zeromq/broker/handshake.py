"""Who comes without a session: begins one, goes on with one, or is told that there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from corekit.errors import CorekitError, InvalidArgument, SerializationError

from .. import protocol
from ..process_identity import ProcessIdentity, read_claim
from ..protocol import MAGIC, VERSION, Op, Reply
from . import fields

if TYPE_CHECKING:
    from .engine import Engine
    from .sessions import Session

#: What is said before a session exists is short: anything longer is not read.
_LONGEST_HELLO = 4096

#: A HELLO that is repeated on its connection sooner than this, in seconds, is not answered again.
_GREETING = 0.5

#: A connection without a session is told so once in this time, in seconds.
_TOLD = 0.2

#: So many of these connections are remembered.
_STRANGERS = 1000


class _Hello(NamedTuple):
    version: int
    session: bytes
    secret: bytes
    received: int
    info: dict[str, str]
    process: ProcessIdentity | None


class Handshake:
    """Takes what connections say outside of a session."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Until when those that were told that they have no session are not told again.
        self._told: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return f"<Handshake told={len(self._told)}>"

    def receive(self, route: bytes, data: bytes, user: str) -> None:
        """Take a frame of a connection that has no session."""
        if len(data) > _LONGEST_HELLO:
            self.tell_unknown(route)
            return
        try:
            number, _, commands = protocol.decode(data)
        except SerializationError as error:
            self._engine.complaints.warning(
                b"stranger", "a connection sent what is no frame: %s", error
            )
            return
        if number == 0 and commands and commands[0][0] == Op.HELLO:
            self.greet(route, commands[0], user)
        else:
            self.tell_unknown(route)

    def tell_unknown(self, route: bytes) -> None:
        """Let a connection know that it has no session."""
        now = self._engine.now
        if self._told.get(route, 0.0) > now:
            return
        if len(self._told) >= _STRANGERS:
            self._told.pop(next(iter(self._told)))
        self._told[route] = now + _TOLD
        self._engine.reply(route, 0, (Reply.UNKNOWN,))

    def keep_house(self, now: float) -> None:
        """Forget who may be told again."""
        for route, until in list(self._told.items()):
            if until <= now:
                del self._told[route]

    def greet(self, route: bytes, command: list[Any], user: str) -> None:
        """Answer a HELLO: with a session, the one that it names or a new one, or a refusal."""
        engine = self._engine
        try:
            hello = _checked(command)
        except CorekitError as error:
            engine.complaints.warning(b"stranger", "a connection sent a bad HELLO: %s", error)
            self._refuse(route, error.code, str(error))
            return
        if hello.version != VERSION:
            text = f"the broker speaks version {VERSION} of the protocol"
            self._refuse(route, "version_mismatch", f"{text}, the client {hello.version}")
            return
        now, sessions = engine.now, engine.sessions
        session = sessions.find(hello.session, hello.secret, user)
        if session is not None and session.route == route and now - session.greeted_at < _GREETING:
            return  # it was welcomed on this connection just now, and everything sent again
        if session is not None and not session.can_resume(hello.received):
            engine.end(session, died=True)
            session = None
        resumed = session is not None
        if session is None:
            if sessions.full() or engine.closing:
                text = "it is stopping" if engine.closing else "it has as many sessions as it may"
                self._refuse(route, "backend_unavailable", f"broker: {text}")
                return
            session = sessions.begin(now, user, hello.info, (hello.session, hello.secret))
        session.greeted_at = now
        sessions.attach(session, route, hello.received if resumed else 0, now)
        sessions.identify(session, hello.process)
        if resumed:
            engine.acknowledge(session, hello.received)
        self._welcome(session, route, resumed=resumed)

    def _refuse(self, route: bytes, code: str, text: str) -> None:
        self._engine.reply(route, 0, (Reply.REFUSED, code, text))

    def _welcome(self, session: Session, route: bytes, *, resumed: bool) -> None:
        engine, limits = self._engine, self._engine.limits
        how = "goes on" if resumed else "begins"
        engine.complaints.info((session.id, how), "session %s %s", session.name, how)
        info = {
            "version": engine.version,
            "durability": "full" if engine.journal.durable else "relaxed",
            "heartbeat": limits.heartbeat,
            "timeout": limits.session_timeout,
            "max_message": limits.max_message,
        }
        engine.reply(
            route,
            session.told,
            (
                Reply.WELCOME, VERSION, session.id, session.secret, engine.epoch, resumed,
                session.told, info,
            ),
        )  # fmt: skip
        engine.sessions.ready[session] = None


def _checked(command: list[Any]) -> _Hello:
    """Return what a HELLO says, of another version only that; raises InvalidArgument."""
    if command[0] != Op.HELLO or len(command) < 3 or command[1] != MAGIC:
        raise InvalidArgument("only corekit's HELLO may stand in a frame without number")
    version = fields.whole("version", command[2], 0, 1 << 31)
    if version != VERSION:
        return _Hello(version, b"", b"", 0, {}, None)
    if len(command) != 7:
        raise InvalidArgument("HELLO has seven elements")
    return _Hello(
        version,
        fields.binary("session", command[3], 64),
        fields.binary("secret", command[4], 64),
        fields.whole("received", command[5], 0, 1 << 62),
        fields.information(command[6]),
        read_claim(command[6]),
    )
