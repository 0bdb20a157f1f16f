"""`python -m corekit_zeromq`: the broker."""

from __future__ import annotations

import sys

from .broker.main import run

sys.exit(run(sys.argv[1:], "python -m corekit_zeromq"))
