"""Taking messages from a queue: credit, deliveries, settling, and what a lost session leaves."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from corekit.adapters import Delivery, DeliveryReceiver
from corekit.errors import SerializationError

from .connection import Connection
from .protocol import Op
from .session import Command

logger = logging.getLogger("corekit.zeromq")

#: How long `close` waits for the broker to have what was settled, in seconds.
_CLOSING = 2.0

#: How a delivery was settled: the operation, and what follows the token.
_Settlement = tuple[Any, ...]

_ACK: _Settlement = (Op.ACK,)


class _Settled:
    """What was settled in one frame, by token."""

    __slots__ = ("by_token", "frame")

    def __init__(self, frame: int) -> None:
        self.frame = frame
        self.by_token: dict[bytes, tuple[Delivery, _Settlement]] = {}


class _Claim:
    """A delivery of a session that was lost, until the broker says whether it is still ours."""

    __slots__ = ("settlement", "token")

    def __init__(self, token: bytes, settlement: _Settlement | None) -> None:
        self.token = token
        self.settlement = settlement


class Consumer:
    """A consumer of one channel."""

    def __init__(
        self,
        connection: Connection,
        number: int,
        channel: str,
        receiver: DeliveryReceiver,
        ended: Callable[[int], object],
    ) -> None:
        self.channel = channel
        self._connection = connection
        self._session = connection.session
        self._number = number
        self._receiver = receiver
        self._ended = ended
        self._closed = False
        self._credit = 0
        self._credit_command: Command = []
        self._credit_frame = 0
        self._revoked_in = 0
        #: The frame that tells the broker of the end; None until there is one in this session.
        self._cancelled_in: int | None = None
        self._held: dict[Delivery, bytes] = {}
        #: What was settled and may not have reached the broker, in the order of the frames.
        self._settled: deque[_Settled] = deque()
        #: The last of them.
        self._settling = _Settled(0)
        #: Up to which frame the broker had ours when it last delivered.
        self._confirmed = 0
        self._claims: dict[Delivery, _Claim] = {}
        self._claimed: asyncio.Future[Any] | None = None
        #: Deliveries that went to others while the session was lost; told when they are settled.
        self._gone: set[Delivery] = set()
        self._session.add([Op.CONSUME, number, channel])
        connection.flush_together()

    def __repr__(self) -> str:
        return (
            f"<Consumer {self.channel!r} credit={self._credit} held={len(self._held)} "
            f"{'closed' if self._closed else 'open'}>"
        )

    def grant(self, credit: int) -> None:
        if self._closed or credit <= 0:
            return
        self._credit += credit
        if self._claimed is not None:
            # With the answer: what is given back comes before anything newer.
            return
        if self._credit_frame == self._session.number and self._credit_command:
            self._credit_command[2] += credit
        else:
            self._add_credit(credit)
        self._connection.flush_together()

    def _add_credit(self, credit: int) -> None:
        self._credit_command = [Op.CREDIT, self._number, credit]
        self._credit_frame = self._session.add(self._credit_command)

    def revoke(self) -> None:
        if self._closed:
            return
        self._credit = 0
        self._credit_command = []
        self._revoked_in = self._session.add([Op.REVOKE, self._number])
        self._connection.flush_together()

    def deliver(self, batch: list[list[Any]]) -> None:
        """Take what the broker delivers."""
        if self._closed:
            # CANCEL, which is on its way, gives it back.
            return
        # What is confirmed by this frame may still be told as expired in it.
        if self._session.confirmed != self._confirmed:
            self._forget_confirmed(self._confirmed)
            self._confirmed = self._session.confirmed
        deliveries = []
        for token, id_, payload, attempt, deaths, published_at in batch:
            if not (
                type(token) is type(payload) is bytes
                and type(id_) is str
                and type(attempt) is type(deaths) is int
                and type(published_at) is float
            ):
                raise SerializationError("this is no delivery")
            delivery = Delivery(id_, payload, attempt, deaths, published_at, token)
            self._held[delivery] = token
            deliveries.append(delivery)
        # What was on its way when credit was revoked uses up none of what was granted since.
        if self._session.confirmed >= self._revoked_in:
            self._credit = max(0, self._credit - len(deliveries))
        self._receiver.deliveries(deliveries)

    def expired(self, tokens: list[bytes]) -> None:
        """Take note that deliveries were settled too late."""
        for token in tokens:
            for settled in self._settled:
                if token in settled.by_token:
                    self._tell_expired(settled.by_token[token][0])
                    break
            else:
                logger.warning("queue %s: a delivery was settled too late", self.channel)

    def _tell_expired(self, delivery: Delivery) -> None:
        if not self._closed:
            self._receiver.expired(delivery)

    def ack(self, delivery: Delivery) -> None:
        token = self._held.pop(delivery, None)
        if token is None:
            self._settle_without_token(delivery, _ACK)
            return
        frame = self._session.ack(self._number, token)
        if self._settling.frame != frame:
            self._begin_settling(frame)
        self._settling.by_token[token] = delivery, _ACK

    def release(self, delivery: Delivery, *, started: bool) -> None:
        self._settle(delivery, (Op.RELEASE, started))

    def retry(self, delivery: Delivery, *, delay: float, error: str) -> None:
        self._settle(delivery, (Op.RETRY, delay, error))

    def bury(self, delivery: Delivery, *, error: str) -> None:
        self._settle(delivery, (Op.BURY, error))

    def _settle(self, delivery: Delivery, settlement: _Settlement) -> None:
        token = self._held.pop(delivery, None)
        if token is None:
            self._settle_without_token(delivery, settlement)
        else:
            self._send(delivery, token, settlement)

    def _send(self, delivery: Delivery, token: bytes, settlement: _Settlement) -> None:
        op, *rest = settlement
        if op is Op.ACK:
            frame = self._session.ack(self._number, token)
        else:
            frame = self._session.add([op, self._number, token, *rest])
        if self._settling.frame != frame:
            self._begin_settling(frame)
        self._settling.by_token[token] = delivery, settlement

    def _begin_settling(self, frame: int) -> None:
        self._settling = _Settled(frame)
        self._settled.append(self._settling)
        # Once is enough: what is settled until the frame leaves is in it.
        self._connection.flush_together()

    def _settle_without_token(self, delivery: Delivery, settlement: _Settlement) -> None:
        claim = self._claims.get(delivery)
        if claim is not None:
            if claim.settlement is None:
                claim.settlement = settlement
        elif delivery in self._gone:
            self._gone.discard(delivery)
            # Not from inside the receiver's own call.
            self._connection.loop.call_soon(self._tell_expired, delivery)

    def _forget_confirmed(self, confirmed: int) -> None:
        settled = self._settled
        while settled and settled[0].frame <= confirmed:
            settled.popleft()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._held.clear()
        if self._claimed is None:
            self._cancel()
        try:
            async with asyncio.timeout(_CLOSING):
                await self._cancelled()
        except TimeoutError:
            # The end of the session will do it.
            pass
        finally:
            self._ended(self._number)

    def _cancel(self) -> None:
        self._cancelled_in = self._session.add([Op.CANCEL, self._number])
        self._connection.flush_together()

    async def _cancelled(self) -> None:
        """Wait until the broker has taken note of the end, in whichever session."""
        while self._cancelled_in is None or self._session.confirmed < self._cancelled_in:
            if self._claimed is not None:
                await asyncio.wait([self._claimed])
            else:
                await self._connection.arrived(_CLOSING)

    # What follows happens when the broker has lost the session: it was restarted, or did not hear
    # of us for too long.

    def session_ended(self, confirmed: int) -> None:
        """Gather, before anything is added to the new session, what the old one leaves."""
        self._forget_confirmed(confirmed)
        claims = {
            delivery: _Claim(token, settlement)
            for settled in self._settled
            for token, (delivery, settlement) in settled.by_token.items()
        }
        claims.update(self._claims)
        if not self._closed:
            claims.update((delivery, _Claim(t, None)) for delivery, t in self._held.items())
        self._claims = claims
        self._settled.clear()
        self._settling = _Settled(0)
        self._confirmed = 0
        self._held.clear()
        self._credit_frame = self._revoked_in = 0
        self._cancelled_in = None

    def restore(self) -> None:
        """Consume again, and claim what was delivered in the old session."""
        self._session.add([Op.CONSUME, self._number, self.channel])
        if self._claims:
            request = self._connection.requests.begin(
                None,
                Op.CLAIM,
                (self._number, [claim.token for claim in self._claims.values()]),
                patient=True,
                then=self._on_claimed,
            )
            self._claimed = request.future
            request.future.add_done_callback(self._claim_failed)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Ask for more, or for nothing any more, when all that was claimed is settled again."""
        if self._closed:
            # Not before: what is claimed would be given back.
            self._cancel()
        elif self._credit:
            # Not before: something newer would come ahead of what is given back.
            self._add_credit(self._credit)

    def _on_claimed(self, tokens: list[bytes | None]) -> None:
        answers = list(zip(self._claims.items(), tokens, strict=True))
        self._claims = {}
        self._claimed = None
        late = []
        for (delivery, claim), token in answers:
            if token is not None and claim.settlement is None:
                self._held[delivery] = token
            elif token is not None and claim.settlement is not None:
                self._send(delivery, token, claim.settlement)
            elif claim.settlement is None:
                self._gone.add(delivery)
            else:
                late.append(delivery)
        self._go_on()
        self._connection.flush_together()
        for delivery in late:
            self._tell_expired(delivery)

    def _claim_failed(self, answer: asyncio.Future[Any]) -> None:
        if answer is not self._claimed:
            return
        self._claimed = None
        error = None if answer.cancelled() else answer.exception()
        if error is None:
            return
        logger.error("queue %s: the broker refuses a claim: %s", self.channel, error)
        self._on_claimed([None] * len(self._claims))
