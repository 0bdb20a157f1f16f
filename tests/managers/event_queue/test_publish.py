"""Publishing: what is refused, what is queued, and what waits for a transaction."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from corekit.adapters import Guarantee
from corekit.errors import (
    BackendUnavailable,
    ConfigurationError,
    InvalidArgument,
    InvalidName,
    InvalidType,
    MessageTooLarge,
    NotOpenError,
    OutcomeUnknown,
    QueueFull,
    SerializationError,
    WrongLoop,
)
from corekit.managers.delivery import opened
from corekit.serialization import Serializer
from corekit.testing import eventually


def envelope(backend, index=-1):
    """Return what was published, opened."""
    return opened(Serializer(), backend.published[index][2])


async def test_what_is_queued(queue, backend, clock):
    """The backend gets the full name, a new id, the sealed message, the delay and the dedup id."""
    await queue.open(backend)
    message_id = await queue.publish(
        "mail", {"to": "a"}, timeout=timedelta(minutes=1), max_retries=3, delay=2, dedup_id="d"
    )
    channel, queued, _, delay, dedup_id = backend.published[0]
    assert (channel, queued, delay, dedup_id) == ("shop/queue/mail", message_id, 2.0, "d")
    assert envelope(backend) == (60.0, 3, 0.5, {"to": "a"})
    await queue.close()


async def test_shared_channels_have_no_prefix(queue, backend, clock):
    """A shared channel's name is the same for every application, and nobody's own."""
    await queue.open(backend)
    await queue.publish("mail", 1, shared=True)
    await queue.publish("mail", 1)
    assert [entry[0] for entry in backend.published] == ["/queue/mail", "shop/queue/mail"]
    await queue.close()


async def test_ids_are_unique(make_queue, make_backend, clock):
    """No two messages of two instances, or of two starts of one, have the same id."""
    ids = set()
    for queue in (make_queue(), make_queue()):
        for _ in range(2):
            await queue.open(make_backend())
            ids |= {await queue.publish("mail", n) for n in range(100)}
            await queue.close()
    assert len(ids) == 400
    # Also if the process was forked after the App was made.
    assert len({message_id.partition("-")[0] for message_id in ids}) == 4


async def test_messages_are_encoded_in_the_call(queue, backend, clock):
    """Changing a message after `publish` was called changes nothing."""
    backend.hangs.add("publish")
    await queue.open(backend)
    message = {"n": 1}
    publishing = asyncio.create_task(queue.publish("mail", message))
    await asyncio.sleep(0.1)
    message["n"] = 2
    backend.hangs.clear()
    await publishing
    assert envelope(backend).body == {"n": 1}
    await queue.close()


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"channel": ""}, InvalidName, "channel"),
        ({"channel": None}, InvalidType, "channel"),
        ({"channel": b"mail"}, InvalidType, "channel"),
        ({"channel": ["mail"]}, InvalidType, "channel"),
        ({"channel": "a\nb"}, InvalidName, "channel"),
        ({"channel": "x" * 513}, InvalidName, "channel"),
        ({"message": object()}, SerializationError, "message"),
        ({"message": {"a": [1, {2: object}]}}, SerializationError, "message"),
        ({"timeout": 0}, InvalidArgument, "timeout"),
        ({"timeout": -1}, InvalidArgument, "timeout"),
        ({"timeout": math.nan}, InvalidArgument, "timeout"),
        ({"timeout": math.inf}, InvalidArgument, "timeout"),
        ({"timeout": True}, InvalidType, "timeout"),
        ({"timeout": "10"}, InvalidType, "timeout"),
        ({"timeout": None}, InvalidType, "timeout"),
        ({"timeout": timedelta(0)}, InvalidArgument, "timeout"),
        ({"timeout": timedelta.max}, InvalidArgument, "timeout"),
        ({"timeout": 10**400}, InvalidArgument, "timeout"),
        ({"timeout": Decimal("1.5")}, InvalidType, "timeout"),
        ({"max_retries": -1}, InvalidArgument, "max_retries"),
        ({"max_retries": 1.5}, InvalidType, "max_retries"),
        ({"max_retries": True}, InvalidType, "max_retries"),
        ({"max_retries": 10**9}, InvalidArgument, "max_retries"),
        ({"max_retries": None}, InvalidType, "max_retries"),
        ({"backoff": -1}, InvalidArgument, "backoff"),
        ({"backoff": math.nan}, InvalidArgument, "backoff"),
        ({"backoff": "1"}, InvalidType, "backoff"),
        ({"backoff": True}, InvalidType, "backoff"),
        ({"delay": -5}, InvalidArgument, "delay"),
        ({"delay": math.nan}, InvalidArgument, "delay"),
        ({"delay": math.inf}, InvalidArgument, "delay"),
        ({"delay": datetime(2026, 1, 1)}, InvalidType, "delay"),
        ({"delay": False}, InvalidType, "delay"),
        ({"dedup_id": ""}, InvalidName, "dedup_id"),
        ({"dedup_id": 7}, InvalidType, "dedup_id"),
        ({"shared": 1}, InvalidType, "shared"),
        ({"shared": None}, InvalidType, "shared"),
        ({"transaction": object()}, InvalidType, "transaction"),
    ],
)
async def test_bad_arguments(queue, backend, clock, arguments, error, word):
    """A bad argument is refused by name, and nothing is queued."""
    await queue.open(backend)
    with pytest.raises(error, match=word):
        await queue.publish(**{"channel": "mail", "message": 1, **arguments})
    assert "publish" not in backend.calls
    await queue.close()


async def test_large_messages(queue, backend, clock):
    """A message above the App's limit is refused in the call."""
    await queue.open(backend)
    with pytest.raises(MessageTooLarge):
        await queue.publish("mail", b"x" * (64 * 1024 * 1024))
    assert backend.published == []
    await queue.close()


