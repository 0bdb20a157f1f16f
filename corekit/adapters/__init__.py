"""The contracts between managers and backends: one small Protocol per component.

An adapter is the mechanism: it sees full names and bytes, and knows nothing of envelopes,
handlers, retries or debouncing. The rules below hold for every contract:

- Durations are seconds (float), sizes bytes, points in time Unix seconds where nothing else is
  said.
- An adapter is built by a factory `factory(url, context)`, which does no I/O. `open` connects,
  or raises BackendUnavailable, or BackendRefused (for bad credentials, say). `close` ends
  everything that `open` and later calls began; it never raises for a backend that has gone, may be
  called at any time, after a failed `open` too, and a second call does nothing. An adapter is
  opened at most once; for another start the App builds a new one.
- Calls may overlap freely, come from the loop that called `open`, and only between `open` and
  `close`. A call that is pending when `close` begins raises NotOpenError.
- A driver's errors arrive as BackendUnavailable (trying again may help; nothing was done),
  OutcomeUnknown (it may have been done) or BackendRefused (it will not help; nothing was done),
  with the driver's error as their cause.
- No call waits for ever for an absent backend: after a bounded time, BackendUnavailable.
- After a lost connection the adapter comes back by itself and restores what it had: subscriptions,
  consumers, credit.
- What an adapter promises beyond the contract it declares in `guarantees`.
"""

from .cache import CacheAdapter, CacheSpace, LocalCacheSpace, Stored
from .context import AdapterContext
from .event_queue import (
    Consumer,
    DeadMessage,
    Delivery,
    DeliveryReceiver,
    EventQueueAdapter,
    QueueStats,
)
from .guarantees import Guarantee
from .lock import Grant, LockAdapter
from .membership import Member, MembershipAdapter
from .pub_sub import MessageReceiver, PubSubAdapter

__all__ = [
    "AdapterContext",
    "CacheAdapter",
    "CacheSpace",
    "Consumer",
    "DeadMessage",
    "Delivery",
    "DeliveryReceiver",
    "EventQueueAdapter",
    "Grant",
    "Guarantee",
    "LocalCacheSpace",
    "LockAdapter",
    "Member",
    "MembershipAdapter",
    "MessageReceiver",
    "PubSubAdapter",
    "QueueStats",
    "Stored",
]
