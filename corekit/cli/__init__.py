"""The command line: `corekit doctor`, `corekit demo`, and what installed plugins add."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the entry point of the script `corekit`."""
    try:
        from .commands import corekit
    except ImportError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit(f"corekit's command line needs {error.name}: pip install 'corekit[cli]'")
    corekit(prog_name="corekit")