async def test_a_backend_without_deduplication(queue, make_backend, clock):
    """`dedup_id` is refused, not ignored, where the backend cannot deduplicate."""
    backend = make_backend(Guarantee.DEDUPLICATED)
    await queue.open(backend)
    with pytest.raises(ConfigurationError, match="dedup_id"):
        await queue.publish("mail", 1, dedup_id="x")
    await queue.publish("mail", 1)
    await queue.close()


@pytest.mark.parametrize(
    "error",
    [QueueFull("full"), BackendUnavailable("away"), OutcomeUnknown("lost", message_id="7")],
)
async def test_the_backends_errors_arrive(queue, backend, clock, error):
    """What the backend raises reaches the publisher as it is."""
    backend.failures["publish"] = error
    await queue.open(backend)
    with pytest.raises(type(error)) as caught:
        await queue.publish("mail", 1)
    assert caught.value is error
    await queue.close()


async def test_publishing_needs_an_open_queue(queue, backend, clock):
    """Before `open` and after `close` every call is refused, in another loop too."""
    calls = {
        "publish": ("mail", 1),
        "stats": ("mail",),
        "dead_letters": ("mail",),
        "requeue": ("mail", "id"),
        "purge": ("mail",),
    }
    for name, arguments in calls.items():
        with pytest.raises(NotOpenError, match="not started"):
            await getattr(queue, name)(*arguments)
    await queue.open(backend)
    for name, arguments in calls.items():

        def elsewhere(name=name, arguments=arguments):
            with pytest.raises(WrongLoop):
                asyncio.run(getattr(queue, name)(*arguments))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    await queue.close()
    for name, arguments in calls.items():
        with pytest.raises(NotOpenError, match="stopped"):
            await getattr(queue, name)(*arguments)


async def test_a_cancelled_publish(queue, backend, clock):
    """A cancelled publish ends at once; the queue goes on to work."""
    backend.hangs.add("publish")
    await queue.open(backend)
    publishing = asyncio.create_task(queue.publish("mail", 1))
    await asyncio.sleep(0.1)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    backend.hangs.clear()
    await queue.publish("mail", 2)
    await queue.close()


