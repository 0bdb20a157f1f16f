"""How much of everything the broker takes: each bound, in one place."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """The broker's bounds. Sizes are bytes, durations seconds."""

    max_message: int = 64 * MIB
    """The largest payload or cache value."""

    elements: int = 262_144
    """Values in one frame: few bytes must not cost much memory and time."""

    name_length: int = 8 * KIB
    """The longest full name, in characters: three escaped parts of 512 bytes fit."""

    text_length: int = 2 * KIB
    """Where the error text of a dead letter is cut, in characters."""

    heartbeat: float = 1.0
    """A frame is sent to each connected session at least this often."""

    session_timeout: float = 10.0
    """A session that was not heard of for this long has ended."""

    death_delay: float = 1.0
    """How long a message waits after the second death in a row of who had it, from that one's last
    sign of life on; twice as long after each further death, `session_timeout` at most."""

    reclaim: float = 1.5
    """How long after its start the broker waits for the sessions of its former life."""

    connections: int = 2_000
    """Connections without keys, also those that have no session (yet)."""

    sessions: int = 1_000
    subscriptions: int = 10_000
    """Channels that one session subscribes."""

    consumers: int = 1_000
    """Consumers of one session."""

    waiters: int = 10_000
    """Acquisitions of locks that one session waits for."""

    credit: int = 65_536
    """Deliveries that one consumer may hold."""

    outstanding: int = 16 * MIB
    """What may be on its way to a session and not acknowledged: beyond it the session gets no
    deliveries, and its subscriptions fall back on the history."""

    replies: int = 256 * MIB
    """A session that lets this much pile up is ended."""

    channels: int = 100_000
    """Channels of pub/sub, and queues, each."""

    history_count: int = 1_000
    history_bytes: int = MIB
    """What is kept of one channel for subscribers that come back."""

    history_total: int = 256 * MIB
    """What is kept of all channels."""

    queue_messages: int = 50_000_000
    queue_bytes: int = 64 * GIB
    """What one queue holds before it refuses."""

    dead_letters: int = 10_000
    """Dead letters of one queue; the oldest go first."""

    window_count: int = 512
    window_bytes: int = MIB
    """How much of one queue is read ahead."""

    window_total: int = 32 * MIB
    """How much of all queues is kept in memory beside what is in flight."""

    dedup_window: float = 120.0
    """A `dedup_id` is known at least this long."""

    recent_ids: int = 1_000_000
    """How many ids of published messages are remembered, at most for `dedup_window`."""

    cache_bytes: int = 256 * MIB
    locks: int = 1_000_000

    free_space: int = 64 * MIB
    """Below this much free space on its disk the broker takes no further messages."""


class Memory:
    """What all queues together keep in memory beside deliveries."""

    __slots__ = ("left",)

    def __init__(self, total: int) -> None:
        self.left = total

    def __repr__(self) -> str:
        return f"<Memory left={self.left}>"
