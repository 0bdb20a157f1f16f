"""Random work on queue, locks and cache of real servers, which are killed in between, and models.

The same machines run on memory, on a broker and on etcd: what they see must be the same.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from corekit.adapters import Delivery, Grant, QueueStats
from corekit.config import BackendURL
from corekit.testing import eventually, make_context

from .processes import Broker, scaled

T = TypeVar("T")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(120))]

_names = itertools.count()


class Site:
    """Where a machine plays: factories of adapters, and how to kill the server behind them."""

    def __init__(
        self,
        url: str,
        factories: dict[str, Callable[..., Any]],
        restart: Callable[[], None] | None = None,
        *,
        forgets_cache: bool = False,
    ) -> None:
        self.url = BackendURL.parse(url)
        self.factories = factories
        self.restart = restart
        self.forgets_cache = forgets_cache


@pytest.fixture
def memory() -> Site:
    """Return the adapters of memory."""
    from corekit.memory.cache import memory_cache
    from corekit.memory.event_queue import memory_event_queue
    from corekit.memory.lock import memory_lock

    factories = {"cache": memory_cache, "lock": memory_lock, "event_queue": memory_event_queue}
    return Site("memory://models?copy=1", factories)


@pytest.fixture
def zmq(tmp_path: Path) -> Iterator[Site]:
    """Return the adapters of a broker."""
    from corekit_zeromq.cache import Cache
    from corekit_zeromq.event_queue import EventQueue
    from corekit_zeromq.lock import Lock

    broker = Broker(tmp_path / "broker")
    broker.start()

    def restart() -> None:
        broker.kill()
        broker.start()

    factories = {"cache": Cache, "lock": Lock, "event_queue": EventQueue}
    yield Site(broker.url, factories, restart, forgets_cache=True)
    broker.kill()


@pytest.fixture
def etcd_site(etcd: Any) -> Site:
    """Return the adapters of etcd."""
    from corekit_etcd.cache import Cache
    from corekit_etcd.lock import Lock

    return Site(etcd.url, {"cache": Cache, "lock": Lock}, etcd.restart)


class Machine(RuleBasedStateMachine):
    """Two adapters of one kind, as two processes would have them."""

    kind: str

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.name = f"model{next(_names)}"
        self.runner = asyncio.Runner()
        self.adapters = [self.run(self.opened()) for _ in range(2)]

    async def opened(self) -> Any:
        adapter = self.site.factories[self.kind](self.site.url, make_context())
        await adapter.open()
        return adapter

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio.wait_for(call, 30))

    def teardown(self) -> None:
        for adapter in self.adapters:
            self.run(adapter.close())
        self.runner.close()

    @precondition(lambda self: self.site.restart is not None)
    @rule(chance=st.integers(0, 5))
    def kill(self, chance: int) -> None:
        """Kill the server at rest, and start it again, one time in six."""
        if chance == 0:
            assert self.site.restart is not None
            self.rest()
            self.run(asyncio.to_thread(self.site.restart))
            self.killed()

    def rest(self) -> None:
        """Wait until the server has on disk what was done."""

    def killed(self) -> None:
        """Tell the model."""


class LockMachine(Machine):
    """The model: for each name the grant that owns it."""

    kind = "lock"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.owners: dict[str, tuple[int, Grant]] = {}
        self.ended: list[tuple[int, Grant]] = []
        self.tokens: dict[str, int] = {}

    @rule(who=st.integers(0, 1), name=st.sampled_from("ab"))
    def acquire(self, who: int, name: str) -> None:
        name = f"{self.name}/{name}"
        grant = self.run(self.adapters[who].acquire(name, 600, 0))
        assert (grant is None) is (name in self.owners)
        if grant is not None:
            assert grant.token > self.tokens.get(name, 0)
            self.tokens[name] = grant.token
            self.owners[name] = who, grant

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.owners)))
        who, grant = self.owners.pop(name)
        self.run(self.adapters[who].release(grant))
        self.ended.append((who, grant))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.owners)))
        who, grant = self.owners[name]
        extended = self.run(self.adapters[who].extend(grant, 600))
        assert extended is not None
        assert extended.token == grant.token
        self.owners[name] = who, extended

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), how=st.sampled_from(["extend", "release"]))
    def come_late(self, data: st.DataObject, how: str) -> None:
        """Use a grant that has ended: nothing happens to whoever owns the name now."""
        who, grant = data.draw(st.sampled_from(self.ended))
        if how == "release":
            self.run(self.adapters[who].release(grant))
        else:
            assert self.run(self.adapters[who].extend(grant, 600)) is None

    def teardown(self) -> None:
        for who, grant in self.owners.values():
            self.run(self.adapters[who].release(grant))
        super().teardown()


class CacheMachine(Machine):
    """The model: a dict, and the version that was last seen of each key."""

    kind = "cache"
    keys = st.sampled_from(["a", "b", "c"])
    values = st.binary(max_size=3)

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.spaces = [adapter.space(self.name) for adapter in self.adapters]
        self.entries: dict[str, bytes] = {}
        self.versions: dict[str, object] = {}

    def killed(self) -> None:
        if self.site.forgets_cache:
            self.entries.clear()

    @rule(who=st.integers(0, 1), key=keys)
    def get(self, who: int, key: str) -> None:
        stored = self.run(self.spaces[who].get(key))
        assert (None if stored is None else stored.value) == self.entries.get(key)
        self.versions[key] = None if stored is None else stored.version

    @rule(who=st.integers(0, 1), entries=st.dictionaries(keys, values, max_size=3))
    def set(self, who: int, entries: dict[str, bytes]) -> None:
        self.run(self.spaces[who].set_many(entries, 600))
        self.entries |= entries
        for key in entries:
            self.versions.pop(key, None)

    @rule(who=st.integers(0, 1), key=keys, value=values)
    def swap(self, who: int, key: str, value: bytes) -> None:
        """Swap by the version seen last; one that was written over since must not be taken."""
        self.get(who, key)
        version = self.versions[key]
        assert self.run(self.spaces[who].swap(key, value, version, None))
        assert not self.run(self.spaces[1 - who].swap(key, b"late", version, None))
        self.entries[key] = value

    @rule(who=st.integers(0, 1), chosen=st.lists(keys, max_size=3, unique=True))
    def delete(self, who: int, chosen: list[str]) -> None:
        removed = self.run(self.spaces[who].delete(chosen))
        assert removed == [self.entries.pop(key, None) for key in chosen]

    @rule(who=st.integers(0, 1))
    def clear(self, who: int) -> None:
        self.run(self.spaces[who].clear())
        self.entries.clear()

    @invariant()
    def same_for_both(self) -> None:
        for space in self.spaces:
            assert sorted(self.run(space.keys())) == sorted(self.entries)
            found = self.run(space.get_many(["a", "b", "c"]))
            values = [None if one is None else one.value for one in found]
            assert values == [self.entries.get(key) for key in "abc"]


class QueueMachine(Machine):
    """The model: messages that are ready, held, or dead."""

    kind = "event_queue"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.arrived: list[Delivery] = []
        self.late: list[Delivery] = []
        self.places: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.deaths: dict[str, int] = {}
        self.ready: set[str] = set()
        self.retried: set[str] = set()
        self.held: dict[str, Delivery] = {}
        self.dead: list[str] = []
        self.known: dict[str, str] = {}
        self.numbers = itertools.count(1)
        self.consumer = self.run(self.consume())

    def rest(self) -> None:
        # An acknowledgement may be lost in a crash until the next commit, and then the message
        # comes again: test_broker_kills judges that. A confirmed publish is a commit.
        for adapter in self.adapters:
            message_id = f"{self.name}-rest-{next(self.numbers)}"
            self.run(adapter.publish(f"{self.name}/rest", message_id, b""))

    async def consume(self) -> Any:
        return self.adapters[1].consume(self.name, self)

    def deliveries(self, batch: Sequence[Delivery]) -> None:
        self.arrived += batch

    def expired(self, delivery: Delivery) -> None:
        self.late.append(delivery)

    @rule(dedup_id=st.sampled_from([None, None, "x", "y"]))
    def publish(self, dedup_id: str | None) -> None:
        number = next(self.numbers)
        id_ = f"{self.name}-{number}"
        call = self.adapters[0].publish(self.name, id_, id_.encode(), dedup_id=dedup_id)
        if dedup_id in self.known:
            assert self.run(call) == self.known[dedup_id]
            return
        assert self.run(call) == id_
        if dedup_id:
            self.known[dedup_id] = id_
        self.places[id_], self.attempts[id_], self.deaths[id_] = number, 1, 0
        self.ready.add(id_)

    @precondition(lambda self: self.ready)
    @rule()
    def take(self) -> None:
        """Get what is first in order; a retried message may come at any place."""

        async def take() -> Delivery:
            self.consumer.grant(1)
            await eventually(lambda: self.arrived)
            return self.arrived.pop()

        delivery = self.run(take())
        first = min(self.ready - self.retried, key=self.places.__getitem__, default=None)
        assert delivery.id in {first, *self.retried}
        assert delivery.payload == delivery.id.encode()
        assert delivery.attempt == self.attempts[delivery.id]
        assert delivery.deaths == self.deaths[delivery.id]
        self.ready.discard(delivery.id)
        self.retried.discard(delivery.id)
        self.held[delivery.id] = delivery

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["ack", "release", "die", "retry", "bury"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.held)))
        delivery = self.held.pop(id_)

        async def settle() -> None:
            if how == "ack":
                self.consumer.ack(delivery)
            elif how == "release":
                self.consumer.release(delivery, started=False)
            elif how == "die":
                self.consumer.release(delivery, started=True)
            elif how == "retry":
                self.consumer.retry(delivery, delay=0, error="E")
            else:
                self.consumer.bury(delivery, error="E")

        self.run(settle())
        if how == "bury":
            self.dead.append(id_)
        elif how != "ack":
            self.ready.add(id_)
        if how == "die":
            self.deaths[id_] += 1
        if how == "retry":
            self.attempts[id_] += 1
            self.deaths[id_] = 0
            self.retried.add(id_)

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(self.dead))
        self.run(self.adapters[0].requeue(self.name, id_))
        self.dead.remove(id_)
        self.places[id_], self.attempts[id_], self.deaths[id_] = next(self.numbers), 1, 0
        self.ready.add(id_)

    @rule()
    def purge(self) -> None:
        gone = len(self.ready) + len(self.dead)
        assert self.run(self.adapters[0].purge(self.name)) == gone
        self.ready.clear()
        self.retried.clear()
        self.dead.clear()

    @invariant()
    def counts(self) -> None:
        expected = QueueStats(len(self.ready), 0, len(self.held), len(self.dead))

        async def counted() -> QueueStats:
            # What was settled is sent on soon, but nobody waits for it.
            for _ in range(500):
                stats: QueueStats = await self.adapters[0].stats(self.name)
                if stats == expected:
                    break
                await asyncio.sleep(0.01)
            return stats

        assert self.run(counted()) == expected
        letters = self.run(self.adapters[0].dead_letters(self.name, 100))
        assert [letter.id for letter in letters] == self.dead
        assert not self.arrived
        assert not self.late


def play(machine: type[Machine], site: Site, examples: int) -> None:
    """Run *machine* on *site*."""
    run_state_machine_as_test(
        lambda: machine(site),
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


MACHINES = [LockMachine, CacheMachine, QueueMachine]


@pytest.mark.parametrize("machine", MACHINES)
def test_memory(machine: type[Machine], memory: Site) -> None:
    """What adapters of memory do is what the models do."""
    play(machine, memory, scaled(30))


@pytest.mark.parametrize("machine", MACHINES)
def test_broker(machine: type[Machine], zmq: Site) -> None:
    """What a broker does is what the models do, though it is killed in between."""
    play(machine, zmq, scaled(8))


@pytest.mark.parametrize("machine", MACHINES[:2])
def test_etcd(machine: type[Machine], etcd_site: Site) -> None:
    """What etcd does is what the models do, though it is killed in between."""
    play(machine, etcd_site, scaled(2))
