"""corekit.plugins: what is installed takes part, and what is broken harms nobody else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, distributions
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from corekit.adapters import AdapterContext
from corekit.config import BackendURL
from corekit.errors import AdapterNotFound, ConfigurationError
from corekit.plugins import AdapterRegistry, Discovery, build_adapter, discover, hookimpl

HEAD = "from corekit.plugins import hookimpl\n"
CONTEXT = AdapterContext("shop", "one")
_numbers = count()


class Lock:
    """Looks like a lock adapter."""

    guarantees: frozenset[str] = frozenset()
    least_ttl = 0.0

    async def do(self, *_: object) -> Any:
        """Do nothing."""

    open = close = acquire = extend = release = do


def make(*_: object) -> Any:
    """Make an adapter of any kind: factories of third parties are not always typed."""
    return Lock()


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, source: str, *, entry: str | None = None) -> None:
        """Install a distribution with one module, and an entry point to it."""
        module = f"plugin_{next(_numbers)}"
        (self.folder / f"{module}.py").write_text(HEAD + source)
        info = self.folder / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        points = info / "entry_points.txt"
        if not points.exists():
            points.write_text("[corekit]\n")
        with points.open("a") as file:
            file.write(f"{entry or name} = {module}\n")

    def entries(self) -> list[EntryPoint]:
        """Return the entry points of this folder only, by distribution name."""
        found = sorted(distributions(path=[str(self.folder)]), key=lambda each: each.name)
        return [entry for each in found for entry in each.entry_points]

    def discover(self, **builtins: object) -> Discovery:
        """Discover what is installed in this folder."""
        return discover(builtins, self.entries())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return an empty folder on the module path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


def offering(scheme: str, *, then: str = "") -> str:
    """Return the source of a plugin that offers a lock for *scheme*."""
    return (
        "@hookimpl\n"
        "def corekit_register_adapters(registry):\n"
        f"    registry.add_lock({scheme!r}, lambda url, context: (url, context))\n"
        f"    {then}\n"
    )


def plugin(register: Callable[[AdapterRegistry], None]) -> ModuleType:
    """Return a plugin module whose hook is *register*."""
    module = ModuleType("a_plugin")

    @hookimpl
    def corekit_register_adapters(registry: AdapterRegistry) -> None:
        register(registry)

    module.corekit_register_adapters = corekit_register_adapters  # type: ignore[attr-defined]
    return module


def build(discovery: Discovery, url: str, component: str = "lock") -> Any:
    """Build one adapter."""
    return build_adapter(discovery, discovery.adapters(), component, BackendURL.parse(url), CONTEXT)


# --- discovery ----------------------------------------------------------------------------------


def test_installed_distributions_are_found_by_themselves(site: Site) -> None:
    """Whatever is installed on the module path takes part, with its version."""
    site.install("corekit-mine", offering("mine"))
    discovery = discover({})
    assert discovery.loaded["corekit-mine"] == "1.5"
    assert discovery.adapters().schemes()["lock"]["mine"] == "corekit-mine"


def test_equal_entry_point_names_hide_nobody(site: Site) -> None:
    """Two distributions may have chosen one entry-point name: both take part."""
    site.install("corekit-one", offering("one"), entry="same")
    site.install("corekit-two", offering("two"), entry="same")
    schemes = site.discover().adapters().schemes()["lock"]
    assert schemes == {"one": "corekit-one", "two": "corekit-two"}


def test_a_second_entry_point_of_a_distribution_does_not_harm_the_first(site: Site) -> None:
    """A distribution has one entry point; a second is a failure, and the first still works."""
    site.install("corekit-one", offering("one"))
    site.install("corekit-one", offering("two"), entry="again")
    discovery = site.discover()
    assert list(discovery.adapters().schemes()["lock"]) == ["one"]
    assert "more than one entry point" in str(discovery.failures["corekit-one"])


@pytest.mark.parametrize(
    "statement",
    [
        "import no_such_driver",
        "raise RuntimeError('no_such_driver')",
        "raise SystemExit('no_such_driver')",
        "raise BaseException('no_such_driver')",
        "this is no_such_driver",
    ],
)
def test_a_plugin_that_fails_to_import_stops_nobody_else(
    site: Site, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept as a failure, silently, and told with its cause when an adapter is missing."""
    site.install("corekit-broken", statement)
    site.install("corekit-good", offering("good"))
    discovery = site.discover()
    assert list(discovery.loaded) == ["corekit-good"]
    assert list(discovery.failures) == ["corekit-broken"]
    assert caplog.records == []
    with pytest.raises(AdapterNotFound, match=r"corekit-broken is installed but failed") as caught:
        build(discovery, "broken://x")
    assert caught.value.__cause__ is discovery.failures["corekit-broken"]
    if "this is" not in statement:
        assert "no_such_driver" in str(caught.value)


