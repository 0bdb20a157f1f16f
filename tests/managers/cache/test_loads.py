"""Loads: once per key, shared by all who wait, and never over what was written meanwhile."""

from __future__ import annotations

import asyncio
import gc
import traceback

import pytest

from corekit.errors import BackendUnavailable, InvalidArgument, InvalidType, NotOpenError
from corekit.testing import eventually


async def test_concurrent_misses_load_once(shop, loader):
    """Fifty concurrent calls for one key run the function once and get one value."""
    async with shop.cache() as cache:
        load = loader("value").hold()
        waiting = [asyncio.create_task(cache.wrap("key", load)) for _ in range(50)]
        await eventually(lambda: load.calls)
        late = asyncio.create_task(cache.wrap("key", load))
        await asyncio.sleep(1)
        load.release()
        assert await asyncio.gather(*waiting, late) == ["value"] * 51
        assert await cache.wrap("key", load) == "value"
        assert load.calls == 1


@pytest.mark.parametrize("value", [None, 0, "", {}, False])
async def test_a_falsy_value_is_stored(shop, loader, value):
    """A loaded None, or any falsy value, is a hit the next time."""
    async with shop.cache() as cache:
        load = loader(value, "again")
        assert await cache.wrap("key", load) == value
        assert await cache.wrap("key", load) == value
        assert await cache.get("key", "missing") == value


async def test_keys_and_caches_load_separately(shop, loader):
    """Loads of other keys, and of the same key in another cache, go on side by side."""
    async with shop.running("a") as (manager,):
        other = await manager.create_cache("other")
        loads = [loader(number).hold() for number in range(3)]
        waiting = [
            asyncio.create_task(manager.default.wrap("key", loads[0])),
            asyncio.create_task(manager.default.wrap("key2", loads[1])),
            asyncio.create_task(other.wrap("key", loads[2])),
        ]
        await eventually(lambda: all(load.calls for load in loads))
        for load in reversed(loads):
            load.release()
        assert await asyncio.gather(*waiting) == [0, 1, 2]


async def test_a_plain_function(shop):
    """The function may be plain, or return something to await."""
    async with shop.cache() as cache:
        assert await cache.wrap("plain", lambda: 1) == 1
        assert await cache.wrap("awaitable", lambda: asyncio.sleep(1, 2)) == 2
        assert await cache.mget(["plain", "awaitable"]) == [1, 2]


async def test_the_loaded_value_has_a_ttl(shop, loader):
    """The ttl counts from the end of the load."""
    async with shop.cache() as cache:
        await cache.wrap("key", lambda: asyncio.sleep(100, 1), 5)
        assert await cache.ttl("key") == pytest.approx(5)
        shop.clock.jump(5)
        assert await cache.wrap("key", loader(2), 5) == 2


@pytest.mark.parametrize("error", [KeyError("x"), asyncio.CancelledError(), GeneratorExit()])
async def test_a_failure_reaches_every_waiter(shop, loader, error, caplog):
    """Every waiting call raises what the function raised; nothing is stored."""
    async with shop.cache() as cache:
        load = loader().hold()
        load.error = error
        waiting = [asyncio.create_task(cache.wrap("key", load)) for _ in range(5)]
        await eventually(lambda: load.calls)
        load.release()
        await asyncio.wait(waiting)
        for task in waiting:
            with pytest.raises(type(error)) as caught:
                task.result()
            assert caught.value is error or task.cancelled()
        assert load.calls == 1
        assert not caplog.records
        assert await cache.keys() == []
        assert await cache.wrap("key", loader("later")) == "later"


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12")
async def test_eager_tasks(local):
    """A load that ends as soon as it is begun leaves nothing behind, its failure neither."""

    def fail():
        raise OSError("no")

    async with local.cache() as cache:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        with pytest.raises(OSError, match="no"):
            await cache.wrap("key", fail)
        assert await cache.wrap("key", lambda: 1) == 1
        assert "loads=0" in repr(cache)


