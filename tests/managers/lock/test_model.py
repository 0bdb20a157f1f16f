"""Two instances on one hub against a model: who holds what, in which order, until when."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from corekit.errors import LockLost, LockNotAcquired, LockTimeout
from corekit.testing import VirtualClock

from .conftest import Locks

KEYS = ("x", "y")
TTLS = (2, 5, 100)

#: What a deadline may be off: the manager's own one is up to a hundredth of a second earlier.
SLACK = 0.03

#: A wait that ends this close to the holder's time may end either way.
TIE = 1e-5


class Call:
    """One acquire, as the model knows it."""

    def __init__(self, task, key, ttl, wait_until):
        self.task = task
        self.key = key
        self.ttl = ttl
        self.wait_until = wait_until
        self.expires = None

    @property
    def lease(self):
        return self.task.result()


class LockMachine(RuleBasedStateMachine):
    """The model: for each key a queue of calls, whose first one holds the key until it expires."""

    def __init__(self):
        super().__init__()
        self.clock = VirtualClock()
        self.runner = asyncio.Runner(loop_factory=self.clock.loop)
        self.queues = {key: [] for key in KEYS}
        self.gone = []
        self.tokens = dict.fromkeys(KEYS, 0)

    @initialize()
    def start(self):
        self.locks = Locks(self.clock)
        self.managers = [self.locks.manager(), self.locks.manager()]

        async def open_all():
            for manager in self.managers:
                await manager.open(self.locks.backend())

        self.runner.run(open_all())

    def teardown(self):
        async def close_all():
            for queue in self.queues.values():
                for call in queue:
                    call.task.cancel()
            for manager in self.managers:
                await manager.close()

        self.runner.run(close_all())
        self.runner.close()
        assert self.locks.free()

    def turn(self, seconds=0.0):
        """Let the loop run, and *seconds* pass; then advance the model to the same time."""
        self.runner.run(asyncio.sleep(seconds + 0.001))
        self.runner.run(asyncio.sleep(0))
        self.advance()

    def advance(self):
        """Expire and pass on what is due by now, in the order of time."""
        now = self.clock.monotonic()
        for key, queue in self.queues.items():
            while queue:
                holder = queue[0]
                if holder.expires is None:
                    holder.expires = self.freed + holder.ttl
                    self.granted(key, holder)
                waiting = [call for call in queue[1:] if call.wait_until is not None]
                first = min((call.wait_until for call in waiting), default=float("inf"))
                late = next((call for call in waiting if call.wait_until == first), None)
                if first <= now and (
                    first < holder.expires - TIE
                    or (first < holder.expires + TIE and late.task.exception() is not None)
                ):
                    queue.remove(late)
                    assert isinstance(late.task.exception(), LockTimeout)
                elif holder.expires <= now:
                    self.end(key)
                    self.freed = holder.expires
                else:
                    break

    def granted(self, key, call):
        assert call.task.done(), f"{key} should be held"
        assert call.lease.token > self.tokens[key]
        self.tokens[key] = call.lease.token

    def end(self, key):
        self.gone.append(self.queues[key].pop(0))
        self.freed = self.clock.monotonic()

    def calls(self, state):
        return [
            (key, call)
            for key in KEYS
            for call in self.queues[key]
            if (call.expires is not None) is (state == "holding")
        ]

    @rule(
        instance=st.integers(0, 1),
        key=st.sampled_from(KEYS),
        ttl=st.sampled_from(TTLS),
        wait=st.sampled_from((None, 3.5, 50.25)),
    )
    def acquire(self, instance, key, ttl, wait):
        async def call():
            return asyncio.ensure_future(self.managers[instance].acquire(key, ttl, wait=wait))

        start = self.clock.monotonic()
        task = self.runner.run(call())
        self.freed = start
        until = None if wait is None else start + wait
        self.queues[key].append(Call(task, key, ttl, until))
        self.turn()

    @rule(instance=st.integers(0, 1), key=st.sampled_from(KEYS))
    def try_acquire(self, instance, key):
        async def call():
            try:
                lease = await self.managers[instance].try_acquire(key, ttl=2)
            except LockNotAcquired:
                return False
            assert lease.token > self.tokens[key]
            self.tokens[key] = lease.token
            await lease.release()
            return True

        assert self.runner.run(call()) is (not self.queues[key])
        self.turn()

    @precondition(lambda self: self.calls("holding"))
    @rule(data=st.data())
    def release(self, data):
        key, call = data.draw(st.sampled_from(self.calls("holding")))
        self.runner.run(call.lease.release())
        self.end(key)
        self.turn()

    @precondition(lambda self: self.calls("holding"))
    @rule(data=st.data(), ttl=st.sampled_from(TTLS))
    def extend(self, data, ttl):
        _, call = data.draw(st.sampled_from(self.calls("holding")))
        call.expires = self.clock.monotonic() + ttl
        self.runner.run(call.lease.extend(ttl))
        self.turn()

    @precondition(lambda self: self.calls("waiting"))
    @rule(data=st.data())
    def cancel(self, data):
        key, call = data.draw(st.sampled_from(self.calls("waiting")))
        call.task.cancel()
        self.queues[key].remove(call)
        self.turn()
        assert call.task.cancelled()

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), ttl=st.sampled_from(TTLS))
    def use_what_is_gone(self, data, ttl):
        call = data.draw(st.sampled_from(self.gone))

        async def use():
            await call.lease.release()
            try:
                await call.lease.extend(ttl)
            except LockLost:
                return True
            return False

        assert self.runner.run(use())

    @rule(seconds=st.sampled_from((0.5, 1.5, 4.25, 60)))
    def wait(self, seconds):
        self.turn(seconds)

    @rule(seconds=st.sampled_from((1.25, 7.75)))
    def pause(self, seconds):
        """Stop the whole process: timers fire late, and in the order in which they were due."""
        holders = [queue[0] for queue in self.queues.values() if queue]
        if all(abs(call.expires - self.clock.monotonic() - seconds) > 0.1 for call in holders) and (
            not self.calls("waiting")
        ):
            self.clock.jump(seconds)
            self.turn()

    @invariant()
    def leases_agree(self):
        for key, queue in getattr(self, "queues", {}).items():
            for position, call in enumerate(queue):
                if position == 0:
                    assert call.lease.held, key
                    left = call.lease.expires_at - self.clock.time()
                    assert abs(left - (call.expires - self.clock.monotonic())) < SLACK
                else:
                    assert not call.task.done(), key
        assert not any(call.lease.held for call in self.gone)


TestLocks = LockMachine.TestCase
TestLocks.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
