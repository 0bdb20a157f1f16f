"""What an adapter can promise beyond its contract."""

from enum import StrEnum


class Guarantee(StrEnum):
    """A promise that an adapter declares in its `guarantees`.

    Managers ask for what they need when the App is built; the suites in `corekit.testing` switch
    the clauses that prove a promise by it; `corekit doctor` shows them.
    """

    SHARED = "shared"
    """Several processes that use the same URL meet in it."""

    DURABLE = "durable"
    """What was confirmed survives kill -9 and a power cut of the backend."""

    PERSISTENT = "persistent"
    """What was confirmed survives kill -9 of the backend, but maybe not a power cut."""

    ORDERED = "ordered"
    """Messages of one publisher on one channel arrive in the order in which they were published."""

    REPLAYED = "replayed"
    """After a lost connection recent messages are delivered again, or the gap is told."""

    DELAYED = "delayed"
    """A message can be held back for a time given by its publisher or by a retry."""

    DEDUPLICATED = "deduplicated"
    """A second message with the same `dedup_id` within the window is not queued."""

    COUNTED = "counted"
    """Attempts and deaths are counted by the backend, so they survive every consumer."""

    FENCED = "fenced"
    """A lock's tokens grow with each acquisition of its name, across restarts of the backend."""

    FAIR = "fair"
    """Waiters for a lock are served in the order in which they came."""

    BY_REFERENCE = "by_reference"
    """The cache keeps the objects themselves, inside this process, and is given them unencoded."""
