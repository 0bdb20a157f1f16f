"""The hook by which `corekit bench` is added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corekit.plugins import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def corekit_register_commands(group: click.Group) -> None:
    """Add `corekit bench`."""
    from .command import bench

    group.add_command(bench)
