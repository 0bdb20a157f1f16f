"""`corekit broker`, for the command line of corekit. Imported only by the hook that adds it."""

from __future__ import annotations

import sys

import click

from .main import run


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Run the ZeroMQ broker, make its keys, or ask for its status.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def broker(arguments: tuple[str, ...]) -> None:
    """Run the ZeroMQ broker; its own options are those of `python -m corekit_zeromq`."""
    sys.exit(run(arguments, "corekit broker"))
