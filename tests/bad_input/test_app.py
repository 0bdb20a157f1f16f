"""An App that is used too early, too late, twice, or from the wrong place."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from corekit import App, NotOpenError, WrongLoop
from corekit.testing import eventually


async def handle(message: Any) -> None:
    """Handle a message of pub/sub."""


USES: dict[str, Callable[[App], Any]] = {
    "cache.get": lambda app: app.cache.get("k"),
    "cache.set": lambda app: app.cache.set("k", 1),
    "cache.add": lambda app: app.cache.add("k", 1),
    "cache.delete": lambda app: app.cache.delete("k"),
    "cache.reset": lambda app: app.cache.reset(),
    "cache.mset": lambda app: app.cache.mset({"k": 1}),
    "cache.mget": lambda app: app.cache.mget(["k"]),
    "cache.mdel": lambda app: app.cache.mdel(["k"]),
    "cache.wrap": lambda app: app.cache.wrap("k", lambda: 1),
    "cache.wrap_with_condition": lambda app: app.cache.wrap_with_condition("k", lambda: 1),
    "cache.cached": lambda app: app.cache.cached("k")(lambda: 1)(),
    "cache.keys": lambda app: app.cache.keys(),
    "cache.ttl": lambda app: app.cache.ttl("k"),
    "cache.increment": lambda app: app.cache.increment("k"),
    "cache.set_value_in_object": lambda app: app.cache.set_value_in_object("k", "f", 1),
    "cache.get_value_in_object": lambda app: app.cache.get_value_in_object("k", "f"),
    "cache.delete_value_in_object": lambda app: app.cache.delete_value_in_object("k", "f"),
    "create_cache": lambda app: app.cache_manager.create_cache("c"),
    "get_cache": lambda app: app.cache_manager.get_cache("default"),
    "create_counter": lambda app: app.cache_manager.create_counter("c"),
    "flush_all": lambda app: app.cache_manager.flush_all(),
    "pub_sub.publish": lambda app: app.pub_sub_manager.publish("c", 1),
    "sync.publish": lambda app: app.sync_message_manager.publish("c", 1),
    "queue.publish": lambda app: app.event_queue.publish("c", 1),
    "queue.stats": lambda app: app.event_queue.stats("c"),
    "queue.dead_letters": lambda app: app.event_queue.dead_letters("c"),
    "queue.requeue": lambda app: app.event_queue.requeue("c", "1"),
    "queue.purge": lambda app: app.event_queue.purge("c"),
    "acquire": lambda app: app.lock_manager.acquire("k"),
    "try_acquire": lambda app: app.lock_manager.try_acquire("k"),
    "run_exclusive": lambda app: app.lock_manager.run_exclusive("k", lambda: 1),
    "lock": lambda app: app.lock_manager.lock("k").__aenter__(),
}

#: Works before the start, but not from another loop while the App is open.
SUBSCRIBING: dict[str, Callable[[App], Any]] = {
    "pub_sub.subscribe": lambda app: app.pub_sub_manager.subscribe("c", handle),
    "pub_sub.unsubscribe": lambda app: app.pub_sub_manager.unsubscribe("known", handle),
    "sync.subscribe": lambda app: app.sync_message_manager.subscribe("c", handle),
    "stop": lambda app: app.stop(),
    "start": lambda app: app.start(),
}


async def used(use: Callable[[App], Any], app: App) -> Any:
    """Return what *use* returns, awaited if need be."""
    result = use(app)
    return await result if asyncio.iscoroutine(result) else result


@pytest.mark.parametrize("name", USES)
async def test_before_the_start(name: str) -> None:
    """Before the start a call is refused with a hint how to start; nothing else happens."""
    app = App("shop")
    with pytest.raises(NotOpenError, match="not started: use 'async with app'") as caught:
        await used(USES[name], app)
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("name", USES)
async def test_after_the_stop(name: str) -> None:
    """After the stop a call is refused, and says so."""
    app = App("shop")
    async with app:
        pass
    with pytest.raises(NotOpenError, match="is stopped"):
        await used(USES[name], app)


@pytest.mark.parametrize("name", [*USES, *SUBSCRIBING])
async def test_from_another_loop(name: str) -> None:
    """From another thread's loop a call is refused at once; the App goes on undisturbed."""
    async with App("shop") as app:
        await app.pub_sub_manager.subscribe("known", handle)

        def elsewhere() -> None:
            with pytest.raises(WrongLoop, match="run_coroutine_threadsafe"):
                asyncio.run(used({**USES, **SUBSCRIBING}[name], app))

        await asyncio.to_thread(elsewhere)
        await app.cache.set("k", 2)
        assert await app.cache.get("k") == 2
        async with app.lock_manager.lock("k", wait=0):
            pass


@pytest.mark.parametrize("turns", range(8))
async def test_stopped_while_starting(turns: int) -> None:
    """A stop at any moment of a start ends it, and the App can be started again."""
    app = App("shop")
    starting = asyncio.create_task(app.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    await app.stop()
    (outcome,) = await asyncio.gather(starting, return_exceptions=True)
    assert outcome is None or type(outcome) is NotOpenError
    if turns == 0:  # the stop came first
        await app.stop()
    async with app:
        await app.cache.set("k", 1)
    assert len(asyncio.all_tasks()) == 1


async def test_many_starts_and_stops_at_once() -> None:
    """Whatever the order of overlapping starts and stops, all return, and the App works after."""
    app = App("shop")
    for round_ in range(20):
        calls = [app.start() if (round_ + number) % 3 else app.stop() for number in range(10)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert outcome is None or type(outcome) is NotOpenError
    await app.stop()
    assert repr(app).split()[3] == "closed"
    async with app:
        await app.cache.set("k", 1)
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_run_inside_a_loop() -> None:
    """`run` inside a running loop says what to use instead, and leaves no coroutine behind."""
    app = App("shop")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WrongLoop, match="use 'async with app'"):
            app.run()


def test_run_outside_of_the_main_thread() -> None:
    """`run` in another thread, where no signal could end it, is refused."""
    found: list[BaseException] = []

    def elsewhere() -> None:
        try:
            App("shop").run()
        except WrongLoop as error:
            found.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(found[0])


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_copies(duplicate: Callable[[Any], Any]) -> None:
    """Apps and leases refuse to be copied or pickled, and say why."""
    async with App("shop") as app:
        with pytest.raises(TypeError, match="an App belongs to this process"):
            duplicate(app)
        lease = await app.lock_manager.acquire("k")
        with pytest.raises(TypeError, match="a Lease belongs to this process"):
            duplicate(lease)
