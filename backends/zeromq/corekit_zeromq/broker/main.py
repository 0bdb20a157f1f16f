"""The command line of the broker: `python -m corekit_zeromq`, and `corekit broker` behind it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from typing import NoReturn

from . import exits
from .exits import BrokerRefused
from .server import Broker

logger = logging.getLogger("corekit.broker")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(exits.USAGE, f"{self.prog}: {message}\n")


def _parser(program: str) -> _Parser:
    parser = _Parser(prog=program, description="The corekit broker.", allow_abbrev=False)
    parser.add_argument("--listen", action="append", metavar="URL", required=True)
    parser.add_argument("--data", metavar="DIR", required=True)
    parser.add_argument("--durability", choices=("full", "relaxed"), default="full")
    parser.add_argument("--idle", type=float, metavar="SECONDS")
    parser.add_argument("--strict", action="store_true")
    return parser


def run(arguments: Sequence[str], program: str = "corekit broker") -> int:
    """Do what *arguments* say, and return the exit code."""
    options = _parser(program).parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        return asyncio.run(_serve(options))
    except BrokerRefused as error:
        logger.critical("%s", error)
        return error.status


async def _serve(options: argparse.Namespace) -> int:
    broker = Broker(
        options.listen,
        options.data,
        durable=options.durability == "full",
        idle=options.idle,
        strict=options.strict,
        version=own_version(),
    )
    loop = asyncio.get_running_loop()
    await broker.start()

    def stop() -> None:
        if not broker.stopped.done():
            broker.stopped.set_result(os.EX_OK)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    status = await broker.stopped
    await broker.close()
    return status


def own_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return distribution_version("corekit-zeromq")
    except PackageNotFoundError:
        return "0"
