"""Locks: grants that waited, calls that are cancelled, sessions that are lost."""

from __future__ import annotations

import asyncio
import time

import pytest
from corekit_zeromq import lock as lock_module
from corekit_zeromq.lock import Lock
from corekit_zeromq.protocol import Op, Reply

from corekit.errors import BackendUnavailable, NotOpenError
from corekit.testing import eventually

from .fake_broker import FakeBroker, opened


async def test_a_grant_counts_from_its_request() -> None:
    """A grant that came at once counts from the moment before it was asked for."""
    async with FakeBroker() as fake, opened(Lock, fake.url) as lock:
        fake.answer(Op.LOCK_ACQUIRE, [7, 5.0, b"me"])
        before = time.monotonic()
        grant = await lock.acquire("n", 5.0, None)
        assert before <= grant.since <= time.monotonic()
        assert (grant.name, grant.token, grant.ttl, grant.owner) == ("n", 7, 5.0, b"me")
        assert fake.commands(Op.LOCK_EXTEND) == []


async def test_a_grant_that_waited_is_extended() -> None:
    """When a grant was given is unknown after a wait: it is extended, and counts from then."""
    async with FakeBroker() as fake, opened(Lock, fake.url) as lock:
        fake.answer(Op.LOCK_EXTEND, 0.5)
        acquiring = asyncio.create_task(lock.acquire("n", 0.5, None))
        ((_, rid, *_),) = await fake.heard(Op.LOCK_ACQUIRE)
        await asyncio.sleep(0.2)
        granted = time.monotonic()
        await fake.say([Reply.OK, rid, [7, 0.5, b"me"]])
        grant = await acquiring
        assert grant.since >= granted
        assert grant.token == 7


async def test_a_grant_that_ended_on_its_way_is_no_grant() -> None:
    """If the lease was over before it could be extended, the lock is asked for again."""
    async with FakeBroker() as fake, opened(Lock, fake.url) as lock:
        fake.answer(Op.LOCK_EXTEND, None)
        acquiring = asyncio.create_task(lock.acquire("n", 0.5, None))
        ((_, rid, *_),) = await fake.heard(Op.LOCK_ACQUIRE)
        await asyncio.sleep(0.1)
        fake.answer(Op.LOCK_ACQUIRE, [8, 0.5, b"me2"])
        await fake.say([Reply.OK, rid, [7, 0.5, b"me"]])
        assert (await acquiring).token == 8


async def test_a_cancelled_wait_is_abandoned() -> None:
    """A cancelled waiter is withdrawn at the broker; unsent, it is simply not sent."""
    async with FakeBroker() as fake, opened(Lock, fake.url) as lock:
        acquiring = asyncio.create_task(lock.acquire("n", 5.0, None))
        ((_, rid, *_),) = await fake.heard(Op.LOCK_ACQUIRE)
        acquiring.cancel()
        assert await fake.heard(Op.LOCK_ABANDON) == [[Op.LOCK_ABANDON, rid]]
        lock._client.connection.link._lost()
        acquiring = asyncio.create_task(lock.acquire("other", 5.0, None))
        await asyncio.sleep(0)
        acquiring.cancel()
        await asyncio.wait([acquiring])
        fake.answer(Op.LOCK_ACQUIRE, None)
        assert await lock.acquire("n", 5.0, 0) is None
        assert [command[2] for command in fake.commands(Op.LOCK_ACQUIRE)] == ["n", "n"]


async def test_cancelled_in_the_moment_of_the_grant() -> None:
    """A grant that arrives in the turn in which its waiter is cancelled is released."""
    async with FakeBroker() as fake, opened(Lock, fake.url) as lock:
        acquiring = asyncio.create_task(lock.acquire("n", 5.0, None))
        ((_, rid, *_),) = await fake.heard(Op.LOCK_ACQUIRE)
        lock._client.connection.requests.answer(rid, [7, 5.0, b"me"])
        acquiring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await acquiring
        ((_, _, name, owner),) = await fake.heard(Op.LOCK_RELEASE)
        assert (name, owner) == ("n", b"me")


async def test_waiting_goes_on_in_a_new_session() -> None:
    """A waiter whose session is lost asks again, with the time that is left."""
    async with FakeBroker() as fake, opened(Lock, fake.url) as lock:
        acquiring = asyncio.create_task(lock.acquire("n", 5.0, 10.0))
        await fake.heard(Op.LOCK_ACQUIRE)
        await asyncio.sleep(0.2)
        fake.answer(Op.LOCK_ACQUIRE, None)
        await fake.say([Reply.UNKNOWN], number=0)
        assert await acquiring is None
        first, second = (command[4] for command in fake.commands(Op.LOCK_ACQUIRE))
        assert first - 5 < second < first - 0.2


async def test_nobody_waits_for_an_absent_broker() -> None:
    """A waiter without limit gets BackendUnavailable once the broker is away for the time-out."""
    async with FakeBroker() as fake, opened(Lock, fake.url + "?timeout=0.3") as lock:
        acquiring = asyncio.create_task(lock.acquire("n", 5.0, None))
        ((_, rid, *_),) = await fake.heard(Op.LOCK_ACQUIRE)
        fake.scripts[Op.HELLO] = lambda _: [[Reply.REFUSED, "backend_unavailable", "not now"]]
        await asyncio.sleep(0.5)
        assert not acquiring.done()
        lock._client.connection.link._lost()
        with pytest.raises(BackendUnavailable):
            await acquiring
        fake.resumes = True
        fake.scripts[Op.HELLO] = fake.welcome
        assert rid


async def test_closing_releases() -> None:
    """Closing releases what is held, and ends waiters with NotOpenError."""
    async with FakeBroker() as fake, opened(Lock, fake.url) as lock:
        fake.answer(Op.LOCK_ACQUIRE, [7, 5.0, b"me"])
        await lock.acquire("n", 5.0, None)
        del fake.scripts[Op.LOCK_ACQUIRE]
        waiting = asyncio.create_task(lock.acquire("m", 5.0, None))
        await fake.heard(Op.LOCK_ACQUIRE, 2)
        await lock.close()
        with pytest.raises(NotOpenError):
            await waiting
        await eventually(lambda: fake.commands(Op.BYE))
        assert [command[2:] for command in fake.commands(Op.LOCK_RELEASE)] == [["n", b"me"]]


async def test_grants_that_ended_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lets a lease end by its time does not release it; nothing is kept of it for ever."""
    monkeypatch.setattr(lock_module, "_MANY", 10)
    async with FakeBroker() as fake, opened(Lock, fake.url) as lock:
        for number in range(50):
            lock._hold(b"%d" % number, f"n{number}", 0.0)
        assert len(lock._held) <= 10
        fake.answer(Op.LOCK_ACQUIRE, [99, 30.0, b"held"])
        fake.answer(Op.LOCK_RELEASE, None)
        await lock.acquire("held", 30.0, None)
        await lock.close()
        assert [*fake.commands(Op.LOCK_RELEASE)[-1][2:]] == ["held", b"held"]