async def test_stop_iteration(shop):
    """A plain function that raises StopIteration fails as a coroutine that does."""
    async with shop.cache() as cache:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(cache.wrap("key", lambda: next(iter([]))), 5)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process(shop, error):
    """KeyboardInterrupt and SystemExit from a load end the process, as from anywhere."""

    async def load():
        await asyncio.sleep(1)
        raise error

    async def main():
        async with shop.cache() as cache:
            await cache.wrap("key", load)

    with pytest.raises(error):
        shop.clock.run(main())


async def test_waiters_do_not_share_a_traceback(shop, loader):
    """The traceback that a waiter sees shows its own call and the load, not other waiters."""
    async with shop.cache() as cache:
        load = loader().hold()
        load.error = KeyError("x")

        async def first():
            await cache.wrap("key", load)

        async def second():
            await cache.wrap("key", load)

        waiting = [asyncio.create_task(first()), asyncio.create_task(second())]
        await eventually(lambda: load.calls)
        load.release()
        for task, own, other in zip(waiting, ("first", "second"), ("second", "first"), strict=True):
            try:
                await task
            except KeyError as error:
                frames = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
                assert {"__call__", own} & frames
                assert other not in frames or own not in frames


async def test_a_cancelled_waiter_leaves_the_others(shop, loader):
    """Cancelling one waiter cancels neither the load nor the other waiters."""
    async with shop.cache() as cache:
        load = loader("value").hold()
        waiting = [asyncio.create_task(cache.wrap("key", load)) for _ in range(3)]
        await eventually(lambda: load.calls)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        load.release()
        assert await asyncio.gather(*waiting[1:]) == ["value", "value"]


async def test_a_load_goes_on_without_waiters(shop, loader):
    """When every waiter is cancelled the load goes on, and its value is stored."""
    async with shop.cache() as cache:
        load = loader("value").hold()
        waiting = asyncio.create_task(cache.wrap("key", load))
        await eventually(lambda: load.calls)
        waiting.cancel()
        await asyncio.wait([waiting])
        load.release()
        await asyncio.sleep(1)
        assert await cache.get("key") == "value"


async def test_a_failure_without_waiters_is_logged(shop, loader, caplog):
    """A load that fails with nobody waiting leaves a line in the log, with cache and key."""
    async with shop.cache() as cache:
        load = loader().hold()
        load.error = KeyError("x")
        waiting = asyncio.create_task(cache.wrap("key", load))
        await eventually(lambda: load.calls)
        waiting.cancel()
        await asyncio.wait([waiting])
        load.release()
        await asyncio.sleep(1)
        gc.collect()
    assert [record.getMessage() for record in caplog.records] == [
        "cache 'default': loading 'key' failed with nobody waiting; the next call tries again"
    ]


async def test_cancelled_at_every_step(shop, loader):
    """Wherever a call is cancelled, the load ends, its value is stored, and later calls work."""
    async with shop.cache() as cache:
        for steps in range(1000):
            load = loader("value")
            task = asyncio.create_task(cache.wrap("key", load))
            for _ in range(steps):
                await asyncio.sleep(0)
            ended = not task.cancel()
            await asyncio.wait([task])
            assert await cache.wrap("key", load) == "value"
            assert load.calls == 1
            assert await cache.get("key") == "value"
            await cache.delete("key")
            if ended:
                break
        assert ended
        assert steps >= (10 if shop.kind == "remote" else 2)


@pytest.mark.parametrize("how", ["set", "mset", "add", "increment", "field", "delete", "reset"])
async def test_a_write_during_a_load_wins(shop, loader, how):
    """What is written, or removed, during a load stays; the loaded value is only returned."""
    async with shop.running("a", "b") as (one, two):
        for writer in (one.default, two.default):
            load = loader("loaded").hold()
            waiting = asyncio.create_task(one.default.wrap("key", load))
            await eventually(lambda load=load: load.calls)
            if how == "set":
                await writer.set("key", "written")
            elif how == "mset":
                await writer.mset({"key": "written"})
            elif how == "add":
                assert await writer.add("key", "written") is True
            elif how == "increment":
                assert await writer.increment("key", 7) == 7
            elif how == "field":
                await writer.set_value_in_object("key", "a", 1)
            elif how == "delete":
                assert await writer.delete("key") is False
            else:
                await writer.reset()
            written = await writer.get("key", "missing")
            load.release()
            assert await waiting == "loaded"
            assert await one.default.get("key", "missing") == written
            await one.default.reset()


