"""Adapters that are closed while the broker does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from corekit_zeromq.client import _connections
from corekit_zeromq.event_queue import EventQueue
from corekit_zeromq.lock import Lock
from corekit_zeromq.protocol import Op
from corekit_zeromq.pub_sub import PubSub

from corekit.config import BackendURL
from corekit.testing import eventually
from corekit.testing.contexts import make_context

from .fake_broker import FakeBroker


@pytest.mark.parametrize("kind", [PubSub, EventQueue, Lock])
async def test_a_cancelled_close_leaves_nothing(kind: Any) -> None:
    """The connection goes with the adapter, whatever was still waited for."""
    before = asyncio.all_tasks()
    async with FakeBroker() as fake:
        adapter = kind(BackendURL.parse(fake.url), make_context())
        await adapter.open(*([None] if kind is PubSub else []))
        fake.confirming = False
        if kind is PubSub:
            await adapter.publish("c", b"x")
        elif kind is EventQueue:
            adapter.consume("c", None)
        else:
            adapter._hold(b"owner", "n", 30.0)
        closing = asyncio.create_task(adapter.close())
        said = {PubSub: Op.PUBLISH, EventQueue: Op.CANCEL, Lock: Op.LOCK_RELEASE}
        await fake.heard(said[kind])
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not _connections
    await eventually(lambda: asyncio.all_tasks() <= before)
