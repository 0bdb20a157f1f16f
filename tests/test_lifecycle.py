"""The gate: open, on this loop, in this process; else the error says why not."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from corekit.errors import ForkedProcess, NotOpenError, WrongLoop
from corekit.lifecycle import Gate


class TestGate:
    """A call passes while the component is open, from the loop that opened it."""

    async def test_not_opened_yet(self):
        """Before it is opened, the error says how to start."""
        gate = Gate("app 'shop'")
        with pytest.raises(NotOpenError, match=r"^app 'shop' is not started: use 'async with app'"):
            gate.check()
        assert not gate.is_open
        assert repr(gate) == "<Gate \"app 'shop'\" closed>"

    async def test_open(self):
        """While it is open, calls from its loop pass."""
        gate = Gate("app")
        gate.open()
        gate.check()
        assert gate.is_open
        assert repr(gate) == "<Gate 'app' open>"

    async def test_closed(self):
        """After it was closed, the error gives the reason that closing gave."""
        gate = Gate("app")
        gate.open()
        gate.close()
        with pytest.raises(NotOpenError, match=r"^app is stopped$") as caught:
            gate.check()
        assert not isinstance(caught.value, WrongLoop | ForkedProcess)
        gate.close("is being closed")
        with pytest.raises(NotOpenError, match=r"^app is being closed$"):
            gate.check()

    def test_never_open_without_a_loop(self):
        """Without a running loop a closed gate is closed, not on the wrong loop."""
        with pytest.raises(NotOpenError) as caught:
            Gate("app").check()
        assert type(caught.value) is NotOpenError
        with pytest.raises(RuntimeError, match="no running event loop"):
            Gate("app").open()

    async def test_other_loop(self):
        """A call from a loop in another thread is refused, with what to use instead."""
        gate = Gate("app")
        gate.open()
        errors: list[NotOpenError] = []

        async def call() -> None:
            errors.append(gate.refusal())
            with pytest.raises(WrongLoop, match="run_coroutine_threadsafe"):
                gate.check()

        thread = threading.Thread(target=asyncio.run, args=(call(),))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert type(errors[0]) is WrongLoop
        gate.check()

    def test_no_loop(self):
        """A call from no loop at all, or from the next one, is refused."""
        gate = Gate("app")

        async def start() -> None:
            gate.open()

        async def call() -> None:
            gate.check()

        asyncio.run(start())
        with pytest.raises(WrongLoop):
            gate.check()
        with pytest.raises(WrongLoop):
            asyncio.run(call())

    def test_the_loop_moves(self):
        """Where a loop goes on in another thread, calls from it pass there, and no others."""
        gate = Gate("app")
        loop = asyncio.new_event_loop()

        async def start() -> None:
            gate.open()

        async def call() -> None:
            gate.check()

        loop.run_until_complete(start())
        thread = threading.Thread(target=loop.run_until_complete, args=(call(),))
        thread.start()
        thread.join()
        loop.run_until_complete(call())
        loop.close()
        with pytest.raises(WrongLoop):
            asyncio.run(call())

    def test_reopened_in_another_loop(self):
        """It can be opened again in another loop, from which calls then pass."""
        gate = Gate("app")

        async def use() -> None:
            gate.open()
            gate.check()
            gate.close()

        asyncio.run(use())
        asyncio.run(use())
        with pytest.raises(NotOpenError, match="stopped"):
            gate.check()

    async def test_forked_child(self):
        """In a forked child every call is refused, in the old loop and in a new one."""
        gate = Gate("app")
        gate.open()
        parent = os.getpid()
        in_child = _forked(lambda: _refusals(gate))
        assert in_child == f"ForkedProcess {parent}, ForkedProcess {parent}"
        gate.check()

    def test_forked_before_it_is_opened(self):
        """A gate that a child opens itself is the child's."""
        gate = Gate("app")

        async def use() -> None:
            gate.open()
            gate.check()

        def child() -> str:
            asyncio.run(use())
            return "passed"

        assert _forked(child) == "passed"


def _refusals(gate: Gate) -> str:
    """Return how *gate* refuses a call at once, and one in a loop of its own."""

    def refusal() -> str:
        try:
            gate.check()
        except NotOpenError as error:
            pid = str(error).partition("in process ")[2].partition(",")[0]
            return f"{type(error).__name__} {pid}"
        return "passed"

    async def call() -> str:
        return refusal()

    # As a child does that starts anew: the parent's loop does not run in it.
    return f"{refusal()}, {asyncio.run(call())}"


def _forked(function) -> str:
    """Return what *function* returns, or raises, in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = function()
        except BaseException as error:
            result = repr(error)
        os.write(writer, result.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return result
