"""Functions of the application that misbehave: handlers, loads, work under a lock, idle."""

from __future__ import annotations

import asyncio
import functools
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from corekit import App, InvalidType, LockLost, Plugin, QueueStats
from corekit.testing import VirtualClock, eventually


class Unprintable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Own(BaseException):
    """Derived from BaseException, as frameworks do."""


#: What a handler raises, and what the dead letter says.
RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "exception": (lambda: ValueError("no"), "ValueError: no"),
    "base exception": (lambda: Own("no"), "Own: no"),
    "cancelled": (asyncio.CancelledError, "CancelledError"),
    "generator exit": (GeneratorExit, "GeneratorExit"),
    "stop iteration": (lambda: StopIteration(5), "RuntimeError: "),
    "stop async iteration": (StopAsyncIteration, "StopAsyncIteration"),
    "group": (lambda: ExceptionGroup("two", [ValueError(1), OSError(2)]), "ExceptionGroup: two"),
    "unprintable": (Unprintable, "Unprintable: (its text cannot be had)"),
    "timeout": (TimeoutError, "TimeoutError"),
    "long": (lambda: ValueError("x" * 100_000), "ValueError: xxx"),
    "surrogate": (lambda: ValueError("\udcff"), "ValueError: ?"),
}


@pytest.mark.parametrize("name", RAISED)
async def test_a_queue_handler_raises(clock: VirtualClock, name: str) -> None:
    """Whatever a handler raises, its message alone fails; the next ones are handled."""
    make, text = RAISED[name]
    done = []

    async def process(message: str, context: Any) -> None:
        if message == "bad":
            raise make()
        done.append(message)

    async with App("shop", clock=clock) as app:
        app.event_queue.subscribe("jobs", process)
        for message in ("first", "bad", "last"):
            await app.event_queue.publish("jobs", message, max_retries=1, backoff=0.1)
        await eventually(lambda: done == ["first", "last"])
        await asyncio.sleep(1)
        (letter,) = await app.event_queue.dead_letters("jobs")
        assert (letter.message, letter.attempts) == ("bad", 2)
        assert letter.error.startswith(text)
        assert len(letter.error) < 3000


@pytest.mark.parametrize("name", [name for name in RAISED if name != "generator exit"])
async def test_a_subscriber_raises(clock: VirtualClock, name: str, caplog: Any) -> None:
    """Whatever a subscriber raises is logged; it gets the next messages, as others do."""
    make, _ = RAISED[name]
    heard, others = [], []

    async def bad(message: Any) -> None:
        heard.append(message)
        raise make()

    async def good(message: Any) -> None:
        others.append(message)

    async with App("shop", clock=clock) as app, App("shop", clock=clock) as other:
        await app.pub_sub_manager.subscribe("c", bad)
        await app.pub_sub_manager.subscribe("c", good)
        await app.sync_message_manager.subscribe("c", bad)
        for number in range(3):
            await other.pub_sub_manager.publish("c", number)
            await other.sync_message_manager.publish("c", number)
        await eventually(lambda: len(heard) == 6 and others == [0, 1, 2])
        assert [r.levelno for r in caplog.records if "failed" in r.message] == [logging.ERROR] * 6


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_load_raises(name: str, is_async: bool) -> None:
    """Whatever a load raises reaches every waiter, stores nothing, and the next call loads anew."""
    make, _ = RAISED[name]
    calls = 0

    async def load() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        raise make()

    def plain() -> None:
        nonlocal calls
        calls += 1
        raise make()

    expected = RuntimeError if name == "stop iteration" else type(make())
    async with App("shop") as app:
        fn = load if is_async else plain
        waiters = [asyncio.create_task(app.cache.wrap("k", fn)) for _ in range(3)]
        outcomes = []
        for waiter in waiters:
            try:
                outcomes.append(await waiter)
            except BaseException as error:
                outcomes.append(error)
        assert [type(outcome) for outcome in outcomes] == [expected] * 3
        assert calls == 1
        assert await app.cache.get("k", "nothing") == "nothing"
        assert await app.cache.wrap("k", lambda: 7) == 7


@pytest.mark.parametrize("name", RAISED)
async def test_work_under_a_lock_raises(name: str) -> None:
    """Whatever work under a lock raises reaches the caller, and the key is free at once."""
    make, _ = RAISED[name]

    async def work() -> None:
        raise make()

    expected = RuntimeError if name == "stop iteration" else type(make())
    async with App("shop") as app, App("shop") as other:
        for call in (work, lambda: (_ for _ in ()).throw(make())):
            error: BaseException | None = None
            try:
                await app.lock_manager.run_exclusive("k", call)
            except BaseException as raised:
                error = raised
            assert type(error) in {expected, type(make())}
            async with other.lock_manager.lock("k", wait=0):
                pass


