"""The App: order of opening and closing, and what happens when they go wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from corekit import (
    AdapterNotFound,
    App,
    ConfigurationError,
    ForkedProcess,
    InvalidArgument,
    InvalidName,
    InvalidType,
    NotOpenError,
    Plugin,
    WrongLoop,
)
from corekit.testing import VirtualClock, eventually


class Recorder(Plugin):
    """Writes down which hook ran."""

    name = "recorder"

    def __init__(self, log: list[str] | None = None, name: str = "recorder") -> None:
        self.log = [] if log is None else log
        self.name = name  # type: ignore[misc]

    async def before_load(self) -> None:
        self.log.append(f"{self.name} before_load")

    async def load(self) -> None:
        self.log.append(f"{self.name} load")

    async def before_stop(self) -> None:
        self.log.append(f"{self.name} before_stop")


async def test_hooks_run_in_order() -> None:
    """All before_load run first, then all load; before_stop runs in the reverse order."""
    log: list[str] = []
    async with App("shop", plugins=[Recorder(log, "a"), Recorder(log, "b")]):
        log.append("body")
    assert log == [
        "a before_load", "b before_load", "a load", "b load", "body",
        "b before_stop", "a before_stop",
    ]  # fmt: skip


async def test_plugins_are_found_by_name() -> None:
    """A class is instantiated, and app.plugins shows plugins by name, read-only."""
    app = App("shop", plugins=[Recorder])
    assert app.plugins["recorder"].app is app
    with pytest.raises(TypeError):
        app.plugins["x"] = Recorder()  # type: ignore[index]


@pytest.mark.parametrize("name", ["", "a\x00b", "x" * 513, "\ud800"])
def test_app_names_are_checked(name: str) -> None:
    """An impossible application name is refused when the App is built."""
    with pytest.raises(InvalidName, match=r"^name must"):
        App(name)


def test_plugins_are_checked() -> None:
    """Nameless, doubled, foreign and unasync plugins are refused when the App is built."""

    class Nameless(Plugin):
        pass

    class Plain(Plugin):
        name = "plain"

        def load(self) -> None:  # type: ignore[override]
            pass

    with pytest.raises(ConfigurationError, match="Nameless has no name"):
        App("shop", plugins=[Nameless])
    with pytest.raises(ConfigurationError, match=r"Plain\.load must be an async function"):
        App("shop", plugins=[Plain])
    with pytest.raises(ConfigurationError, match="two plugins are named 'recorder'"):
        App("shop", plugins=[Recorder, Recorder()])
    with pytest.raises(ConfigurationError, match="Plugin classes or instances"):
        App("shop", plugins=[object()])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="no installed distribution offers a plugin"):
        App("shop", plugins=["reports"])
    plugin = Recorder()
    App("shop", plugins=[plugin])
    with pytest.raises(ConfigurationError, match="belongs to another App"):
        App("shop", plugins=[plugin])


def test_settings_are_checked() -> None:
    """Settings that cannot work are refused when the App is built, each by its own name."""
    with pytest.raises(InvalidType, match="backend must be a URL"):
        App("shop", backend=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="lock: the URL is empty"):
        App("shop", lock="")
    with pytest.raises(ConfigurationError, match="worker_mode='a,,b'"):
        App("shop", worker_mode="a,,b")
    with pytest.raises(InvalidArgument, match="grace must be"):
        App("shop", grace=-1)
    with pytest.raises(InvalidArgument, match="max_message must be"):
        App("shop", max_message=0)


async def test_a_missing_backend_is_told_at_start() -> None:
    """An unknown scheme fails the start and names what to install; nothing is opened."""
    log: list[str] = []
    app = App("shop", lock="nats://127.0.0.1:4222", plugins=[Recorder(log)])
    with pytest.raises(AdapterNotFound, match="pip install corekit-nats"):
        await app.start()
    assert log == []
    with pytest.raises(NotOpenError):
        await app.cache.get("key")


async def test_before_start_and_after_stop_nothing_works() -> None:
    """Every call raises NotOpenError before the start, says what to do, and after the stop."""

    def calls(app: App) -> list[Any]:
        return [
            app.cache.get("k"),
            app.cache_manager.create_cache("c"),
            app.pub_sub_manager.publish("c", 1),
            app.sync_message_manager.publish("c", 1),
            app.event_queue.publish("c", 1),
            app.event_queue.stats("c"),
            app.lock_manager.acquire("k"),
        ]

    app = App("shop")
    for call in calls(app):
        with pytest.raises(NotOpenError, match="not started: use 'async with app'"):
            await call
    async with app:
        await app.cache.set("k", 1)
    for call in calls(app):
        with pytest.raises(NotOpenError, match="stopped"):
            await call


async def test_in_before_load_only_subscribing_works() -> None:
    """Publishing, caches and locks raise NotOpenError in before_load; subscribing is remembered."""
    seen: list[str] = []

    class Early(Plugin):
        name = "early"

        async def before_load(self) -> None:
            app = self.app
            await app.pub_sub_manager.subscribe("news", self.hear)
            for call in (
                app.cache.get("k"),
                app.pub_sub_manager.publish("news", 1),
                app.event_queue.publish("jobs", 1),
                app.lock_manager.acquire("k"),
            ):
                with pytest.raises(NotOpenError):
                    await call

        async def load(self) -> None:
            await self.app.pub_sub_manager.publish("news", "hello", skip_self=False)

        async def hear(self, message: str) -> None:
            seen.append(message)

    async with App("shop", plugins=[Early]):
        await eventually(lambda: seen == ["hello"])


async def test_starting_an_open_app_does_nothing() -> None:
    """A second start, also a concurrent one, opens nothing twice."""
    log: list[str] = []
    app = App("shop", plugins=[Recorder(log)])
    await asyncio.gather(*(app.start() for _ in range(10)))
    await app.start()
    assert log == ["recorder before_load", "recorder load"]
    await asyncio.gather(*(app.stop() for _ in range(10)))
    await app.stop()
    assert log[2:] == ["recorder before_stop"]


async def test_stopping_a_closed_app_does_nothing() -> None:
    """Stop without start, and after stop, returns."""
    app = App("shop")
    await app.stop()
    async with app:
        pass
    await app.stop()


def test_an_app_starts_again_in_another_loop() -> None:
    """A stopped App starts again in another loop, with its subscriptions kept, each once."""
    seen: list[int] = []

    async def hear(message: int) -> None:
        seen.append(message)

    app = App("shop")

    async def once(number: int) -> None:
        async with app:
            if number == 0:
                await app.pub_sub_manager.subscribe("news", hear)
            await app.pub_sub_manager.publish("news", number, skip_self=False)
            await eventually(lambda: number in seen)

    for number in range(3):
        asyncio.run(once(number))
    assert seen == [0, 1, 2]


async def test_a_failed_start_closes_what_it_opened() -> None:
    """The original error is raised, loaded plugins are told to stop, a later start works."""
    log: list[str] = []

    class Failing(Recorder):
        async def load(self) -> None:
            if "failed" not in log:
                log.append("failed")
                raise OSError("no such table")

    app = App("shop", plugins=[Recorder(log, "a"), Failing(log, "b")])
    with pytest.raises(OSError, match="no such table"):
        await app.start()
    assert log == ["a before_load", "b before_load", "a load", "failed", "a before_stop"]
    with pytest.raises(NotOpenError):
        await app.cache.get("k")
    async with app:
        assert await app.cache.get("k") is None


async def test_errors_at_stop_do_not_keep_the_rest_open() -> None:
    """All before_stop run although some fail; what they raised comes out at the end."""
    log: list[str] = []

    class Failing(Recorder):
        async def before_stop(self) -> None:
            log.append(f"{self.name} fails")
            raise OSError(self.name)

    app = App("shop", plugins=[Recorder(log, "a"), Failing(log, "b"), Failing(log, "c")])
    await app.start()
    with pytest.raises(ExceptionGroup) as caught:
        await app.stop()
    assert [str(error) for error in caught.value.exceptions] == ["c", "b"]
    assert log[-3:] == ["c fails", "b fails", "a before_stop"]
    with pytest.raises(NotOpenError):
        await app.cache.get("k")


async def test_a_stop_ends_a_start() -> None:
    """Stopping while a plugin loads ends the start, which raises NotOpenError, and unwinds it."""
    loading = asyncio.Event()

    class Slow(Recorder):
        async def load(self) -> None:
            loading.set()
            await asyncio.Event().wait()

    log: list[str] = []
    app = App("shop", plugins=[Recorder(log, "a"), Slow(log, "b")])
    start = asyncio.create_task(app.start())
    await loading.wait()
    await app.stop()
    with pytest.raises(NotOpenError, match="stopped while it started"):
        await start
    assert log[-1] == "a before_stop"


async def test_a_cancelled_start_leaves_nothing_open() -> None:
    """Cancelling start at any of its awaits closes everything; the App starts afterwards."""
    app = App("shop", plugins=[Recorder])
    for steps in range(1, 30):
        start = asyncio.create_task(app.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        start.cancel()
        try:
            await start
        except asyncio.CancelledError:
            with pytest.raises(NotOpenError):
                await app.cache.get("k")
        else:
            await app.stop()
            break
    else:
        pytest.fail("start never ended")
    async with app:
        assert await app.cache.get("k") is None


async def test_a_cancelled_stop_goes_on() -> None:
    """Cancelling a call of stop does not end the stopping; a later call waits for it."""
    entered, leave = asyncio.Event(), asyncio.Event()

    class Slow(Recorder):
        async def before_stop(self) -> None:
            entered.set()
            await leave.wait()
            self.log.append("left")

    log: list[str] = []
    app = App("shop", plugins=[Slow(log)])
    await app.start()
    stop = asyncio.create_task(app.stop())
    await entered.wait()
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    leave.set()
    await app.stop()
    assert log[-1] == "left"


async def test_stopping_from_a_hook_and_a_handler() -> None:
    """app.stop() inside a queue handler, a pub/sub handler or before_stop does not deadlock."""
    for place in ("queue", "pub_sub", "before_stop"):
        app = App("shop", plugins=[Recorder])
        done = asyncio.Event()

        async def stop(*_: Any, app: App = app, done: asyncio.Event = done) -> None:
            await app.stop()
            done.set()

        await app.pub_sub_manager.subscribe("news", stop)
        app.event_queue.subscribe("jobs", stop)
        if place == "before_stop":
            app.plugins["recorder"].before_stop = stop  # type: ignore[method-assign]
        await app.start()
        if place == "queue":
            await app.event_queue.publish("jobs", 1)
        elif place == "pub_sub":
            await app.pub_sub_manager.publish("news", 1, skip_self=False)
        else:
            await app.stop()
        async with asyncio.timeout(10):
            if place != "pub_sub":
                await done.wait()
            await eventually(lambda app=app: "closed" in repr(app))


def test_a_loop_that_ends_while_the_queue_drains() -> None:
    """The stopping is cancelled then; everything else is closed all the same."""
    log: list[str] = []
    app = App("shop", plugins=[Recorder(log)])
    handling: list[int] = []

    async def handle(message: int, context: Any) -> None:
        handling.append(message)
        await asyncio.Event().wait()

    async def main() -> None:
        app.event_queue.subscribe("jobs", handle)
        await app.start()
        await app.event_queue.publish("jobs", 1)
        await eventually(lambda: handling)
        stopping.append(asyncio.create_task(app.stop()))
        await eventually(lambda: "stopping" in repr(app))

    stopping: list[asyncio.Task[None]] = []
    asyncio.run(main())
    assert log[-1] == "recorder before_stop"
    assert "closed" in repr(app)


async def test_calls_from_another_loop_are_refused() -> None:
    """Every call from another loop than the App's raises WrongLoop, in each component."""
    async with App("shop") as app:

        def elsewhere(call: Any) -> None:
            with pytest.raises(WrongLoop, match="run_coroutine_threadsafe"):
                asyncio.run(call)

        for call in (
            app.cache.get("k"),
            app.pub_sub_manager.publish("c", 1),
            app.event_queue.publish("c", 1),
            app.lock_manager.acquire("k"),
            app.start(),
            app.stop(),
        ):
            await asyncio.to_thread(elsewhere, call)


