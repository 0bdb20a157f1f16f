from corekit_example import example_cache

from corekit.adapters import CacheAdapter
from corekit.config import BackendURL
from corekit.testing.cache import CacheSuite
from corekit.testing.contexts import make_context


class TestExample(CacheSuite):
    """Every clause of the contract."""

    virtual = True

    def make_adapter(self) -> CacheAdapter:
        return example_cache(BackendURL.parse("example://suite"), make_context(clock=self.clock))
