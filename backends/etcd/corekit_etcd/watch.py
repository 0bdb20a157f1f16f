"""Watches: one stream for all of them, resumed where it broke off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from corekit.errors import AuthenticationFailed, BackendRefused

from .client import Client
from .driver import Endpoint, WatchCancelRequest, WatchCreateRequest, WatchRequest
from .stream import Stream


class Watch:
    """Tells that something happened to a range of keys. A context manager: it ends with the block.

    `began` is set when it sees what happens from now on. `happened` is set by the first event that
    *wakes*, and both when the history that was to be watched is gone (compacted) or watching was
    refused. For another event, clear it.
    """

    def __init__(
        self,
        watches: Watches,
        number: int,
        start: bytes,
        end: bytes,
        revision: int,
        wakes: Callable[[Any], bool] | None,
    ) -> None:
        self._watches = watches
        self.number = number
        self._start = start
        self._end = end
        self._wakes = wakes
        #: The first revision that has not been seen yet; 0 until it is known.
        self.revision = revision
        self.began = asyncio.Event()
        self.happened = asyncio.Event()
        #: Whether it was refused once, with a token that was perhaps too old.
        self.refused = False
        #: Why the cluster refuses to be watched, if it does.
        self.refusal: BackendRefused | None = None

    def __repr__(self) -> str:
        state = "happened" if self.happened.is_set() else "waits"
        return f"<Watch {self._start!r} from {self.revision} {state}>"

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._watches.end(self.number)

    def request(self) -> WatchRequest:
        """Return what begins this watch on a new stream."""
        create = WatchCreateRequest(
            key=self._start,
            range_end=self._end,
            start_revision=self.revision,
            watch_id=self.number,
        )
        return WatchRequest(create_request=create)

    def end(self) -> None:
        """Let nobody wait any longer."""
        self.began.set()
        self.happened.set()

    def take(self, response: Any) -> None:
        """Take what the server says about this watch."""
        self.refused = False
        if response.created:
            self.revision = self.revision or response.header.revision + 1
            self.began.set()
        for event in response.events:
            self.revision = event.kv.mod_revision + 1
            if self._wakes is None or self._wakes(event):
                self.happened.set()


class Watches:
    """All watches of one adapter."""

    def __init__(self, client: Client) -> None:
        self._numbers = count(1)
        self._client = client
        self._watches: dict[int, Watch] = {}
        #: The watches that the server was asked for and has not answered.
        self._asked: deque[int] = deque()
        self._stream = Stream(client, "watch", _method, self)

    def __repr__(self) -> str:
        return f"<Watches {len(self._watches)} {self._stream!r}>"

    def watch(
        self,
        start: bytes,
        end: bytes = b"",
        *,
        revision: int = 0,
        wakes: Callable[[Any], bool] | None = None,
    ) -> Watch:
        """Watch a range; *wakes* is given each event, and says if it counts.

        From *revision* on if it is given. etcd serves those that begin in the past only each 0.1 s,
        until they have caught up: without it nobody waits for that.
        """
        number = next(self._numbers)
        watch = self._watches[number] = Watch(self, number, start, end, revision, wakes)
        self._begin(watch)
        return watch

    def _begin(self, watch: Watch) -> None:
        if self._stream.is_open:
            self._asked.append(watch.number)
        self._stream.send(watch.request())

    def end(self, number: int) -> None:
        """Watch no longer."""
        if self._watches.pop(number, None) is not None:
            self._stream.send(WatchRequest(cancel_request=WatchCancelRequest(watch_id=number)))

    async def close(self) -> None:
        """End all watches, without waking anybody."""
        self._watches.clear()
        await self._stream.close()

    def opened(self) -> None:
        self._asked.clear()
        for watch in self._watches.values():
            self._begin(watch)

    def received(self, response: Any) -> None:
        # A refusal does not say what was refused, in some versions; but all come in order.
        number = self._asked.popleft() if response.created else response.watch_id
        watch = self._watches.get(number)
        if watch is None:
            return
        if not response.canceled:
            watch.take(response)
        elif response.created and not watch.refused and self._client.settings.username is not None:
            # This is what is said, too, when the token of the stream has expired.
            watch.refused = True
            self._stream.renew_login()
        else:
            del self._watches[number]
            if not response.compact_revision:
                watch.refusal = AuthenticationFailed(
                    f"{self._client.settings.text}: watching was refused: {response.cancel_reason}"
                )
            watch.end()

    def refused(self, error: BackendRefused) -> None:
        for watch in self._watches.values():
            watch.refusal = error
            watch.end()
        self._watches.clear()


def _method(endpoint: Endpoint) -> Any:
    return endpoint.watch
