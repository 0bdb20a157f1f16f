"""Modules of the backends' own tests, which are no packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load(path: str) -> ModuleType:
    """Return the module at *path*, which begins at the project's directory."""
    file = Path(__file__).parents[2] / path
    spec = importlib.util.spec_from_file_location(f"faults_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