async def test_what_is_loaded_after_a_delete_is_new(shop, loader):
    """A call that begins when a delete has returned gets no value whose load began before it."""
    async with shop.running("a", "b") as (one, two):
        for deleter in (one.default, two.default):
            old, new = loader("old").hold(), loader("new").hold()
            before = asyncio.create_task(one.default.wrap("key", old))
            await eventually(lambda old=old: old.calls)
            await deleter.delete("key")
            after = [asyncio.create_task(one.default.wrap("key", new)) for _ in range(5)]
            await eventually(lambda new=new: new.calls)
            old.release()
            assert await before == "old"
            after.append(asyncio.create_task(one.default.wrap("key", new)))
            await asyncio.sleep(1)
            new.release()
            assert await asyncio.gather(*after) == ["new"] * 6
            assert await one.default.get("key") == "new"
            assert new.calls == 1
            await one.default.reset()


async def test_a_load_is_invisible(shop, loader):
    """While a key is loaded, it is missing for everything but `wrap`."""
    async with shop.cache() as cache:
        load = loader().hold()
        waiting = asyncio.create_task(cache.wrap("key", load))
        await eventually(lambda: load.calls)
        assert await cache.get("key", "missing") == "missing"
        assert await cache.mget(["key"]) == [None]
        assert await cache.keys() == []
        assert await cache.ttl("key") is None
        assert await cache.get_value_in_object("key", "field", "missing") == "missing"
        await cache.delete_value_in_object("key", "field")
        load.release()
        await waiting
        assert await cache.get("key") == 1


async def test_two_instances_load_at_once(shop, loader):
    """Without `coalesce` each instance loads for itself; the first to end stores."""
    async with shop.running("a", "b") as (one, two):
        first, second = loader("first").hold(), loader("second").hold()
        a = asyncio.create_task(one.default.wrap("key", first))
        await eventually(lambda: first.calls)
        b = asyncio.create_task(two.default.wrap("key", second))
        await eventually(lambda: second.calls)
        second.release()
        assert await b == "second"
        first.release()
        assert await a == "first"
        assert await one.default.get("key") == "second"


async def test_a_failure_leaves_the_other_instances_claim(shop, loader):
    """When both load, the failure of one does not end the claim of the other."""
    async with shop.running("a", "b", "c") as (one, two, three):
        first, second, third = loader("first").hold(), loader().hold(), loader("third")
        a = asyncio.create_task(one.default.wrap("key", first))
        await eventually(lambda: first.calls)
        b = asyncio.create_task(two.default.wrap("key", second))
        await eventually(lambda: second.calls)
        second.error = KeyError("x")
        second.release()
        with pytest.raises(KeyError):
            await b
        c = asyncio.create_task(three.default.wrap("key", third, coalesce="cluster"))
        await asyncio.sleep(5)
        first.release()
        assert await asyncio.gather(a, c) == ["first", "first"]
        assert third.calls == 0


async def test_instances_do_not_starve_each_other(shop):
    """Instances that load one key again and again still get values stored."""
    async with shop.running("a", "b", "c") as managers:
        stored = 0

        async def work(cache, pause):
            nonlocal stored
            for _ in range(20):
                await cache.wrap("key", lambda: asyncio.sleep(pause, pause), 0.5)
                stored += await cache.get("key") is not None
                await asyncio.sleep(0.5)

        await asyncio.gather(*(work(m.default, 1 + n / 10) for n, m in enumerate(managers)))
        assert stored > 20


async def test_wrapping_inside_its_own_load(shop):
    """Wrapping a key inside its own load raises at once, in child tasks too; other keys work."""
    async with shop.cache() as cache:

        async def inner():
            return await cache.wrap("key", lambda: 1)

        for nested in (inner, lambda: asyncio.create_task(inner())):
            with pytest.raises(InvalidArgument, match="'key' is wrapped inside its own load"):
                await asyncio.wait_for(cache.wrap("key", nested), 5)

        async def through_another_key():
            return await cache.wrap("other", inner)

        with pytest.raises(InvalidArgument, match="inside its own load"):
            await asyncio.wait_for(cache.wrap("key", through_another_key), 5)

        async def other():
            return await cache.wrap("other", lambda: 5) + 1

        assert await cache.wrap("key", other) == 6


