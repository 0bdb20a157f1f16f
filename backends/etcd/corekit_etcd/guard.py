"""Writes in etcd that happen only while a lock is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corekit.errors import InvalidArgument

from .driver import Compare, created_at
from .lock import Place

if TYPE_CHECKING:
    from corekit import Lease


def held(lease: Lease) -> Compare:
    """Return the condition, for a transaction in etcd, that *lease* still owns its lock.

    With a client of your own, of the etcd that keeps the lock:

        written = await client.kv.txn([held(lease)], [KVService.txn_op_put(key, value)])
        if not written.succeeded:
            ...                                     # the lock was lost: nothing was written

    etcd checks and writes in one step, so a holder that was paused, and does not know yet that
    another has the lock, writes nothing. Raises InvalidArgument if the lock is not kept in etcd.
    """
    place = lease.grant.owner
    if not isinstance(place, Place):
        raise InvalidArgument(f"{lease!r} is not a lock in etcd")
    return created_at(place.key, place.created)
