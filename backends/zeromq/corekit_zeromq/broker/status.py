"""What the broker tells of itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import Engine

#: Queues that are listed, the longest first.
_LISTED = 1000


def status(engine: Engine) -> dict[str, Any]:
    """Return the broker's state as a map of plain values."""
    queues = {}
    counted = engine.queues.largest(_LISTED)
    for name in counted:
        ready, delayed, in_flight, dead = engine.queues.stats(engine.now, name)
        queues[name] = {
            "ready": ready,
            "delayed": delayed,
            "in_flight": in_flight,
            "dead": dead,
            "oldest_age": engine.queues.oldest_age(engine.wall, name),
        }
    return {
        "version": engine.version,
        "pid": os.getpid(),
        "epoch": engine.epoch,
        "uptime": max(0.0, engine.now - engine.started),
        "durability": "full" if engine.journal.durable else "relaxed",
        "clients": [
            {
                "name": session.info.get("name", ""),
                "version": session.info.get("version", ""),
                "connected": session.route is not None,
                "process": session.process.pid if session.process else None,
                "consumers": len(session.consumers),
                "subscriptions": len(session.subscriptions),
                "outstanding": session.outstanding,
            }
            for session in engine.sessions
        ],
        "channels": len(engine.pub_sub),
        "queue_count": len(engine.queues),
        "queues": queues,
        "cache": {"entries": engine.cache.count, "bytes": engine.cache.bytes},
        "locks": len(engine.locks),
        "storage_full": engine.queues.storage_full,
        "commits": engine.journal.commits,
        **engine.disk,
    }
