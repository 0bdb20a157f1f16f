"""The broker: `Broker` to embed it, `python -m corekit_zeromq` to run it."""

from __future__ import annotations

from .exits import BrokerRefused
from .limits import Limits
from .server import Broker

__all__ = ["Broker", "BrokerRefused", "Limits"]
