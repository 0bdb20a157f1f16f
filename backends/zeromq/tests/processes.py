"""Processes of the broker and of its clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from corekit.testing import free_port

#: The broker with limits that the command line does not offer.
_EMBEDDED = """
import asyncio, json, sys
from pathlib import Path
from corekit_zeromq.broker import Broker, Limits

async def main(listen, data, options, limits):
    options = {name: Path(value) for name, value in json.loads(options).items()}
    async with Broker([listen], data, limits=Limits(**json.loads(limits)), **options) as it:
        await it.stopped

asyncio.run(main(*sys.argv[1:]))
"""


class BrokerProcess:
    """A broker on a loopback port, which keeps its port and data over restarts.

    *limits* are fields of `corekit_zeromq.broker.Limits`, *files* those of the keys. `options` are
    what its clients' URLs need, each with its separator.
    """

    def __init__(
        self, data: Path, *, files: Mapping[str, Path] | None = None, **limits: float
    ) -> None:
        self.port = free_port()
        self.data = data
        self.options = ""
        self.log = data.with_suffix(".log")
        self._files = json.dumps({name: str(path) for name, path in (files or {}).items()})
        self._limits = json.dumps(limits)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_at(f"127.0.0.1:{self.port}")

    def url_at(self, address: str, **options: float) -> str:
        """Return the URL that leads to it by way of *address*."""
        further = "".join(f"&{name}={value}" for name, value in options.items())
        return f"zmq://{address}?{self.options}{further}".replace("?&", "?").rstrip("?")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it listens."""
        command = [sys.executable, "-c", _EMBEDDED, f"tcp://127.0.0.1:{self.port}"]
        command += [str(self.data), self._files, self._limits]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no broker: {self.log.read_text()}") from None
                time.sleep(0.01)
            else:
                return

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the process as a power cut would, and wait until it has gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again, on the same data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop the process where it stands; `resume` lets it go on."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self.signal(signal.SIGCONT)


def run_client(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start another client: a process that runs *code* with *arguments*."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