async def test_stopping_another_app_from_a_handler() -> None:
    """A handler of one App that stops another one waits until that one is closed."""
    other = App("bank")
    states: list[str] = []

    async def stop(message: Any, context: Any) -> None:
        await other.stop()
        states.append(repr(other))

    async with App("shop") as app:
        await other.start()
        app.event_queue.subscribe("jobs", stop)
        await app.event_queue.publish("jobs", 1)
        await eventually(lambda: states)
    assert "closed" in states[0]


async def test_instances_see_each_other() -> None:
    """Live instances are listed with their metadata, and joins and leaves are told."""
    async with App("shop", instance_id="one", metadata={"zone": "a"}) as one:
        seen: list[tuple[str, str]] = []

        async def watch() -> None:
            async for change in one.instances():
                seen.append((change.event, change.instance.id))  # noqa: PERF401 - it never ends

        watching = asyncio.create_task(watch())
        async with App("shop", instance_id="two"), App("bank", instance_id="three"):
            await eventually(lambda: ("joined", "two") in seen)
            listed = {each.id: each.metadata for each in await one.instances()}
            assert listed == {"one": {"zone": "a"}, "two": {}}
        await eventually(lambda: seen[-1] == ("left", "two"))
    with pytest.raises(NotOpenError):
        await watching


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_is_told() -> None:
    """After a fork the child's calls raise ForkedProcess; the parent goes on."""
    async with App("shop") as app:
        child = os.fork()
        if child == 0:
            try:
                app.cache.get("k").send(None)
            except ForkedProcess:
                os._exit(0)
            except BaseException:
                os._exit(1)
            os._exit(2)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await app.cache.get("k") is None


