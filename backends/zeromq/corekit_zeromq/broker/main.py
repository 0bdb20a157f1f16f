"""The command line of the broker: `python -m corekit_zeromq`, and `corekit broker` behind it."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any, NoReturn

from corekit.arguments import shown
from corekit.errors import CorekitError

from . import exits, security
from .exits import BrokerRefused
from .limits import Limits
from .query import ask_status
from .server import Broker

logger = logging.getLogger("corekit.broker")

_EXAMPLE = """\
examples:
  %(prog)s --listen tcp://127.0.0.1:7650 --data /var/lib/shop/broker
  %(prog)s keygen /etc/shop --name broker
  %(prog)s status zmq://127.0.0.1:7650
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(exits.USAGE, f"{self.prog}: {message}\n")


class _Once(argparse.Action):
    """An option that may stand there once: a second one would silently win."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = namespace.__dict__.setdefault("_given", set())
        if self.dest in given:
            parser.error(f"{option_string} stands there twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e10:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, not {text}")
    return value


def _limit(text: str) -> tuple[str, int | float]:
    kinds = {field.name: field.type for field in fields(Limits)}
    name, equals, value = text.partition("=")
    name = name.replace("-", "_")
    if not equals or name not in kinds:
        raise argparse.ArgumentTypeError(
            f"must be name=number, not {shown(text)}; names: {', '.join(kinds)}"
        )
    try:
        number = int(value) if kinds[name] == "int" else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{name}: {shown(value)} is not a number") from None
    if not 0 < number < 1 << 62:
        raise argparse.ArgumentTypeError(f"{name} must be above 0, not {value}")
    return name, number


def _serve_parser(program: str) -> _Parser:
    parser = _Parser(
        prog=program,
        description="Run the corekit broker.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--listen", action="append", metavar="URL", required=True,
        help="tcp://host:port or ipc:///path; may be repeated")  # fmt: skip
    add("--data", action=_Once, type=_path, metavar="DIR", required=True,
        help="the directory of the journal")  # fmt: skip
    add("--durability", action=_Once, choices=("full", "relaxed"), default="full",
        help="full: confirmed is on disk; relaxed: the last moments before a power cut may be "
        "lost")  # fmt: skip
    add("--keys", action=_Once, type=_path, metavar="FILE",
        help="the broker's CURVE keys, as keygen writes them")  # fmt: skip
    add("--allow", action=_Once, type=_path, metavar="FILE",
        help="public keys of the clients, one a line, with a name; SIGHUP reads it again"
        )  # fmt: skip
    add("--insecure", action="store_true",
        help="listen on any address without keys")  # fmt: skip
    add("--idle", action=_Once, type=_seconds, metavar="SECONDS",
        help="stop after so long without a client")  # fmt: skip
    add("--strict", action="store_true",
        help="refuse a journal that is older than what was confirmed")  # fmt: skip
    add("--limit", action="append", type=_limit, metavar="NAME=NUMBER", default=[],
        help="change a limit, such as max_message=1048576; may be repeated")  # fmt: skip
    add("--verbose", action="store_true", help="log more")
    add("--version", action="version", version=own_version())
    return parser


def run(arguments: Sequence[str], program: str = "corekit broker") -> int:
    """Do what *arguments* say, and return the exit code, one of `sysexits.h`."""
    try:
        if arguments and arguments[0] == "keygen":
            return _keygen(arguments[1:], f"{program} keygen")
        if arguments and arguments[0] == "status":
            return _status(arguments[1:], f"{program} status")
        return _serve(arguments, program)
    except BrokerRefused as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return error.status
    except KeyboardInterrupt:
        return 130


def _keygen(arguments: Sequence[str], program: str) -> int:
    parser = _Parser(prog=program, description="Make a pair of CURVE keys.", allow_abbrev=False)
    parser.add_argument("directory", type=_path, help="where the files go")
    parser.add_argument("--name", default="broker", help="NAME.key (secret) and NAME.pub (public)")
    options = parser.parse_args(arguments)
    if not options.name or "/" in options.name or options.name.startswith("."):
        parser.error(f"--name must be a file's name, not {shown(options.name)}")
    secret_file, public_file, public = security.generate(options.directory, options.name)
    for line in (f"{secret_file}  (secret)", f"{public_file}", "", "for the list of --allow:",
                 f"{public} {options.name}"):  # fmt: skip
        print(line)  # noqa: T201 - a command line
    return os.EX_OK


def _status(arguments: Sequence[str], program: str) -> int:
    parser = _Parser(prog=program, description="Show a broker's state.", allow_abbrev=False)
    parser.add_argument("url", help="as an App names it: zmq://..., zmq+ipc://..., zmq+local://...")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS")
    options = parser.parse_args(arguments)
    try:
        state = ask_status(options.url, options.timeout)
    except CorekitError as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return exits.UNAVAILABLE
    text = json.dumps(state, ensure_ascii=False) if options.json else "\n".join(_lines(state))
    print(text)  # noqa: T201 - a command line
    return os.EX_OK


def _lines(state: dict[str, Any], indent: str = "") -> list[str]:
    """Return *state* for people: one fact a line, one line for each queue and client."""
    lines = []
    for key, value in state.items():
        if isinstance(value, dict) and any(isinstance(one, dict) for one in value.values()):
            lines.append(f"{indent}{key}:")
            lines += [f"{indent}  {name!r}: {_facts(one)}" for name, one in value.items()]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}: {len(value)}")
            lines += [f"{indent}  {_facts(one)}" for one in value]
        else:
            lines.append(f"{indent}{key}: {_facts(value)}")
    return lines


def _facts(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={_facts(one)}" for key, one in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _serve(arguments: Sequence[str], program: str) -> int:
    options = _serve_parser(program).parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # A log that cannot be written is no reason to end.
    logging.raiseExceptions = False
    if os.geteuid() == 0:
        logger.warning("running as root: a user of its own would do")
    _raise_file_limit()
    try:
        return asyncio.run(_run(options))
    except BrokerRefused as error:
        logger.critical("%s", error)
        return error.status


async def _run(options: argparse.Namespace) -> int:
    broker = Broker(
        options.listen,
        options.data,
        key_file=options.keys,
        allow_file=options.allow,
        insecure=options.insecure,
        durable=options.durability == "full",
        strict=options.strict,
        idle=options.idle,
        limits=Limits(**dict(options.limit)),
        version=own_version(),
    )
    loop = asyncio.get_running_loop()
    # A file larger than `ulimit -f` shall be an error, as a full disk is, not the end.
    for ignored in (signal.SIGXFSZ, signal.SIGUSR1, signal.SIGTTOU):
        signal.signal(ignored, signal.SIG_IGN)
    await broker.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, broker.stop)
    loop.add_signal_handler(signal.SIGHUP, broker.reload)
    status = await broker.stopped
    await broker.close()
    return status


def _raise_file_limit() -> None:
    """Let as many clients connect as the system allows this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < 1024:
        logger.warning("the limit of %d open files allows about %d clients", wanted, wanted - 40)


def own_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return distribution_version("corekit-zeromq")
    except PackageNotFoundError:
        return "0"