HANDLERS: dict[str, Any] = {
    "plain": lambda message, context=None: None,
    "partial of plain": functools.partial(lambda message, context=None: None),
    "class": dict,
    "generator": lambda: (yield),
    "none": None,
}


@pytest.mark.parametrize("name", HANDLERS)
async def test_not_async(name: str) -> None:
    """A handler that is not async is refused wherever one is taken, before and after start."""
    handler = HANDLERS[name]
    app = App("shop")
    for _ in range(2):
        with pytest.raises(InvalidType, match="process must be an async function"):
            app.event_queue.subscribe("jobs", handler)
        for manager in (app.pub_sub_manager, app.sync_message_manager):
            with pytest.raises(InvalidType, match="handler must be an async function"):
                await manager.subscribe("c", handler)
        if repr(app).split()[3] == "closed":
            await app.start()
    await app.stop()


async def test_async_generator_is_no_handler() -> None:
    """An async generator function gives no coroutine: it would never run."""

    async def handler(message: Any, context: Any = None) -> Any:
        yield message

    app = App("shop")
    with pytest.raises(InvalidType):
        app.event_queue.subscribe("jobs", handler)  # type: ignore[arg-type]
    with pytest.raises(InvalidType):
        await app.pub_sub_manager.subscribe("c", handler)  # type: ignore[arg-type]


class Callable_:  # noqa: N801 - it plays a user's class
    """An object whose call is async."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def __call__(self, message: Any, context: Any = None) -> None:
        """Take a message in."""
        self.heard.append(message)


@pytest.mark.parametrize("partial", [False, True])
async def test_objects_and_partials_are_handlers(clock: VirtualClock, partial: bool) -> None:
    """What gives a coroutine when called is a handler: objects, bound methods, partials."""
    target = Callable_()
    handler = functools.partial(target) if partial else target
    async with App("shop", clock=clock) as app, App("shop", clock=clock) as other:
        app.event_queue.subscribe("jobs", handler)
        await app.pub_sub_manager.subscribe("c", handler)
        await other.event_queue.publish("jobs", 1)
        await other.pub_sub_manager.publish("c", 2)
        await eventually(lambda: sorted(target.heard) == [1, 2])


async def test_what_a_handler_returns(clock: VirtualClock) -> None:
    """What a handler returns is ignored: the message is done."""
    done = []

    async def process(message: Any, context: Any) -> Any:
        done.append(message)
        return {0: False, 1: ValueError("returned"), 2: object()}[message]

    async with App("shop", clock=clock) as app:
        app.event_queue.subscribe("jobs", process)  # type: ignore[arg-type]
        for number in range(3):
            await app.event_queue.publish("jobs", number, max_retries=3)
        await eventually(lambda: done == [0, 1, 2])
        await asyncio.sleep(100)
        assert await app.event_queue.stats("jobs") == QueueStats(0, 0, 0, 0)


async def test_handlers_that_never_return(clock: VirtualClock, caplog: Any) -> None:
    """Handlers that never end, and swallow being cancelled, block neither others nor the stop."""
    release = asyncio.Event()
    done = []

    async def stubborn(*_: Any) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async def process(message: Any, context: Any) -> None:
        if message == "bad" and context.attempt == 1:
            await stubborn()
        done.append(message)

    app, other = App("shop", clock=clock), App("shop", clock=clock)
    await app.start()
    await other.start()
    app.event_queue.subscribe("jobs", process)
    await app.pub_sub_manager.subscribe("c", stubborn)
    await other.event_queue.publish("jobs", "bad", timeout=1, max_retries=1, backoff=0.1)
    await other.event_queue.publish("jobs", "next")
    await other.pub_sub_manager.publish("c", 1)
    begun = clock.monotonic()
    await eventually(lambda: sorted(done) == ["bad", "next"], within=5)
    assert clock.monotonic() - begun < 5
    async with asyncio.timeout(30):
        await app.stop(grace=1)
    assert any("still runs" in record.getMessage() for record in caplog.records)
    assert await other.event_queue.stats("jobs") == QueueStats(0, 0, 0, 0)
    await other.stop()
    release.set()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_work_that_swallows_the_loss_of_its_lock(clock: VirtualClock) -> None:
    """Work that swallows the cancellation still gets LockLost, in place of its result."""

    async def work() -> str:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return "all is well"
        return "slept"

    async with App("shop", clock=clock) as app:
        with pytest.raises(LockLost):
            await app.lock_manager.run_exclusive("k", work, 2, renew=False)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        # The backend's end of the lease comes a moment after the holder's.
        async with app.lock_manager.lock("k", wait=0.1):
            pass


IDLE: dict[str, Callable[[], Any]] = {
    "raises": lambda: 1 / 0,
    "cancelled": lambda: (_ for _ in ()).throw(asyncio.CancelledError()),
    "base exception": lambda: (_ for _ in ()).throw(Own()),
    "coroutine": lambda: asyncio.sleep(0),
    "none": lambda: None,
    "no truth": lambda: type("X", (), {"__bool__": lambda self: 1 / 0})(),
}


@pytest.mark.parametrize("name", IDLE)
async def test_idle_that_fails(clock: VirtualClock, name: str, caplog: Any) -> None:
    """A failing idle() means "not idle", with few log lines; when it recovers, work goes on."""
    well = False
    done = []

    async def process(message: Any, context: Any) -> None:
        done.append(message)

    async with App("shop", clock=clock) as app:
        app.event_queue.subscribe("jobs", process, idle=lambda: well or IDLE[name]())
        await app.event_queue.publish("jobs", 1)
        await asyncio.sleep(20)
        assert not done
        assert len([r for r in caplog.records if "idle()" in r.message]) <= 1
        assert (await app.event_queue.stats("jobs")).ready == 1
        well = True
        await eventually(lambda: done == [1])


PROGRAM = """
import asyncio, sys
from corekit import App

