"""One delivery from its handler's start to its settlement."""

from __future__ import annotations

import asyncio
import logging

from ..adapters import Consumer, Delivery
from ..errors import SerializationError
from . import backoff
from .context import ManagerContext
from .delivery import DeliveryContext, Process, error_text, make, opened
from .runs import Run, Stage

logger = logging.getLogger("corekit.event_queue")

#: So many deaths in a row make a dead letter.
POISON = 10


class Handling:
    """Runs one channel's process function, and settles each message by how that ended."""

    def __init__(
        self, channel: str, process: Process, context: ManagerContext, consumer: Consumer
    ) -> None:
        self._channel = channel
        self._process = process
        self._clock = context.clock
        self._serializer = context.serializer
        self._consumer = consumer

    def __repr__(self) -> str:
        return f"<Handling {self._channel!r} by {self._process!r}>"

    async def handle(self, run: Run, delivery: Delivery, now: float) -> None:
        """Run the handler on *delivery*, as *run*; *now* is the monotonic time."""
        if delivery.deaths >= POISON:
            self._bury_poison(delivery)
            return
        try:
            envelope = opened(self._serializer, delivery.payload)
        except SerializationError as error:
            self._bury_unreadable(delivery, error)
            return
        run.delivery = delivery
        run.envelope = envelope
        run.deadline = now + envelope.timeout
        deadline = self._clock.time() + envelope.timeout
        context = make(
            DeliveryContext,
            (delivery.id, delivery.attempt, self._channel, delivery.published_at, deadline),
        )
        try:
            await self._process(envelope.body, context)
        except (KeyboardInterrupt, SystemExit):
            # The process is to end; asyncio lets these two out of the loop.
            if run.stage is not Stage.ABANDONED:
                self._consumer.release(delivery, started=True)
            raise
        except BaseException as error:  # noqa: BLE001 - whatever else it is, it is the handler's failure
            self._raised(run, error)
        else:
            if run.stage is Stage.RUNNING:
                self._consumer.ack(delivery)
            else:
                self.settle_cancelled(run)

    def settle_cancelled(self, run: Run) -> None:
        """Settle the message of *run*, whose handler was cancelled, by the reason for that."""
        if run.stage is Stage.TIMED_OUT:
            text = f"TimeoutError: the handler ran longer than {run.envelope.timeout:g} s"
            self._failed(run, text, None)
        elif run.stage is Stage.STOPPED:
            self._consumer.release(run.delivery, started=True)

    def _bury_poison(self, delivery: Delivery) -> None:
        text = f"{delivery.deaths} deliveries in a row died with it"
        logger.error("channel %r: message %s is poison: %s", self._channel, delivery.id, text)
        self._consumer.bury(delivery, error=f"poison: {text}")

    def _bury_unreadable(self, delivery: Delivery, error: SerializationError) -> None:
        logger.error("channel %r: message %s cannot be read: %s", self._channel, delivery.id, error)
        self._consumer.bury(delivery, error=error_text(error))

    def _raised(self, run: Run, error: BaseException) -> None:
        if run.stage is not Stage.RUNNING:
            self.settle_cancelled(run)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit) and (
            run.task.cancelling() or not run.task.get_loop().is_running()
        ):
            # Neither a timeout nor our stop: the whole loop is being torn down.
            self._consumer.release(run.delivery, started=True)
        else:
            self._failed(run, error_text(error), error)

    def _failed(self, run: Run, text: str, error: BaseException | None) -> None:
        delivery, envelope = run.delivery, run.envelope
        if delivery.attempt <= envelope.max_retries:
            delay = backoff.wait(envelope.waits, delivery.attempt)
            self._consumer.retry(delivery, delay=delay, error=text)
            outcome = f"again in {delay:.1f} s"
        else:
            self._consumer.bury(delivery, error=text)
            outcome = "a dead letter now"
        logger.warning(
            "channel %r: message %s failed at attempt %d of %d, %s: %s",
            self._channel,
            delivery.id,
            delivery.attempt,
            envelope.max_retries + 1,
            outcome,
            text,
            exc_info=error,
        )
