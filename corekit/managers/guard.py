"""Guards: a fencing token, checked where the write happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arguments import shown
from ..errors import InvalidArgument, InvalidType, LockLost

#: The table of the newest tokens. One row per lock; an application creates it once, where it keeps
#: what is to be guarded. A name is at most 512 bytes three times escaped, and the application's.
FENCE_TABLE = (
    "CREATE TABLE IF NOT EXISTS corekit_fence "
    "(name VARCHAR(4096) NOT NULL PRIMARY KEY, token BIGINT NOT NULL)"
)

#: Raises a lock's token in the table; changes no row if a greater one is there.
_RAISE = (
    "INSERT INTO corekit_fence (name, token) VALUES ({name}, {token}) "
    "ON CONFLICT (name) DO UPDATE SET token = excluded.token "
    "WHERE corekit_fence.token <= excluded.token"
)

#: How drivers want parameters to be written: as PEP 249 calls it, and `dollar` ($1) for asyncpg.
_STYLES = {
    "named": (":name", ":token"),
    "pyformat": ("%(name)s", "%(token)s"),
    "qmark": ("?", "?"),
    "dollar": ("$1", "$2"),
}


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets a database transaction succeed only if no later holder of the lock was there before it.

    A lease can be over while its holder does not know it yet (a paused process wakes in the middle
    of its work). So the database decides. In the transaction of the write, first of all:

        statement, parameters = lease.guard.sql()
        result = await session.execute(text(statement), parameters)
        lease.guard.passed(result.rowcount)         # LockLost: let the transaction roll back

    The statement raises the newest token of this lock in the table `corekit_fence` (`FENCE_TABLE`
    creates it). It locks that row until the end of the transaction, so a later holder's transaction
    comes after this one or before it, and in that case this one changes nothing and is refused. It
    works on PostgreSQL and on SQLite 3.24 or newer. Every writer must use the guard; and the tokens
    must not begin anew, see the guarantee FENCED of the lock's backend.
    """

    name: str
    """The full name of the lock."""

    token: int

    def sql(self, style: str = "named") -> tuple[str, dict[str, Any] | tuple[Any, ...]]:
        """Return the statement, and its parameters, in the *style* of the database driver.

        "named" (SQLAlchemy's text, sqlite3), "pyformat" (psycopg) with a dict; "qmark" (sqlite3)
        and "dollar" (asyncpg) with a tuple. Raises InvalidArgument for another style.
        """
        marks = _STYLES.get(style)
        if marks is None:
            raise InvalidArgument(f"style must be one of {', '.join(_STYLES)}, not {shown(style)}")
        statement = _RAISE.format(name=marks[0], token=marks[1])
        if style in {"qmark", "dollar"}:
            return statement, (self.name, self.token)
        return statement, {"name": self.name, "token": self.token}

    def passed(self, changed: int) -> None:
        """Check that the statement of `sql` has *changed* a row; raises LockLost if not."""
        if isinstance(changed, bool) or not isinstance(changed, int):
            raise InvalidType(f"changed must be the number of rows, not {shown(changed)}")
        if changed < 1:
            raise LockLost(f"{self.name}: a later holder than token {self.token} was here")

    def check(self, newest: int | None) -> None:
        """Check this token against the *newest* that a resource has seen; None: it has seen none.

        For resources that keep the token themselves; they must compare and write in one step.
        Raises LockLost if *newest* is greater, InvalidType if it is no token.
        """
        if newest is None:
            return
        if isinstance(newest, bool) or not isinstance(newest, int):
            raise InvalidType(f"newest must be a token (int), not {shown(newest)}")
        if newest > self.token:
            raise LockLost(f"{self.name}: token {newest} is newer than {self.token}")