async def test_loads_that_would_wait_for_each_other(shop):
    """Two loads that wrap each other's keys do not wait for ever: the second to ask fails."""
    async with shop.running("a") as (manager,):
        one = manager.default
        two = await manager.create_cache("two")
        both = asyncio.Barrier(2)

        async def first():
            await both.wait()
            return await two.wrap("key", lambda: 2)

        async def second():
            await both.wait()
            return await one.wrap("key", lambda: 1)

        waiting = [
            asyncio.create_task(one.wrap("key", first)),
            asyncio.create_task(two.wrap("key", second)),
        ]
        await asyncio.wait_for(asyncio.wait(waiting), 5)
        for task in waiting:
            with pytest.raises(InvalidArgument, match="inside its own load"):
                task.result()


async def test_a_task_that_outlives_its_load(shop, loader):
    """A task that a load started may wrap the key once the load has ended."""
    async with shop.cache() as cache:
        ended = asyncio.Event()
        tasks = []

        async def later():
            await ended.wait()
            return await cache.wrap("key", loader("later"))

        async def load():
            tasks.append(asyncio.create_task(later()))
            return "first"

        await cache.wrap("key", load)
        await cache.delete("key")
        ended.set()
        assert await tasks[0] == "later"


async def test_loads_end_with_the_app(shop, loader):
    """Stopping cancels running loads; their waiters get NotOpenError."""
    async with shop.running("a") as (manager,):
        load = loader().hold()
        waiting = [asyncio.create_task(manager.default.wrap("key", load)) for _ in range(3)]
        fresh = asyncio.create_task(manager.default.wrap("other", load))
        await eventually(lambda: load.calls == 2)
        unstarted = asyncio.create_task(manager.default.wrap("third", load))
        await asyncio.sleep(0)
        await manager.close()
        await asyncio.wait([*waiting, fresh, unstarted])
        for task in (*waiting, fresh, unstarted):
            with pytest.raises(NotOpenError):
                task.result()
        await manager.open(shop.adapter())
        load.held = False
        # The claims were given back: nobody waits for loads that have ended.
        before = shop.clock.monotonic()
        for key in ("key", "other", "third"):
            await manager.default.wrap(key, load, coalesce="cluster")
        assert shop.clock.monotonic() - before < 1


async def test_a_store_that_fails_after_the_load(remote, loader, caplog):
    """If the store is away when the load ends, the value is returned, and that is logged."""
    async with remote.cache() as cache:
        load = loader("value").hold()
        waiting = asyncio.create_task(cache.wrap("key", load))
        await eventually(lambda: load.calls)
        remote.faults.failures["swap"] = BackendUnavailable("away")
        load.release()
        assert await waiting == "value"
        del remote.faults.failures["swap"]
        assert await cache.get("key") is None
    assert "the value loaded for 'key' was not stored: away" in caplog.text


async def test_a_store_that_fails_before_the_load(remote, loader):
    """If the store is away when it is asked, the call raises and loads nothing."""
    async with remote.cache() as cache:
        for method in ("get", "swap"):
            remote.faults.failures = {method: BackendUnavailable("away")}
            load = loader()
            with pytest.raises(BackendUnavailable):
                await cache.wrap("key", load)
            assert load.calls == 0
            remote.faults.failures.clear()
        assert await cache.wrap("key", load) == 1


async def test_long_loads_keep_their_claim(shop, loader):
    """However long a load takes, its value is stored, also if the store was away meanwhile."""
    async with shop.cache() as cache:
        load = loader("value").hold()
        waiting = asyncio.create_task(cache.wrap("key", load))
        await asyncio.sleep(20)
        if shop.kind == "remote":
            shop.faults.failures["swap"] = BackendUnavailable("away")
            await asyncio.sleep(5)
            shop.faults.failures.clear()
        await asyncio.sleep(600)
        load.release()
        assert await waiting == "value"
        assert await cache.get("key") == "value"