URL = "memory://programs"

async def main():
    kind = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}[sys.argv[1]]

    async def bad(*_):
        await asyncio.sleep(0)
        raise kind(3)

    app, other = App("shop", backend=URL), App("shop", backend=URL)
    await other.start()
    async with app:
        if sys.argv[2] == "queue":
            app.event_queue.subscribe("jobs", bad)
            await other.event_queue.publish("jobs", 1)
        elif sys.argv[2] == "pub_sub":
            await app.pub_sub_manager.subscribe("c", bad)
            await other.pub_sub_manager.publish("c", 1)
        elif sys.argv[2] == "load":
            await app.cache.wrap("k", bad)
        else:
            await app.lock_manager.run_exclusive("k", bad)
        await asyncio.sleep(10)
    print("went on")

async def after():
    async with App("shop", backend=URL) as app:
        print(await app.event_queue.stats("jobs"), await app.cache.get("k"))
        async with app.lock_manager.lock("k", wait=0):
            print("free")

try:
    asyncio.run(main())
except BaseException as error:
    print("ended by", type(error).__name__)
asyncio.run(after())
"""


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("where", ["queue", "pub_sub", "load", "lock"])
def test_the_process_is_told_to_end(kind: str, where: str) -> None:
    """KeyboardInterrupt and SystemExit end the program at once; what was begun is given back."""
    program = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), kind, where],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert f"ended by {kind}" in program.stdout, program.stderr
    assert "went on" not in program.stdout
    assert f"ready={int(where == 'queue')}, delayed=0, in_flight=0, dead=0) None" in program.stdout
    assert "free" in program.stdout


class Hooked(Plugin):
    """Fails in one of its hooks."""

    name = "hooked"

    def __init__(self, hook: str, error: BaseException) -> None:
        self.hook, self.error, self.stopped = hook, error, False

    async def fail(self, hook: str) -> None:
        """Fail if it is the turn of *hook*."""
        if hook == self.hook:
            raise self.error

    async def before_load(self) -> None:
        """Maybe fail."""
        await self.fail("before_load")

    async def load(self) -> None:
        """Maybe fail."""
        await self.fail("load")

    async def before_stop(self) -> None:
        """Maybe fail."""
        self.stopped = True
        await self.fail("before_stop")


@pytest.mark.parametrize("hook", ["before_load", "load", "before_stop"])
@pytest.mark.parametrize("error", [ValueError("no"), Own("no"), asyncio.CancelledError()])
async def test_a_hook_raises(hook: str, error: BaseException) -> None:
    """Whatever a hook raises reaches the caller; the App is closed then, and can start again."""
    plugin = Hooked(hook, error)
    app = App("shop", plugins=[plugin])
    raised: BaseException | None = None
    try:
        await app.start()
        await app.stop()
    except BaseException as found:
        raised = found
    assert raised is not None
    assert repr(app).split()[3] == "closed"
    assert len(asyncio.all_tasks()) == 1
    plugin.hook = "none"
    async with app:
        await app.cache.set("k", 1)
