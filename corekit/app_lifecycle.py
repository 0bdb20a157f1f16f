"""Starting and stopping, each once at a time, for however many callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any

from .errors import NotOpenError, WrongLoop
from .lifecycle import Gate


class State(Enum):
    """Where an App is between its start and its stop."""

    STOPPED = "closed"
    STARTING = "starting"
    STARTED = "open"
    STOPPING = "stopping"


class AppLifecycle:
    """The state of an App, and the task that changes it.

    ========  ===========================  ==========================  ===========================
    state     `start`                      `stop`                      then
    ========  ===========================  ==========================  ===========================
    STOPPED   begins to start, and waits   does nothing
    STARTING  waits for it                 cancels it, waits, and      STARTED; STOPPED if it
                                           stops what has started      failed or was cancelled,
                                                                       and all was undone
    STARTED   does nothing                 begins to stop, and waits
    STOPPING  waits, then starts again     waits for it                STOPPED, whatever failed
    ========  ===========================  ==========================  ===========================

    One task at most runs at a time. A start ends with the last caller who waits for it; nobody's
    cancellation ends a stop, or the *undoing* of what a failed *opening* did. The gate is open
    exactly from the end of *opening* to the end of *closing*, which is given the time of grace.
    """

    _task: asyncio.Task[None]
    """What leads out of STARTING or STOPPING; outdated in the other states."""

    def __init__(
        self,
        what: str,
        gate: Gate,
        opening: Callable[[], Awaitable[None]],
        undoing: Callable[[], Awaitable[object]],
        closing: Callable[[float], Awaitable[None]],
        grace: float,
    ) -> None:
        self.state = State.STOPPED
        self._what = what
        self._gate = gate
        self._opening = opening
        self._undoing = undoing
        self._has_failed = False
        self._closing = closing
        self._grace = grace
        #: How many calls have asked for the newest start, and were not cancelled.
        self._starters = 0
        self._ending = asyncio.Event()

    def __repr__(self) -> str:
        return f"<AppLifecycle {self._what} {self.state.value}>"

    async def start(self) -> None:
        """Start, or wait until another call has.

        Raises what *opening* raises; NotOpenError if it was stopped meanwhile, and in the
        transition's own task, which cannot wait for its own end.
        """
        if self._is_in_transition():
            raise NotOpenError(f"{self._what} is {self.state.value}, and this is a part of that")
        while self.state is State.STOPPING:
            await asyncio.wait({self._task})
        if self.state is State.STARTED:
            self._gate.check()
            return
        if self.state is State.STOPPED:
            self._ending = asyncio.Event()
            self._starters = 0
            self._has_failed = False
            self._begin(State.STARTING, self._start())
        starting = self._task
        self._starters += 1
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled():
                raise NotOpenError(f"{self._what} was stopped while it started") from None
            if starting is self._task:
                self._starters -= 1
                # Even if it is just done.
                if not self._starters:
                    await self.stop()
            raise

    async def stop(self, grace: float | None = None, *, wait: bool = True) -> None:
        """Stop; without *wait* return when that has begun, as in the task that stops.

        Raises what *closing* raises; CancelledError in the task that starts, which it cancels.
        """
        inside = self._is_in_transition()
        if self.state is State.STARTING:
            self._abandon()
            if inside:
                # Raised here: if nothing more is awaited, all would be open when the task ends.
                await asyncio.sleep(0)
                return
            await asyncio.wait({self._task})
        if self.state is State.STARTED:
            self._gate.check()
            allowed = self._grace if grace is None else grace
            self._begin(State.STOPPING, self._stop(allowed))
        if self.state is State.STOPPING and wait and not inside:
            await asyncio.shield(self._task)

    def end(self) -> None:
        """Let `ending` return, and a start that runs be cancelled."""
        self._ending.set()
        if self.state is State.STARTING:
            self._abandon()

    async def ending(self) -> None:
        """Wait until a stop has begun, or is asked for by `end`."""
        await self._ending.wait()

    def _is_in_transition(self) -> bool:
        """Tell whether the running task is the transition's; raises WrongLoop in another loop."""
        if self.state not in {State.STARTING, State.STOPPING}:
            return False
        if self._task.get_loop() is not asyncio.get_running_loop():
            raise WrongLoop(f"{self._what} is {self.state.value} in another event loop")
        return asyncio.current_task() is self._task

    def _begin(self, state: State, transition: Coroutine[Any, Any, None]) -> None:
        before, self.state = self.state, state
        # Not by the loop's own way, which may take the first step before `_task` is known.
        self._task = task = asyncio.Task(
            transition, loop=asyncio.get_running_loop(), name=f"{self._what}: {state.value}"
        )

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                # Looked at, also if everybody who waited for it was cancelled.
                task.exception()
            # One that was cancelled before its first step has changed nothing.
            if self.state is state and self._task is task:
                self.state = before

        task.add_done_callback(ended)

    def _abandon(self) -> None:
        """Cancel the start, unless it has failed already and only its undoing is left."""
        if not self._has_failed:
            self._task.cancel()

    async def _start(self) -> None:
        try:
            await self._opening()
        except BaseException:
            self._has_failed = True
            try:
                await self._undoing()
            finally:
                self.state = State.STOPPED
            raise
        self._gate.open()
        self.state = State.STARTED

    async def _stop(self, grace: float) -> None:
        self._ending.set()
        try:
            await self._closing(grace)
        finally:
            self._gate.close()
            self.state = State.STOPPED
