"""The memory adapter of event queues: the suite, and what only it can be asked."""

from __future__ import annotations

from corekit.config import BackendURL
from corekit.memory.event_queue import memory_event_queue
from corekit.testing.contexts import make_context
from corekit.testing.event_queue import EventQueueSuite


class TestMemoryEventQueue(EventQueueSuite):
    virtual = True

    def make_adapter(self):
        return memory_event_queue(
            BackendURL.parse("memory://suite"), make_context(clock=self.clock)
        )

    async def kill(self, adapter):
        with adapter.queues.lock:
            adapter.end(died=True)
