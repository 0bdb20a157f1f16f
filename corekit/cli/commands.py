"""The group of commands, filled by this distribution and by plugins."""

from __future__ import annotations

import logging

import click

from .. import memory
from ..plugins import discover
from .demo import demo
from .doctor import doctor


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="corekit")
@click.option("-v", "--verbose", is_flag=True, help="Show log lines of level INFO and above.")
def corekit(*, verbose: bool) -> None:
    """Cache, pub/sub, event queue and locks for applications that run as several instances."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


corekit.add_command(doctor)
corekit.add_command(demo)
discover({"corekit": memory}).add_commands(corekit)
