"""The proxy of bare pyzmq, as a program: publishers at a port, subscribers at the next one."""

from __future__ import annotations

import sys

import zmq


def main(port: int) -> None:
    """Pass messages on until the process is ended."""
    context = zmq.Context()
    publishers, subscribers = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for socket in (publishers, subscribers):
        socket.set_hwm(0)
    subscribers.bind(f"tcp://127.0.0.1:{port + 1}")
    publishers.bind(f"tcp://127.0.0.1:{port}")
    zmq.proxy(publishers, subscribers)


if __name__ == "__main__":
    main(int(sys.argv[1]))
