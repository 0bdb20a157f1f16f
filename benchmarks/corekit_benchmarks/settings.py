"""What a user can choose about the workloads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of all workloads; each uses those that mean something to it."""

    duration: float = 2.0
    """Seconds for which load is put on in each repetition."""

    payload: int = 256
    """Bytes of each message and cached value."""

    in_flight: int = 64
    """Calls under way at a time in each client process, and handlers at a time in a consumer."""

    processes: int = 1
    """Client processes on each side, where the subject can be reached from several."""

    subscribers: int = 4
    """Subscriber processes of the fan-out."""

    contenders: int = 8
    """How many want the contended lock, spread over two processes at least."""

    keys: int = 1000
    """Different keys in the mixed and the churning workloads."""

    read_share: float = 0.9
    """The share of reads in the mixed workload."""

    callers: int = 100
    """How many ask for the missing value of a stampede at once."""

    depth: int = 10_000
    """Messages that wait in the queue while its throughput at depth is measured."""

    rate: int = 2_000
    """Messages a second of the workloads "under load"."""

    patience: float = 60.0
    """Seconds after which a step that has not come to its end counts as failed."""