def test_an_app_that_was_never_stopped_is_reported() -> None:
    """An App that is collected while open leaves a ResourceWarning."""

    async def forget() -> None:
        await App("forgetful").start()

    def collect() -> None:
        asyncio.run(forget())
        gc.collect()

    with pytest.warns(ResourceWarning, match="was never stopped"):
        collect()


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables stand for arguments; an argument wins, empty variables count as unset."""
    monkeypatch.setenv("COREKIT_BACKEND", " memory://env ")
    monkeypatch.setenv("COREKIT_LOCK", "")
    monkeypatch.setenv("COREKIT_WORKER_MODE", "!")
    assert "memory://env" in repr(App.from_env("shop"))
    assert "memory://own" in repr(App.from_env("shop", backend="memory://own"))
    assert App.from_env("shop").serving()
    assert not App.from_env("shop").serving("a")
    assert App.from_env("shop", worker_mode="a").serving("a")
    assert App("shop").serving("a"), "App() itself reads no variable"
    monkeypatch.setenv("COREKIT_BACKEND", '"memory://"')
    with pytest.raises(ConfigurationError, match="remove the quotes"):
        App.from_env("shop")


async def test_secrets_never_show() -> None:
    """A password in a URL is in no repr and no error."""
    app = App("shop", cache="nats://user:hunter2@127.0.0.1:4222")
    with pytest.raises(AdapterNotFound) as caught:
        await app.start()
    texts = [repr(app), str(caught.value), repr(caught.value)]
    assert not any("hunter2" in text for text in texts)


async def test_apps_of_one_name_are_a_cluster() -> None:
    """Apps of one name share queue, cache and locks in one process; other names are apart."""
    async with App("shop") as one, App("shop") as two, App("bank") as other:
        await one.cache.set("k", 1)
        assert [await two.cache.get("k"), await other.cache.get("k")] == [1, None]
        async with one.lock_manager.lock("door"), other.lock_manager.lock("door"):
            assert two.instance_id != one.instance_id
    async with App("a", backend="memory://hall") as one, App("a", backend="memory://hall") as two:
        await one.cache.set("k", 2)
        assert await two.cache.get("k") == 2


async def test_a_plugin_is_subscribed_only_where_it_listens() -> None:
    """handle_sync_message gets what other instances send, in order; a deaf plugin costs nothing."""

    class Deaf(Plugin):
        name = "deaf"

    class Hearing(Plugin):
        name = "hearing"

        def __init__(self) -> None:
            self.heard: list[Any] = []

        async def handle_sync_message(self, message: Any) -> None:
            self.heard.append(message)

    one, two = Hearing(), Hearing()
    async with App("shop", plugins=[one, Deaf]), App("shop", plugins=[two, Deaf]) as second:
        for number in range(3):
            await one.send_sync_message(number)
        await second.plugins["deaf"].send_sync_message("nobody hears it")
        await eventually(lambda: two.heard == [0, 1, 2])
        assert one.heard == []


async def test_a_virtual_clock_drives_the_app(clock: VirtualClock) -> None:
    """With a clock handed in, an hour's ttl passes at once."""
    async with App("timely", clock=clock) as app:
        await app.cache.set("k", 1, ttl=3600)
        await asyncio.sleep(3599)
        assert await app.cache.get("k") == 1
        await asyncio.sleep(2)
        assert await app.cache.get("k") is None


