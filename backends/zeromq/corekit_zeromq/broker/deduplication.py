"""Which messages were published before: by their id, and by the `dedup_id` of their publisher."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgpack

from .journal import Journal
from .limits import Limits
from .recent import RecentIds
from .records import Message

#: Rows that one step of housekeeping looks at, besides as many as came since the last one.
_STEP = 2000

#: Whether the message of a row of `dedup` is still there, in either of its places. It is in no
#: block: `remember` has it written before the next one is there.
_WAITS = (
    "EXISTS (SELECT 1 FROM channel JOIN message ON message.place IN "
    "((channel.id<<45)|dedup.seq, (channel.id<<45)|(1<<44)|dedup.seq) "
    "WHERE channel.name=dedup.channel)"
)


class Deduplication:
    """Remembers what was published. `scaled` is the time on the scale of the queues."""

    def __init__(self, journal: Journal, limits: Limits, scaled: float) -> None:
        self._journal = journal
        self._limits = limits
        self._recent = RecentIds(limits.dedup_window, limits.recent_ids)
        rows = journal.execute(
            "SELECT ids FROM recent WHERE at>? ORDER BY number DESC",
            (scaled - limits.dedup_window,),
        )
        pairs = (
            (queue, id_)
            for (ids,) in rows
            for queue, of_queue in msgpack.unpackb(ids).items()
            for id_ in of_queue
        )
        #: How many rows came since the last step of housekeeping.
        self._fresh = 0
        self._recent.load(islice(pairs, limits.recent_ids), scaled)

    def __repr__(self) -> str:
        return f"<Deduplication {self._recent}>"

    def published(self, scaled: float, queue: str, messages: Sequence[Message]) -> None:
        """Remember the ids; the journal keeps them with the messages."""
        for message in messages:
            self._recent.add(queue, message.id, scaled)

    def is_repeated(self, queue: str, id: str) -> bool:  # noqa: A002
        """Tell whether a message with this id was published lately."""
        return self._recent.contains(queue, id)

    def first(self, scaled: float, queue: str, dedup_id: str) -> str | None:
        """Return the id of the message that was published with, or as, *dedup_id*."""
        row = self._journal.execute(
            f"SELECT id, until, {_WAITS} FROM dedup WHERE channel=? AND dedup_id=?",  # noqa: S608 - from right here
            (queue, dedup_id),
        ).fetchone()
        if row is not None and (row[1] > scaled or row[2]):
            return str(row[0])
        return dedup_id if self._recent.contains(queue, dedup_id) else None

    def remember(self, scaled: float, queue: str, dedup_id: str, id: str, seq: int) -> None:  # noqa: A002
        """Remember that the message *seq* was published with *dedup_id*."""
        self._fresh += 1
        self._journal.execute(
            "INSERT OR REPLACE INTO dedup VALUES (?,?,?,?,?)",
            (queue, dedup_id, id, seq, scaled + self._limits.dedup_window),
        )

    def forget(self, scaled: float) -> None:
        """Forget a part of what is too old; what is old but waits is looked at again later."""
        self._recent.forget(scaled)
        execute = self._journal.execute
        oldest = scaled - self._limits.dedup_window
        (last,) = execute(
            "SELECT max(number) FROM (SELECT number, at FROM recent ORDER BY number LIMIT ?) "
            "WHERE at<?",
            (_STEP, oldest),
        ).fetchone()
        if last is not None:
            execute("DELETE FROM recent WHERE number<=?", (last,))
        rows = execute(
            f"SELECT channel, dedup_id, {_WAITS} FROM dedup "  # noqa: S608 - from right here
            "WHERE until<? ORDER BY until LIMIT ?",
            (scaled, _STEP + self._fresh),
        ).fetchall()
        self._fresh = 0
        for queue, dedup_id, waits in rows:
            if waits:
                execute(
                    "UPDATE dedup SET until=? WHERE channel=? AND dedup_id=?",
                    (scaled + self._limits.dedup_window, queue, dedup_id),
                )
            else:
                execute("DELETE FROM dedup WHERE channel=? AND dedup_id=?", (queue, dedup_id))