# -- with a transaction --


async def test_after_the_commit(queue, backend, clock, transaction):
    """With a transaction the id returns at once; the message leaves after the commit, once."""
    await queue.open(backend)
    message = {"n": 1}
    message_id = await queue.publish(
        "mail", message, delay=3, dedup_id="d", transaction=transaction
    )
    message["n"] = 2
    await asyncio.sleep(10)
    assert backend.published == []
    transaction.commit()
    await eventually(lambda: backend.published)
    assert backend.published[0][1:2] + backend.published[0][3:] == (message_id, 3.0, "d")
    assert envelope(backend).body == {"n": 1}
    await queue.close()
    assert len(backend.published) == 1


async def test_a_rollback_sends_nothing(queue, backend, clock, transaction):
    """A message whose transaction never commits never leaves."""
    await queue.open(backend)
    await queue.publish("mail", 1, transaction=transaction)
    await queue.close()
    assert backend.published == []


async def test_a_commit_in_another_thread(make_queue, backend, transaction):
    """The commit may return in any thread."""
    queue = make_queue()
    await queue.open(backend)
    message_id = await queue.publish("mail", 1, transaction=transaction)
    thread = threading.Thread(target=transaction.commit)
    thread.start()
    await eventually(lambda: backend.published)
    thread.join()
    assert backend.published[0][1] == message_id
    await queue.close()


async def test_a_backend_that_is_away_at_the_commit(queue, backend, clock, transaction):
    """It is tried again with the same id, until the backend is back."""
    backend.failures["publish"] = deque(
        [BackendUnavailable("away"), OutcomeUnknown("lost"), BackendUnavailable("away")]
    )
    await queue.open(backend)
    message_id = await queue.publish("mail", 1, transaction=transaction)
    transaction.commit()
    await eventually(lambda: backend.published, within=20)
    assert [entry[1] for entry in backend.published] == [message_id]
    assert backend.calls.count("publish") == 4
    await queue.close()


async def test_a_backend_that_stays_away(queue, backend, clock, transaction, caplog):
    """After half a minute the message is given up, with an error that names channel and id."""
    backend.failures["publish"] = BackendUnavailable("away")
    await queue.open(backend)
    message_id = await queue.publish("mail", "secret-payload", transaction=transaction)
    transaction.commit()
    await asyncio.sleep(60)
    assert "shop/queue/mail" in caplog.text
    assert message_id in caplog.text
    assert "secret-payload" not in caplog.text
    await queue.close()


async def test_a_stop_lets_committed_messages_leave(queue, backend, clock, transaction):
    """What was committed before the stop has some seconds to leave."""
    backend.hangs.add("publish")
    await queue.open(backend)
    await queue.publish("mail", 1, transaction=transaction)
    transaction.commit()
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(queue.close())
    await asyncio.sleep(2)
    backend.hangs.clear()
    await closing
    assert len(backend.published) == 1


async def test_a_stop_does_not_wait_for_ever(queue, backend, clock, transaction, caplog):
    """A message that cannot leave holds the stop up for some seconds, and is logged."""
    backend.hangs.add("publish")
    await queue.open(backend)
    message_id = await queue.publish("mail", 1, transaction=transaction)
    transaction.commit()
    await asyncio.sleep(0.01)
    begin = clock.monotonic()
    await queue.close()
    assert clock.monotonic() - begin <= 6.1
    assert backend.closed
    assert message_id in caplog.text


async def test_a_commit_after_the_stop(queue, backend, clock, transaction, caplog):
    """A transaction that commits when the App has stopped leaves an error in the log."""
    await queue.open(backend)
    message_id = await queue.publish("mail", 1, transaction=transaction)
    await queue.close()
    transaction.commit()
    await asyncio.sleep(1)
    assert backend.published == []
    assert message_id in caplog.text