_PROGRAM = """
    import asyncio, sys
    from corekit import App, Plugin

    class Worker(Plugin):
        name = "worker"

        async def before_load(self):
            self.app.event_queue.subscribe("jobs", self.work)

        async def load(self):
            await self.app.event_queue.publish("jobs", 1)

        async def before_stop(self):
            print("stopping", flush=True)

        async def work(self, message, context):
            print("working", flush=True)
            {work}
            print("worked", flush=True)

    App("shop", plugins=[Worker]).run()
    print("ended", flush=True)
"""


def _program(work: str) -> subprocess.Popen[str]:
    text = textwrap.dedent(_PROGRAM).replace("{work}", work)
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_drains_at_a_signal(number: signal.Signals) -> None:
    """run() lets the running handler end, stops in order, and returns."""
    with _program("await asyncio.sleep(0.3)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        assert process.stdout.read() == "worked\nstopping\nended\n"
    assert process.returncode == 0


def test_a_second_signal_ends_the_process() -> None:
    """While run() drains, a second SIGTERM has its ordinary effect."""
    with _program("await asyncio.sleep(30)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    assert process.returncode == -signal.SIGTERM


def test_run_ends_when_the_app_is_stopped() -> None:
    """run() returns when a handler stops the App; the handler's message is acknowledged."""
    with _program("await self.app.stop()") as process:
        assert process.communicate(timeout=20)[0] == "working\nworked\nstopping\nended\n"
    assert process.returncode == 0