async def test_renewing_ends_with_the_load(remote, loader):
    """When a load has ended, however long it took, the store hears no more of it."""
    async with remote.cache() as cache:
        for length in (0.1, 30):
            load = loader("value").hold()
            waiting = asyncio.create_task(cache.wrap(f"key {length}", load))
            await asyncio.sleep(length)
            load.release()
            await waiting
            calls = remote.faults.calls.copy()
            await asyncio.sleep(60)
            assert remote.faults.calls == calls


async def test_nothing_is_left_of_a_load(shop, loader):
    """After loads have ended or failed nothing of them is kept, in the manager or the store."""
    async with shop.running("a") as (manager,):
        cache = await manager.create_cache("many", max=None)
        failing = loader()
        failing.error = KeyError("x")
        for number in range(100):
            with pytest.raises(KeyError):
                await cache.wrap(f"key {number}", failing)
        await asyncio.sleep(60)
        assert len(cache._flights) == 0
        assert len(manager._loads) == 0
        assert await shop.space("shop/cache/many").keys() == []


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"fn": 5}, InvalidType, "^fn must be a function, not 5"),
        ({"fn": None}, InvalidType, "^fn must be a function"),
        ({"coalesce": "all"}, InvalidArgument, '^coalesce must be "process" or "cluster"'),
        ({"coalesce": None}, InvalidArgument, "^coalesce must be"),
        ({"coalesce": []}, InvalidArgument, "^coalesce must be"),
    ],
)
async def test_bad_arguments(shop, arguments, error, match):
    """An argument that `wrap` does not take is refused before anything is loaded."""
    async with shop.cache() as cache:
        with pytest.raises(error, match=match):
            await cache.wrap(**{"key": "key", "fn": lambda: 1, **arguments})
        assert await cache.keys() == []


# Conditions.


async def test_only_what_is_cacheable_is_stored(shop, loader):
    """`is_cacheable`, plain or async, decides what is stored; without it everything is."""

    async def positive(value):
        await asyncio.sleep(1)
        return value > 0

    async with shop.cache() as cache:
        for is_cacheable in (positive, lambda value: value > 0):
            load = loader(-1, 0, 1, 2)
            values = [
                await cache.wrap_with_condition("key", load, is_cacheable=is_cacheable, ttl=60)
                for _ in range(4)
            ]
            assert values == [-1, 0, 1, 1]
            assert await cache.ttl("key") == pytest.approx(60)
            await cache.reset()
        assert await cache.wrap_with_condition("none", lambda: None) is None
        assert await cache.get("none", "missing") is None


async def test_without_the_cache(shop, loader):
    """With `use_cache=False` the cache is neither read nor written."""
    async with shop.cache() as cache:
        await cache.set("key", "cached")
        assert await cache.wrap_with_condition("key", loader("new"), use_cache=False) == "new"
        assert await cache.wrap_with_condition("key", lambda: "plain", use_cache=False) == "plain"
        assert await cache.get("key") == "cached"
        assert await cache.wrap_with_condition("key", loader("new")) == "cached"


async def test_others_need_not_wait_for_what_is_not_stored(shop):
    """A load whose value is not stored gives its key back at once."""
    async with shop.running("a", "b") as (one, two):
        before = shop.clock.monotonic()
        await one.default.wrap_with_condition("key", lambda: 1, is_cacheable=lambda _: False)
        assert await two.default.wrap("key", lambda: 2, coalesce="cluster") == 2
        assert shop.clock.monotonic() - before < 1


async def test_conditional_loads_are_shared(shop, loader):
    """Concurrent conditional misses run the function once, whatever the condition says."""
    async with shop.cache() as cache:
        load = loader("value").hold()
        waiting = [
            asyncio.create_task(
                cache.wrap_with_condition("key", load, is_cacheable=lambda _: False)
            )
            for _ in range(50)
        ]
        await eventually(lambda: load.calls)
        load.release()
        assert await asyncio.gather(*waiting) == ["value"] * 50
        assert load.calls == 1
        assert await cache.keys() == []


