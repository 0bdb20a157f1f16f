"""The application: picks adapters, builds managers, opens and closes everything in order."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self

from . import names
from .adapters import AdapterContext, CacheAdapter
from .app_lifecycle import AppLifecycle
from .arguments import seconds, whole
from .clock import SYSTEM_CLOCK, Clock
from .config import BackendURL, component_urls, from_environment
from .errors import NotOpenError, WrongLoop
from .lifecycle import Gate
from .managers.cache import Cache
from .managers.cache_manager import CacheManager
from .managers.context import ManagerContext
from .managers.event_queue import EventQueue
from .managers.handler_context import inside_handler
from .managers.instances import InstanceRegistry, Instances
from .managers.lock import LockManager
from .managers.pub_sub import PubSubManager
from .managers.sync_messages import SyncMessageManager
from .plugin import Plugin, attached, listens
from .registry import COMPONENTS
from .serialization import Serializer
from .signals import first_signal
from .transactions import AfterCommit
from .worker_mode import WorkerMode

logger = logging.getLogger("corekit.app")


class App:
    """One instance of an application.

    All instances have the same *name*; it prefixes every key, channel, queue and lock.

    *backend* is the URL for each component that has none of its own in *cache*, *pub_sub*,
    *event_queue* and *lock*; without any URL everything is `memory://`. *plugins* are `Plugin`
    classes or instances, or names of plugins that installed distributions offer. *worker_mode*
    says what this instance serves (see `serving`). *instance_id* must differ between instances
    (default: host, process and a random part). *grace* is how long `stop` lets running queue
    handlers go on, in seconds. *max_message* bounds every encoded message and cached value, in
    bytes. *metadata* is what the other instances see of this one. *clock* is for tests.

    Used as `async with app:`, by `start` and `stop`, or by `run`. A stopped App may be started
    again, in another event loop too; subscriptions are kept. While it is open, every call must
    come from the loop that started it (else WrongLoop); nothing but subscribing, registering and
    asking works before (else NotOpenError).

    Raises ConfigurationError, InvalidName, InvalidType or InvalidArgument for settings that
    cannot work. Whether the URLs have installed backends is found out by `start`.
    """

    def __init__(
        self,
        name: str,
        *,
        backend: str | None = None,
        cache: str | None = None,
        pub_sub: str | None = None,
        event_queue: str | None = None,
        lock: str | None = None,
        plugins: Iterable[type[Plugin] | Plugin | str] = (),
        worker_mode: str | None = None,
        instance_id: str | None = None,
        grace: float | timedelta = 10.0,
        max_message: int = 64 * 1024 * 1024,
        metadata: Mapping[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = names.checked("name", name)
        self.instance_id = (
            _unique_id() if instance_id is None else names.checked("instance_id", instance_id)
        )
        self._urls = component_urls(
            backend, cache=cache, pub_sub=pub_sub, event_queue=event_queue, lock=lock
        )
        self._mode = WorkerMode.parse(worker_mode)
        what = f"app {self.name!r}"
        self._gate = Gate(what)
        self._lifecycle = AppLifecycle(
            what,
            self._gate,
            self._open,
            self._close_in_order,
            self._close,
            seconds("grace", grace, zero=True),
        )
        # Here, not above: pluggy and importlib.metadata cost more than all the rest of corekit, and
        # a process that only imports corekit needs neither.
        from . import memory
        from .plugins import discover

        self._discovery = discover({"corekit": memory})
        self._adapter_registry = self._discovery.adapters()
        context = ManagerContext(
            app=self.name,
            instance_id=self.instance_id,
            clock=clock,
            serializer=Serializer(
                self._adapter_registry.extensions,
                max_size=whole("max_message", max_message, least=1024),
            ),
            after_commit=AfterCommit(self._discovery.bridges()),
        )
        self._adapter_context = AdapterContext(
            self.name, self.instance_id, clock=clock, max_message=max_message
        )
        self.cache_manager = CacheManager(context, self._store)
        self.pub_sub_manager = PubSubManager(context)
        self.sync_message_manager = SyncMessageManager(self.pub_sub_manager)
        self.event_queue = EventQueue(context, self._mode.consumes)
        self.lock_manager = LockManager(context)
        self._instance_registry = InstanceRegistry(context, self.lock_manager, metadata)
        self._plugins = attached(plugins, self._discovery.plugins(), self)
        #: What to do at stop, last first; filled while starting.
        self._closers: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    @classmethod
    def from_env(cls, name: str, **arguments: Any) -> Self:
        """Return an App set up by environment variables.

        COREKIT_BACKEND, _CACHE, _PUB_SUB, _EVENT_QUEUE, _LOCK and _WORKER_MODE stand for the
        arguments of these names. An argument that is given wins; an empty variable is unset.
        """
        given = {key: value for key, value in arguments.items() if value is not None}
        return cls(name, **{**arguments, **from_environment(), **given})

    def __repr__(self) -> str:
        state = self._lifecycle.state.value
        urls = {str(url) for url in self._urls.values()}
        return f"<App {self.name!r} {self.instance_id} {state} {' '.join(sorted(urls))}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an App belongs to this process and cannot be copied: build one in each")

    def __del__(self) -> None:
        # An __init__ that failed early leaves no gate behind.
        gate = getattr(self, "_gate", None)
        if gate is not None and gate.is_open:
            warnings.warn(
                f"{self!r} was never stopped: use 'async with app' or 'await app.stop()'",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """The plugins by name, in the order in which they were given."""
        return MappingProxyType(self._plugins)

    @property
    def cache(self) -> Cache:
        """The App's default cache; its name is "default"."""
        return self.cache_manager.default

    def serving(self, topic: str | None = None) -> bool:
        """Tell whether this instance serves background *topic*, or requests if it is None.

        By worker mode: unset: everything; `!`: requests only; `*`: every background topic; `a,b`:
        these topics; `!,a` and `*,!`: both; `-`: nothing. Raises InvalidName for an impossible
        topic.
        """
        return self._mode.serves(topic)

    def instances(self) -> Instances:
        """Return the live instances of the application, this one included.

        `await app.instances()` is the list of them; `async for change in app.instances()` tells who
        joins and leaves. An instance that dies disappears after about 15 seconds. Raises
        ConfigurationError, when used, if the backend of the locks cannot keep members.
        """
        return self._instance_registry.instances()

    async def start(self) -> None:
        """Open everything: all `before_load`, connect, all `load`, then the queue consumes.

        On an open App it does nothing; a second call waits for the first. If it fails, or is
        cancelled, what was opened is closed again and the App can be started once more.

        Raises ConfigurationError for a backend that is missing, or lacks a component or guarantee;
        BackendError if it cannot be reached; what a plugin's hook raised; NotOpenError if the App
        is stopped meanwhile (by a hook too), and in a hook, for which it waits.
        """
        await self._lifecycle.start()

    async def stop(self, grace: float | timedelta | None = None) -> None:
        """Close everything, in the reverse order; on a closed App it does nothing.

        The queue drains first, while everything its handlers use is open: running handlers may go
        on for *grace* seconds (None: the App's), then they are cancelled and their messages given
        back. A second call waits for the first; cancelling a call does not end the stopping. Called
        from a queue handler it returns at once, since the stopping waits for that handler.

        Errors of `before_stop` do not keep the rest from being closed; they are raised at the end,
        one as it is, several as an ExceptionGroup.
        """
        allowed = None if grace is None else seconds("grace", grace, zero=True)
        await self._lifecycle.stop(allowed, wait=not inside_handler(self.instance_id))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def run(self) -> None:
        """Start, block until SIGTERM or SIGINT, then drain and stop.

        A second signal has its ordinary effect: the process ends at once. Raises what `start` and
        `stop` raise; WrongLoop outside of the main thread, or inside of an event loop.
        """
        if asyncio._get_running_loop() or threading.current_thread() is not threading.main_thread():
            raise WrongLoop("app.run() is for the main thread without a loop: use 'async with app'")
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        signalled = asyncio.Event()

        def end() -> None:
            signalled.set()
            self._lifecycle.end()

        with first_signal(end):
            try:
                async with self:
                    await self._lifecycle.ending()
            except NotOpenError:
                # Stopped by a signal before it had started.
                if not signalled.is_set():
                    raise

    def _store(self, url: str) -> CacheAdapter:
        """Build the adapter of a cache store beside the App's own."""
        adapter: CacheAdapter = self._adapter("cache", BackendURL.parse(url, parameter="url"))
        return adapter

    def _adapter(self, component: str, url: BackendURL | None = None) -> Any:
        from .plugins import build_adapter

        return build_adapter(
            self._discovery,
            self._adapter_registry,
            component,
            url or self._urls[component],
            self._adapter_context,
        )

    async def _open(self) -> None:
        # All adapters are built before anything is opened: a missing one is told at once.
        adapters = {component: self._adapter(component) for component in COMPONENTS}
        for plugin in self._plugins.values():
            if listens(plugin):
                await self.sync_message_manager.subscribe_plugin(plugin)
            await plugin.before_load()
        for component, manager in (
            ("pub_sub", self.pub_sub_manager),
            ("cache", self.cache_manager),
            ("lock", self.lock_manager),
            ("event_queue", self.event_queue),
        ):
            try:
                await manager.open(adapters[component])
            except Exception as error:
                error.add_note(
                    f"while the App {self.name!r} opened {component}: {self._urls[component]}"
                )
                raise
            self._closers.append((component, manager.close))
        await self._instance_registry.open()
        self._closers.append(("instances", self._instance_registry.close))
        for plugin in self._plugins.values():
            await plugin.load()
            self._closers.append((f"plugin {plugin.name}", plugin.before_stop))
        await self.event_queue.start_consuming()
        logger.info("app %s: started as %s", self.name, self.instance_id)

    async def _close(self, grace: float) -> None:
        self._closers.append(("draining", partial(self.event_queue.drain, grace)))
        failures = await self._close_in_order()
        logger.info("app %s: stopped", self.name)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup(f"stopping app {self.name!r}", failures)

    async def _close_in_order(self) -> list[Exception]:
        """Undo what `_open` has done, whatever fails; return what failed."""
        failures: list[Exception] = []
        last: BaseException | None = None
        while self._closers:
            what, close = self._closers.pop()
            try:
                await close()
            except Exception as error:
                logger.exception("app %s: %s failed to stop", self.name, what)
                failures.append(error)
            except BaseException as error:  # noqa: BLE001 - raised when the rest is closed
                # The loop is being torn down, or the process is to end: close as far as it goes.
                last = error
        if last is not None:
            raise last
        return failures


def _unique_id() -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64] or "host"
    return f"{host}-{os.getpid()}-{os.urandom(4).hex()}"