def test_ctrl_c_during_an_import_is_no_failure_of_the_plugin(site: Site) -> None:
    """KeyboardInterrupt is the user's."""
    site.install("corekit-slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        site.discover()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("@hookimpl\ndef corekit_register_adaptors(registry): ...", "corekit_register_adaptors"),
        ("@hookimpl\ndef corekit_register_adapters(registry, url): ...", "url"),
        ("def corekit_register_adapters(registry): ...", "no function that is marked"),
        ("@hookimpl\nasync def corekit_register_adapters(registry): ...", "plain function"),
        (
            "@hookimpl(wrapper=True)\ndef corekit_register_adapters(registry):\n    yield",
            "plain function",
        ),
    ],
    ids=["misspelt", "argument", "unmarked", "async", "wrapper"],
)
def test_a_plugin_with_a_wrong_hook_is_told_loudly(
    site: Site, source: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes no part, an error in the log says why, and the others work."""
    site.install("corekit-a-good", offering("one"))
    site.install("corekit-b-wrong", source)
    site.install("corekit-c-good", offering("two"))
    discovery = site.discover()
    assert list(discovery.adapters().schemes()["lock"]) == ["one", "two"]
    assert list(discovery.failures) == ["corekit-b-wrong"]
    assert reason in str(discovery.failures["corekit-b-wrong"])
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "corekit-b-wrong" in record.getMessage()


def test_a_hook_that_fails_offers_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """What it had offered before it failed is withdrawn; the others' offers stay."""
    site.install("corekit-broken", offering("half", then="raise SystemExit(3)"))
    site.install("corekit-good", offering("good"))
    discovery = site.discover()
    assert list(discovery.adapters().schemes()["lock"]) == ["good"]
    assert isinstance(discovery.failures["corekit-broken"], SystemExit)
    assert "corekit-broken" in caplog.text


def test_a_hook_may_leave_out_its_argument(site: Site) -> None:
    """As pluggy allows; it then offers nothing."""
    site.install("corekit-idle", "@hookimpl\ndef corekit_register_adapters(): ...")
    discovery = site.discover()
    assert not any(discovery.adapters().schemes().values())
    assert discovery.failures == {}


# --- conflicts and wrong offers -----------------------------------------------------------------


def test_two_distributions_with_one_scheme_are_an_error_that_names_both(site: Site) -> None:
    """Neither wins silently."""
    site.install("corekit-one", offering("same"))
    site.install("corekit-two", offering("same"))
    discovery = site.discover()
    with pytest.raises(ConfigurationError, match=r"corekit-one and corekit-two.*lock.*same://"):
        discovery.adapters()


def test_two_components_of_one_scheme_may_come_from_two_distributions(site: Site) -> None:
    """A scheme is taken per component."""
    site.install("corekit-one", offering("same"))
    site.install("corekit-two", offering("same").replace("add_lock", "add_cache"))
    schemes = site.discover().adapters().schemes()
    assert schemes["lock"] == {"same": "corekit-one"}
    assert schemes["cache"] == {"same": "corekit-two"}


@pytest.mark.parametrize(
    "call",
    [
        "add_lock('Upper', print)",
        "add_lock('', print)",
        "add_lock('a b', print)",
        "add_lock(7, print)",
        "add_lock('fine', 'a string')",
        "add_serializer(complex, 63, repr, complex)",
        "add_serializer(complex, 128, repr, complex)",
        "add_serializer('complex', 64, repr, complex)",
        "add_serializer(complex, 64, None, complex)",
        "add_nothing('x', print)",
    ],
)
def test_a_wrong_offer_is_that_plugins_failure(site: Site, call: str) -> None:
    """It stops neither the App nor the others."""
    site.install("corekit-good", offering("good"))
    site.install("corekit-wrong", offering("half", then=f"registry.{call}"))
    discovery = site.discover()
    assert list(discovery.adapters().schemes()["lock"]) == ["good"]
    assert list(discovery.failures) == ["corekit-wrong"]


def test_serializers_are_collected_and_conflicts_name_both(site: Site) -> None:
    """One type, one code, one owner."""
    add = "registry.add_serializer({0}, {1}, repr, {0})"
    site.install("corekit-one", offering("one", then=add.format("complex", 64)))
    discovery = site.discover()
    (extension,) = discovery.adapters().extensions
    assert (extension.type, extension.code) == (complex, 64)
    for kind, code, named in (("range", 64, "code 64"), ("complex", 65, "complex")):
        other = plugin(
            lambda registry, kind=kind, code=code: registry.add_serializer(  # type: ignore[misc]
                {"range": range, "complex": complex}[kind], code, bytes, bytes
            )
        )
        discovery = discover({"corekit-zero": other}, site.entries())
        with pytest.raises(ConfigurationError, match=f"corekit-zero and corekit-one.*{named}"):
            discovery.adapters()


def test_application_plugins_are_offered_by_name(site: Site) -> None:
    """They are found by their name; two of one name are an error, a nameless one a failure."""
    source = (
        "class Mine:\n    name = {!r}\n"
        "@hookimpl\ndef corekit_register_plugins(registry): registry.add({})\n"
    )
    site.install("corekit-one", source.format("reports", "Mine"))
    site.install("corekit-wrong", source.format("other", "Mine()"))
    discovery = site.discover()
    offered = discovery.plugins()
    assert offered.names() == ["reports"]
    assert offered.find("reports").__name__ == "Mine"  # type: ignore[union-attr]
    assert offered.find("other") is None
    assert list(discovery.failures) == ["corekit-wrong"]
    site.install("corekit-two", source.format("reports", "Mine"))
    with pytest.raises(ConfigurationError, match=r"corekit-one and corekit-two.*'reports'"):
        site.discover().plugins()


def test_bridges_are_collected_in_order(site: Site) -> None:
    """Each plugin appends its own; one that fails adds none."""
    source = "@hookimpl\ndef corekit_register_bridges(bridges):\n    bridges.append({})\n    {}\n"
    site.install("corekit-1", source.format("repr", ""))
    site.install("corekit-2", source.format("str", "raise RuntimeError"))
    site.install("corekit-3", source.format("len", ""))
    discovery = site.discover()
    assert [*map(id, discovery.bridges())] == [id(repr), id(len)]
    assert list(discovery.failures) == ["corekit-2"]


# --- building an adapter ------------------------------------------------------------------------


def lock_plugin(factory: Callable[..., Any]) -> Discovery:
    """Return a discovery with one lock backend for `mine://`."""
    return discover(
        {"corekit-mine": plugin(lambda registry: registry.add_lock("mine", factory))}, []
    )


def test_an_adapter_is_built_by_its_factory() -> None:
    """The factory is given the URL and the context."""
    given: list[object] = []

    def factory(*arguments: object) -> Lock:
        given.extend(arguments)
        return Lock()

    assert isinstance(build(lock_plugin(factory), "mine://host:1/x?a=b"), Lock)
    assert given == [BackendURL.parse("mine://host:1/x?a=b"), CONTEXT]


def test_an_unknown_scheme_names_what_is_installed_and_the_closest_match() -> None:
    """The error helps to write what was meant."""
    with pytest.raises(AdapterNotFound) as caught:
        build(lock_plugin(make), "mines://x")
    assert (
        str(caught.value) == "lock: no adapter for mines://; installed: mine; did you mean mine://"
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("scheme", "advice"),
    [
        ("redis", "; pip install corekit-redis"),
        ("zmq+local", "; pip install corekit-zeromq"),
        ("zqm", "; did you mean zmq://; pip install corekit-zeromq"),
        ("rabbitmq", "; did you mean amqp://; pip install corekit-rabbitmq"),
        ("etcd3", "; did you mean etcd://; pip install corekit-etcd"),
        ("unheard-of", ""),
    ],
)
def test_a_scheme_that_is_known_but_not_installed_says_what_to_install(
    scheme: str, advice: str
) -> None:
    """The command can be copied."""
    with pytest.raises(AdapterNotFound) as caught:
        build(lock_plugin(make), f"{scheme}://x")
    assert str(caught.value) == f"lock: no adapter for {scheme}://; installed: mine{advice}"


def test_a_backend_that_is_installed_but_failed_is_not_to_be_installed(site: Site) -> None:
    """Its failure is told, and is the cause, whatever else has failed."""
    site.install("corekit-a", "import something_else")
    site.install("corekit_zeromq", "import no_such_driver")
    discovery = site.discover()
    with pytest.raises(AdapterNotFound) as caught:
        build(discovery, "zmq://x")
    assert "pip install" not in str(caught.value)
    assert "corekit-zeromq is installed but failed: ModuleNotFoundError" in str(caught.value)
    assert "no_such_driver" in str(caught.value.__cause__)


def test_a_component_that_the_backend_lacks_is_told(site: Site) -> None:
    """It is no silent fall-back: the error says which parameter to set, to what is there."""
    discovery = discover(
        {
            "corekit-mine": plugin(lambda registry: registry.add_lock("mine", make)),
            "corekit-other": plugin(lambda registry: registry.add_cache("other", make)),
        },
        [],
    )
    with pytest.raises(ConfigurationError) as caught:
        build(discovery, "mine://x", "cache")
    assert not isinstance(caught.value, AdapterNotFound)
    assert str(caught.value) == (
        "mine:// offers no cache adapter: give the App a URL for it, such as "
        "cache='other://...'; installed for cache: other"
    )


def fail(*_: object) -> None:
    """Fail as a careless third party does."""
    raise ValueError("cannot use user:secret")


async def asynchronous(*_: object) -> Lock:
    """Be async where it must not."""
    return Lock()


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (lambda *_: None, "returned None, which is no lock adapter: it lacks acquire, close, "),
        (lambda *_: 7, "returned 7, which is no lock adapter"),
        (lambda: None, "failed with TypeError"),
        (fail, "failed with ValueError"),
        (asynchronous, "must be a plain function, not async"),
    ],
    ids=["None", "7", "arguments", "raises", "async"],
)
def test_a_factory_that_does_not_make_an_adapter_is_told(
    factory: Callable[..., Any], reason: str
) -> None:
    """The error names component, scheme and distribution; no secret is in it."""
    with pytest.raises(ConfigurationError) as caught:
        build(lock_plugin(factory), "mine://user:secret@x")
    text = str(caught.value)
    assert text.startswith("lock: the factory of mine:// in corekit-mine ")
    assert reason in text
    assert "secret" not in text


def test_errors_of_corekit_pass_a_factory() -> None:
    """A factory that refuses its URL says so itself."""

    def factory(url: BackendURL, _: AdapterContext) -> Lock:
        url.refuse_other_options()
        return Lock()

    with pytest.raises(ConfigurationError, match="unknown option 'wrong'; it takes none"):
        build(lock_plugin(factory), "mine://x?wrong=1")


def test_a_driver_that_fails_to_import_is_told_when_it_is_asked_for() -> None:
    """The distribution is installed, its driver is not: AdapterNotFound with the cause."""

    def factory(*_: object) -> None:
        sys.modules["no_such_driver"] = None  # type: ignore[assignment]
        try:
            import no_such_driver  # type: ignore[import-not-found]  # noqa: F401
        finally:
            del sys.modules["no_such_driver"]

    with pytest.raises(AdapterNotFound, match=r"corekit-mine is installed, but") as caught:
        build(lock_plugin(factory), "mine://x")
    assert isinstance(caught.value.__cause__, ImportError)
    assert "no_such_driver" in str(caught.value)
