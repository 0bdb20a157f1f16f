"""Tests that need what may not be installed."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the running test, or what asks for the running fixture, for *reason*.

    Where the environment variable CI is set it fails: there everything has to be installed.
    """
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
