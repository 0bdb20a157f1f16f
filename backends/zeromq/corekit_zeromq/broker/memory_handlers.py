"""What the commands for the cache, the locks, and the broker itself do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from corekit.errors import BackendRefused, InvalidArgument

from ..protocol import Op
from . import fields
from .sessions import Session
from .status import status

if TYPE_CHECKING:
    from .engine import Engine

_NUMBER = 1 << 62


def memory_table(
    engine: Engine,
) -> dict[int, tuple[Callable[[Session, list[Any]], None], int, bool]]:
    """Return, by operation: the handler, the command's length, and whether it is a request."""
    handlers = MemoryHandlers(engine)
    return {
        Op.CACHE_GET: (handlers.cache_get, 4, True),
        Op.CACHE_SET: (handlers.cache_set, 6, True),
        Op.CACHE_SWAP: (handlers.cache_swap, 8, True),
        Op.CACHE_DELETE: (handlers.cache_delete, 4, True),
        Op.CACHE_KEYS: (handlers.cache_keys, 3, True),
        Op.CACHE_CLEAR: (handlers.cache_clear, 3, True),
        Op.CACHE_FLUSH: (handlers.cache_flush, 3, True),
        Op.LOCK_ACQUIRE: (handlers.lock_acquire, 5, True),
        Op.LOCK_ABANDON: (handlers.lock_abandon, 2, False),
        Op.LOCK_EXTEND: (handlers.lock_extend, 5, True),
        Op.LOCK_RELEASE: (handlers.lock_release, 4, True),
        Op.STATUS: (handlers.status, 2, True),
    }


class MemoryHandlers:
    """Cache, locks, status."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache = engine.cache
        self._locks = engine.locks
        self._longest = engine.limits.name_length
        self._largest = engine.limits.max_message

    def __repr__(self) -> str:
        return f"<MemoryHandlers of {self._engine!r}>"

    def _begin(self, command: list[Any], what: str) -> tuple[int, str]:
        """Return rid and name, the first fields of every request here."""
        rid = fields.whole("rid", command[1], 0, _NUMBER)
        return rid, fields.text(what, command[2], self._longest)

    def cache_get(self, session: Session, command: list[Any]) -> None:
        rid, space = self._begin(command, "space")
        keys = fields.texts("keys", command[3], self._longest)
        found = self._cache.get(self._engine.now, space, keys)
        self._answer_values(session, rid, found, sum(len(one[0]) for one in found if one))

    def _answer_values(self, session: Session, rid: int, values: list[Any], size: int) -> None:
        # A frame has a largest size, and the client a limit of what it reads.
        if size > self._largest:
            raise BackendRefused(f"the values have {size} bytes together: ask for fewer keys")
        session.answer(rid, values)

    def cache_set(self, session: Session, command: list[Any]) -> None:
        rid, space = self._begin(command, "space")
        evict = fields.flag("evict", command[3])
        entries = command[4]
        if type(entries) is not dict:
            raise InvalidArgument("entries must be a map")
        lifetime = self._lifetime(command[5])
        for key, value in entries.items():
            fields.text("key", key, self._longest)
            fields.binary("value", value, self._largest)
        for key, value in entries.items():
            self._cache.set(self._engine.now, space, key, value, lifetime, evict=evict)
        session.answer(rid, None)

    @staticmethod
    def _lifetime(value: Any) -> float | None:
        return None if value is None else fields.seconds("lifetime", value)

    def cache_swap(self, session: Session, command: list[Any]) -> None:
        rid, space = self._begin(command, "space")
        evict = fields.flag("evict", command[3])
        key = fields.text("key", command[4], self._longest)
        value = fields.binary("value", command[5], self._largest)
        version = command[6]
        if version is not None:
            fields.whole("version", version, 0, _NUMBER)
        lifetime = self._lifetime(command[7])
        written = self._cache.swap(
            self._engine.now, space, key, value, version, lifetime, evict=evict
        )
        session.answer(rid, written)

    def cache_delete(self, session: Session, command: list[Any]) -> None:
        rid, space = self._begin(command, "space")
        keys = fields.texts("keys", command[3], self._longest)
        found = self._cache.get(self._engine.now, space, keys)
        if sum(len(one[0]) for one in found if one) > self._largest:
            raise BackendRefused("the values are too large for one answer: delete fewer keys")
        session.answer(rid, self._cache.delete(self._engine.now, space, keys))

    def cache_keys(self, session: Session, command: list[Any]) -> None:
        rid, space = self._begin(command, "space")
        session.answer(rid, self._cache.keys(self._engine.now, space))

    def cache_clear(self, session: Session, command: list[Any]) -> None:
        rid, space = self._begin(command, "space")
        self._cache.clear(space)
        session.answer(rid, None)

    def cache_flush(self, session: Session, command: list[Any]) -> None:
        rid, prefix = self._begin(command, "prefix")
        self._cache.flush(prefix)
        session.answer(rid, None)

    def lock_acquire(self, session: Session, command: list[Any]) -> None:
        rid, name = self._begin(command, "name")
        ttl = fields.seconds("ttl", command[3])
        wait = None if command[4] is None else fields.seconds("wait", command[4], zero=True)
        self._locks.acquire(self._engine.now, session, rid, name, ttl, wait)

    def lock_abandon(self, session: Session, command: list[Any]) -> None:
        rid = fields.whole("rid", command[1], 0, _NUMBER)
        self._locks.abandon(self._engine.now, session, rid)

    def lock_extend(self, session: Session, command: list[Any]) -> None:
        rid, name = self._begin(command, "name")
        owner = fields.binary("owner", command[3], 64)
        ttl = fields.seconds("ttl", command[4])
        session.answer(rid, self._locks.extend(self._engine.now, session, name, owner, ttl))

    def lock_release(self, session: Session, command: list[Any]) -> None:
        rid, name = self._begin(command, "name")
        self._locks.release(self._engine.now, name, fields.binary("owner", command[3], 64))
        session.answer(rid, None)

    def status(self, session: Session, command: list[Any]) -> None:
        session.answer(fields.whole("rid", command[1], 0, _NUMBER), status(self._engine))
