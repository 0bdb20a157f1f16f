"""What a user can choose about the workloads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

Number = TypeVar("Number", int, float)


def _chosen(default: Number, explanation: str) -> Number:
    value: Number = field(default=default, metadata={"help": explanation})
    return value


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of all workloads; each uses those that mean something to it.

    Every field is an option of the command line, its explanation being the help.
    """

    duration: float = _chosen(2.0, "Seconds of load in each repetition.")
    payload: int = _chosen(256, "Bytes of each message and cached value.")
    in_flight: int = _chosen(64, "Calls under way at a time in a client, handlers in a consumer.")
    processes: int = _chosen(1, "Client processes on each side, where several can take part.")
    subscribers: int = _chosen(4, "Subscribers of the fan-out, in ten processes at most.")
    channels: int = _chosen(1, "Channels that are published to in turn.")
    contenders: int = _chosen(8, "How many want the contended lock, from two processes or more.")
    keys: int = _chosen(1000, "Different keys in the mixed and the churning workloads.")
    read_share: float = _chosen(0.9, "The share of reads in the mixed workload.")
    callers: int = _chosen(100, "How many ask for the missing value of a stampede at once.")
    depth: int = _chosen(10_000, "Messages that wait while the throughput at depth is measured.")
    rate: int = _chosen(2_000, "Messages a second of the workloads under load.")
    patience: float = _chosen(60.0, "Seconds of silence after which a step has failed.")
    limit: float = _chosen(300.0, "Seconds after which a repetition has failed.")
