"""The adapters, on one server and on three, do what the contracts say."""

from __future__ import annotations

import pytest
from corekit_etcd.cache import Cache
from corekit_etcd.lock import Lock

from corekit.adapters import CacheAdapter, LockAdapter
from corekit.config import BackendURL
from corekit.testing.cache import CacheSuite
from corekit.testing.contexts import make_context
from corekit.testing.lock import LockSuite
from corekit.testing.membership import MembershipSuite

from .servers import Etcd


class _OnOneServer:
    @pytest.fixture(autouse=True)
    def give_etcd(self, shared_etcd: Etcd) -> None:
        """Let the suite find its server."""
        self.etcd = shared_etcd

    @property
    def url(self) -> BackendURL:
        return BackendURL.parse(self.etcd.url)

    async def restart(self) -> None:
        self.etcd.restart()


class _OnThreeServers(_OnOneServer):
    @pytest.fixture(autouse=True)
    def give_etcd(self, shared_cluster: Etcd) -> None:
        """Let the suite find its servers."""
        self.etcd = shared_cluster


class _Locks(LockSuite):
    #: etcd counts whole seconds, a spare lease may have up to 1 s more, and etcd looks for leases
    #: that are over each half second.
    late = 1.8

    def make_adapter(self) -> LockAdapter:
        return Lock(self.url, make_context())


class _Caches(CacheSuite):
    def make_adapter(self) -> CacheAdapter:
        return Cache(self.url, make_context())


class TestCache(_OnOneServer, _Caches):
    """The clauses of the cache."""


class TestCacheOnThreeServers(_OnThreeServers, _Caches):
    """The clauses of the cache."""


class TestLock(_OnOneServer, _Locks):
    """The clauses of the locks."""


class TestLockOnThreeServers(_OnThreeServers, _Locks):
    """The clauses of the locks."""


class _Members(MembershipSuite):
    late = 2.5

    def make_adapter(self) -> Lock:
        return Lock(self.url, make_context())


class TestMembership(_OnOneServer, _Members):
    """The clauses of membership."""


class TestMembershipOnThreeServers(_OnThreeServers, _Members):
    """The clauses of membership."""
