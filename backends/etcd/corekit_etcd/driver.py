"""What is taken from etcd3aio: etcd's messages and calls. No other module imports it.

Its services are left aside, because they repeat transactions whose answer was lost, let a watch
skip what happened before it was broken off, and know one channel for all endpoints, which resolves
no host names and is not led away from a server that hangs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import grpc
import grpc.aio
from etcd3aio._protobuf import (
    AuthenticateRequest,
    AuthStub,
    Compare,
    DeleteRangeRequest,
    KVStub,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseRevokeRequest,
    LeaseStub,
    MaintenanceStub,
    PutRequest,
    RangeRequest,
    RequestOp,
    StatusRequest,
    TxnRequest,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchRequest,
    WatchStub,
)

from corekit.config import Address

from .settings import Certificates

__all__ = [
    "AuthenticateRequest",
    "Call",
    "Compare",
    "DeleteRangeRequest",
    "Endpoint",
    "LeaseGrantRequest",
    "LeaseKeepAliveRequest",
    "LeaseRevokeRequest",
    "PutRequest",
    "RangeRequest",
    "StatusRequest",
    "TxnRequest",
    "WatchCancelRequest",
    "WatchCreateRequest",
    "WatchRequest",
    "created_at",
    "delete",
    "is_text",
    "keeping_lease",
    "keeping_value",
    "modified_at",
    "none_in",
    "put",
    "range_of",
]

_OPTIONS: tuple[tuple[str, int], ...] = (
    # A client of its own, also where two Apps of one process go to one server.
    ("grpc.use_local_subchannel_pool", 1),
    # Proxies are for the Web; an environment variable must not lead locks through one.
    ("grpc.enable_http_proxy", 0),
    # Repeating is decided here, not inside of the driver.
    ("grpc.enable_retries", 0),
    # Servers by default end connections with pings more often than each 5 s.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # The time to connect, and the pauses between two tries, which grow to a minute otherwise.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Many values may come in one answer; how large each is was checked when it was written.
    ("grpc.max_receive_message_length", -1),
)


class Call(StrEnum):
    """A call that has one answer."""

    RANGE = "range"
    PUT = "put"
    DELETE = "delete"
    TXN = "txn"
    GRANT = "grant"
    REVOKE = "revoke"
    AUTHENTICATE = "authenticate"
    STATUS = "status"


class Endpoint:
    """One server, and the connection to it."""

    def __init__(self, address: Address, tls: Certificates | None) -> None:
        self.text = str(address)
        if tls is None:
            channel = grpc.aio.insecure_channel(self.text, options=_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(tls.authorities, tls.key, tls.chain)
            channel = grpc.aio.secure_channel(self.text, credentials, options=_OPTIONS)
        self._channel = channel
        kv, lease = KVStub(channel), LeaseStub(channel)
        self.calls: Mapping[Call, Any] = {
            Call.RANGE: kv.Range,
            Call.PUT: kv.Put,
            Call.DELETE: kv.DeleteRange,
            Call.TXN: kv.Txn,
            Call.GRANT: lease.LeaseGrant,
            Call.REVOKE: lease.LeaseRevoke,
            Call.AUTHENTICATE: AuthStub(channel).Authenticate,
            Call.STATUS: MaintenanceStub(channel).Status,
        }
        self.keep_alive: Any = lease.LeaseKeepAlive
        self.watch: Any = WatchStub(channel).Watch

    def __repr__(self) -> str:
        return f"<Endpoint {self.text} {'connected' if self.is_connected else 'not connected'}>"

    @property
    def is_connected(self) -> bool:
        """Whether a call can be sent at once; asking begins to connect if not."""
        state = self._channel.get_state(try_to_connect=True)
        return bool(state is grpc.ChannelConnectivity.READY)

    async def connected(self) -> None:
        """Return when the server has been reached."""
        await self._channel.channel_ready()

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()


# Writes to keys that must exist: KeyGone otherwise.


def keeping_lease(key: bytes, value: bytes) -> PutRequest:
    """Return the request that writes *value*; the key stays bound to its lease."""
    return PutRequest(key=key, value=value, ignore_lease=True)


def keeping_value(key: bytes, lease: int) -> PutRequest:
    """Return the request that binds the key to *lease*; its value stays."""
    return PutRequest(key=key, lease=lease, ignore_value=True)


# Parts of transactions. A range is [start, end); without an end it is one key.


def put(key: bytes, value: bytes, lease: int = 0) -> RequestOp:
    """Return the operation that writes *key*."""
    return RequestOp(request_put=PutRequest(key=key, value=value, lease=lease))


def delete(key: bytes) -> RequestOp:
    """Return the operation that removes *key* and tells what was there."""
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, prev_kv=True))


def range_of(**fields: Any) -> RequestOp:
    """Return the operation that reads, with the fields of a RangeRequest."""
    return RequestOp(request_range=RangeRequest(**fields))


def none_in(start: bytes, end: bytes = b"") -> Compare:
    """Return the condition that no key is in the range."""
    return Compare(
        result=Compare.EQUAL, target=Compare.CREATE, key=start, range_end=end, create_revision=0
    )


def created_at(key: bytes, revision: int) -> Compare:
    """Return the condition that *key* is the one that was created at *revision*."""
    return Compare(result=Compare.EQUAL, target=Compare.CREATE, key=key, create_revision=revision)


def modified_at(key: bytes, revision: int) -> Compare:
    """Return the condition that *key* was last written at *revision*."""
    return Compare(result=Compare.EQUAL, target=Compare.MOD, key=key, mod_revision=revision)


def is_text(key: bytes) -> bool:
    """Tell whether *key* is UTF-8, as ours are; other programs may write between them."""
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