async def test_a_condition_that_fails(shop):
    """An error in `is_cacheable` is raised, and nothing is stored."""
    async with shop.cache() as cache:
        with pytest.raises(ZeroDivisionError):
            await cache.wrap_with_condition("key", lambda: 0, is_cacheable=lambda v: 1 / v)
        assert await cache.keys() == []
        with pytest.raises(InvalidType, match="is_cacheable must be a function"):
            await cache.wrap_with_condition("key", lambda: 0, is_cacheable=5)
        with pytest.raises(InvalidType, match="use_cache must be True or False"):
            await cache.wrap_with_condition("key", lambda: 0, use_cache=None)


# Stale values.


async def test_the_old_value_is_served_while_one_refresh_runs(shop, loader):
    """For `stale` seconds after the ttl the old value is returned at once; one load refreshes."""
    async with shop.cache() as cache:
        load = loader("old", "new")

        async def call():
            return await cache.wrap("key", load, 10, stale=5)

        await call()
        shop.clock.jump(12)
        load.hold()
        assert await asyncio.gather(*(call() for _ in range(10))) == ["old"] * 10
        await eventually(lambda: load.calls == 2)
        assert await call() == "old"
        load.release()
        await asyncio.sleep(1)
        assert await call() == "new"
        assert load.calls == 2


async def test_only_wrap_sees_the_old_value(shop, loader):
    """In the stale time the key is missing for everything else, and for a wrap without `stale`."""
    async with shop.cache() as cache:
        load = loader("old", "new", "newer")
        await cache.wrap("key", load, 10, stale=60)
        shop.clock.jump(12)
        assert await cache.get("key", "missing") == "missing"
        assert await cache.keys() == []
        assert await cache.ttl("key") is None
        assert await cache.wrap("key", load, 10, stale=1) == "new"
        shop.clock.jump(12)
        assert await cache.wrap("key", load, 10) == "newer"


async def test_what_was_not_meant_to_be_served_old(shop):
    """A value that was written without `stale` is not served after its ttl."""
    async with shop.cache() as cache:
        await cache.set("key", "set", 0.1)
        shop.clock.jump(0.2)
        assert await cache.wrap("key", lambda: "new", stale=60) == "new"
        await cache.wrap("short", lambda: "old", 0.1, stale=0.1)
        shop.clock.jump(0.3)
        assert await cache.wrap("short", lambda: "new", stale=60) == "new"


async def test_the_stale_time_ends(shop, loader):
    """After the stale time the call waits for the load."""
    async with shop.cache() as cache:
        load = loader("old", "new")
        await cache.wrap("key", load, 10, stale=5)
        shop.clock.jump(15)
        assert await cache.wrap("key", load, 10, stale=5) == "new"


async def test_a_refresh_that_fails(shop, loader, caplog):
    """A failing refresh is logged; the old value stays, and the next call tries again."""
    async with shop.cache() as cache:
        load = loader("old", "lost", "new")
        await cache.wrap("key", load, 10, stale=60)
        shop.clock.jump(12)
        load.error = KeyError("x")
        assert await cache.wrap("key", load, 10, stale=60) == "old"
        await asyncio.sleep(1)
        assert load.calls == 2
        load.error = None
        assert await cache.wrap("key", load, 10, stale=60) == "old"
        await asyncio.sleep(1)
        assert await cache.wrap("key", load, 10, stale=60) == "new"
    assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == [
        "cache 'default': loading 'key' failed with nobody waiting; the next call tries again"
    ]


async def test_a_delete_during_a_refresh_wins(shop, loader):
    """A refresh does not bring back what was deleted meanwhile."""
    async with shop.cache() as cache:
        load = loader("old", "new")
        await cache.wrap("key", load, 10, stale=60)
        shop.clock.jump(12)
        load.hold()
        assert await cache.wrap("key", load, 10, stale=60) == "old"
        await eventually(lambda: load.calls == 2)
        await cache.delete("key")
        load.release()
        await asyncio.sleep(1)
        assert await cache.get("key", "missing") == "missing"


# Among all instances.


async def test_a_cluster_loads_once(shop, loader):
    """With `coalesce="cluster"` one instance loads and the others get its value."""
    async with shop.running("a", "b", "c") as managers:
        load = loader("value").hold()
        waiting = [
            asyncio.create_task(manager.default.wrap("key", load, coalesce="cluster"))
            for manager in managers
            for _ in range(10)
        ]
        await asyncio.sleep(100)
        assert load.calls == 1
        load.release()
        before = shop.clock.monotonic()
        assert await asyncio.gather(*waiting) == ["value"] * 30
        assert shop.clock.monotonic() - before < 0.5
        assert load.calls == 1


