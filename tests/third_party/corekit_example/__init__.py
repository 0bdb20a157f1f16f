"""A cache for `example://NAME` URLs: a dict in this process."""

from corekit import hookimpl
from corekit.adapters import AdapterContext, CacheAdapter
from corekit.config import BackendURL
from corekit.plugins import AdapterRegistry


@hookimpl
def corekit_register_adapters(registry: AdapterRegistry) -> None:
    """Offer the cache."""
    registry.add_cache("example", example_cache)


def example_cache(url: BackendURL, context: AdapterContext) -> CacheAdapter:
    """Return a cache adapter; the module with its mechanism is loaded here, on first use."""
    from .cache import DictCache

    url.refuse_other_options()
    return DictCache(url.name or context.app, context.clock)
