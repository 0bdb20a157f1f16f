"""A cluster of etcd whose servers can be cut off from each other."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

#: In the first request on each connection between two servers: who made the connection.
_FROM = re.compile(rb"\r\nX-Server-From: ([0-9a-f]+)\r\n", re.IGNORECASE)


def status(node: Any) -> dict[str, Any]:
    """Return what *node* says of itself."""
    url = f"http://{node.address}/v3/maintenance/status"
    with urllib.request.urlopen(url, data=b"{}", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


class Cluster:
    """Servers of etcd whose peers reach each other through this process.

    Which of two servers made a connection is told by its first request: a server that is apart
    neither hears the others nor is heard, while its clients still reach it.
    """

    def __init__(self, etcd: Any) -> None:
        self.etcd = etcd
        self._apart: set[str] = set()
        self._ids: dict[str, str] = {}
        self._stack = AsyncExitStack()
        #: By the task that serves each: the name of who was called, and the id of who called.
        self._connections: dict[asyncio.Task[None], set[str]] = {}

    async def __aenter__(self) -> Self:
        for node in self.etcd.nodes:
            server = await asyncio.start_server(self._accepting(node), "127.0.0.1", 0)
            self._stack.callback(server.close)
            node.advertised = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.to_thread(self.etcd.start)
        for node in self.etcd.nodes:
            found = await asyncio.to_thread(status, node)
            self._ids[node.name] = f"{int(found['header']['member_id']):x}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end(list(self._connections))
        await self._stack.aclose()

    async def leader(self) -> Any:
        """Return the server that leads."""
        async with asyncio.timeout(20):
            while True:
                for node in self.etcd.nodes:
                    found = await asyncio.to_thread(status, node)
                    if found.get("leader") == found["header"]["member_id"]:
                        return node
                await asyncio.sleep(0.1)

    def isolate(self, node: Any) -> None:
        """Let nothing pass between *node* and the others, as a dead network does."""
        self._apart |= {node.name, self._ids[node.name]}

    async def join(self, node: Any) -> None:
        """Let *node* and the others meet again, over new connections."""
        names = {node.name, self._ids[node.name]}
        self._apart -= names
        await self._end([task for task, ends in self._connections.items() if names & ends])

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accepting(self, node: Any) -> Any:
        port = int(node.peer.rpartition(":")[2])

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            ends = self._connections[task] = {node.name}
            try:
                await self._serve(ends, port, reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                # Cancelled by nobody but this cluster.
                pass
            finally:
                del self._connections[task]
                writer.transport.abort()

        return accept

    async def _serve(
        self,
        ends: set[str],
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if found := _FROM.search(head):
            ends.add(found[1].decode())
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if not self._apart & ends:
                far_writer.write(head)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(ends, reader, far_writer))
                tasks.create_task(self._pump(ends, far_reader, writer))
        except* OSError:
            pass
        finally:
            far_writer.transport.abort()

    async def _pump(
        self, ends: set[str], source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(65536):
            if not self._apart & ends:
                sink.write(data)
                await sink.drain()
        raise ConnectionError("one side has ended")