async def test_the_next_instance_loads_after_a_failure(shop, loader):
    """When one instance's load fails, a waiting one loads; only the first's callers see it."""
    async with shop.running("a", "b") as (one, two):
        failing, working = loader().hold(), loader("value")
        failing.error = KeyError("x")
        a = asyncio.create_task(one.default.wrap("key", failing, coalesce="cluster"))
        await eventually(lambda: failing.calls)
        b = asyncio.create_task(two.default.wrap("key", working, coalesce="cluster"))
        await asyncio.sleep(1)
        failing.release()
        with pytest.raises(KeyError):
            await a
        before = shop.clock.monotonic()
        assert await b == "value"
        assert shop.clock.monotonic() - before < 0.5


@pytest.mark.parametrize(
    ("skew", "stale"), [(0, None), (3600, None), (-3600, None), (0, 9999), (3600, 9999)]
)
async def test_a_dead_instance_is_taken_over(shop, loader, skew, stale):
    """Ten seconds after an instance died another loads, however wrong its wall clock was."""
    async with shop.running("a", "b") as (one, two):
        if stale:
            await one.default.wrap("key", loader("old"), 0.1, stale=stale)
            shop.clock.jump(0.2)
        shop.clock.jump_wall(skew)
        held = loader("lost").hold()
        lost = asyncio.create_task(one.default.wrap("key", held, coalesce="cluster"))
        await eventually(lambda: held.calls)
        # As if the process were gone: nothing renews, stores or gives back.
        one.default._keyspace.space = None
        shop.clock.jump_wall(-skew)
        before = shop.clock.monotonic()
        assert await two.default.wrap("key", loader("value"), coalesce="cluster") == "value"
        took = shop.clock.monotonic() - before
        assert took < 11
        if skew == 0:
            assert took > 9
        lost.cancel()
        await asyncio.wait([lost])


async def test_a_load_that_was_taken_over_does_not_store(shop, loader):
    """A paused instance whose load was taken over returns its value, and does not store it."""
    async with shop.running("a", "b") as (one, two):
        paused = loader("old").hold()
        a = asyncio.create_task(one.default.wrap("key", paused, coalesce="cluster"))
        await eventually(lambda: paused.calls)
        shop.clock.jump(11)
        new = loader("new").hold()
        b = asyncio.create_task(two.default.wrap("key", new, coalesce="cluster"))
        await eventually(lambda: new.calls)
        paused.release()
        assert await a == "old"
        assert await one.default.get("key", "missing") == "missing"
        new.release()
        assert await b == "new"
        assert await one.default.get("key") == "new"


async def test_a_cluster_refreshes_once(shop, loader):
    """In the stale time one instance refreshes; the others return the old value without loading."""
    async with shop.running("a", "b") as (one, two):
        load = loader("old", "new")
        calls = [
            lambda manager=manager: manager.default.wrap(
                "key", load, 10, stale=60, coalesce="cluster"
            )
            for manager in (one, two)
        ]
        await calls[0]()
        shop.clock.jump(12)
        load.hold()
        assert await calls[0]() == "old"
        await eventually(lambda: load.calls == 2)
        assert [await calls[1]() for _ in range(10)] == ["old"] * 10
        assert len(two.default._flights) == 0
        assert load.calls == 2
        load.release()
        await asyncio.sleep(1)
        assert [await call() for call in calls] == ["new", "new"]
        assert load.calls == 2


async def test_waiting_for_another_instance_ends_with_the_app(shop, loader):
    """A call that waits for another instance's load gets NotOpenError when its App stops."""
    async with shop.running("a", "b") as (one, two):
        load = loader("value").hold()
        a = asyncio.create_task(one.default.wrap("key", load, coalesce="cluster"))
        await eventually(lambda: load.calls)
        b = asyncio.create_task(two.default.wrap("key", load, coalesce="cluster"))
        await asyncio.sleep(1)
        await two.close()
        with pytest.raises(NotOpenError):
            await b
        load.release()
        assert await a == "value"
