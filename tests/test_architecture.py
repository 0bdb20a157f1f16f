"""The rules that keep the code in its grid, read from the source with `ast`.

Imports under `if TYPE_CHECKING:` do not count: they are for annotations only.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_MODULE = 400
LONGEST_USUAL_FUNCTION = 30

CORE = sorted(ROOT.glob("corekit/**/*.py"))
BACKENDS = sorted(ROOT.glob("backends/*/corekit_*/**/*.py"))
SOURCES = [*CORE, *BACKENDS]

#: What everything else stands on.
FOUNDATION = {
    "arguments",
    "clock",
    "config",
    "containers",
    "errors",
    "extensions",
    "foreign",
    "lifecycle",
    "names",
    "serialization",
    "tasks",
    "timers",
    "transactions",
    "signals",
    "worker_mode",
}
MEMORY_AND_BACKENDS = {
    *("adapters", "arguments", "clock", "config", "errors", "lifecycle", "plugins", "tasks"),
    "timers",
}

#: What a part of corekit may import, beside itself. A part is a package or a top-level module.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "adapters": {"errors", "clock"},
    "bridges": {"arguments", "errors"},
    "registry": {"adapters", "arguments", "config", "errors", "serialization"},
    "plugins": {"adapters", "arguments", "config", "errors", "registry", "serialization"},
    "plugin": {"arguments", "errors", "names"},
    "managers": {
        *("adapters", "arguments", "clock", "errors", "lifecycle", "names"),
        *("serialization", "tasks", "timers"),
    },
    "memory": MEMORY_AND_BACKENDS,
    "app": {
        *("adapters", "app_lifecycle", "managers", "memory", "plugin", "plugins", "registry"),
        *FOUNDATION,
    },
    "app_lifecycle": {"errors", "lifecycle"},
    # The name `corekit` stands for the public interface.
    "testing": {
        *("adapters", "arguments", "clock", "config", "corekit", "errors", "memory", "names"),
        *("plugins", "serialization", "tasks"),
    },
    "cli": {"corekit", "adapters", "memory", "plugins", "registry", *FOUNDATION},
    "__main__": {"cli"},
    **{module: FOUNDATION | {"bridges"} for module in FOUNDATION - {"errors", "clock"}},
}

#: Who may import what is neither of ours nor of the standard library.
THIRD_PARTIES = {
    "pluggy": ("corekit/plugins.py",),
    "msgpack": (
        *("corekit/serialization.py", "corekit/extensions.py", "corekit/foreign.py"),
        "backends/",
    ),
    "sqlalchemy": ("corekit/bridges/sqlalchemy.py",),
    "django": ("corekit/bridges/django.py",),
    "pytest": ("corekit/testing/",),
    "click": ("corekit/cli/", "backends/"),
    "rich": ("corekit/cli/",),
    "zmq": ("backends/zeromq/",),
    "etcd3aio": ("backends/etcd/",),
    "grpc": ("backends/etcd/",),
    "redis": ("backends/redis/",),
    "aio_pika": ("backends/rabbitmq/",),
    "aiormq": ("backends/rabbitmq/",),
    "nats": ("backends/nats/",),
}

#: Who may ask the `time` module, and why.
MAY_ASK_THE_TIME = {
    "corekit/clock.py": "it is the clock",
    "corekit/cli/": "it measures and waits for real programs, and runs outside of any App",
    "corekit/testing/": "tests have deadlines in real time",
}

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


class Import(NamedTuple):
    """One module that another one imports."""

    module: str
    line: int
    at_top: bool


def name_of(path: Path) -> str:
    """Return the file's path as it stands in failures."""
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """Return the dotted name of the module in *path*."""
    parts = list(path.with_suffix("").relative_to(ROOT).parts)
    if parts[0] == "backends":
        parts = parts[2:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return the part of corekit that *module* belongs to."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] or first


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of *path*."""
    return ast.parse(path.read_text(encoding="utf-8"))


MODULES = {module_of(path) for path in SOURCES}


def imports(path: Path) -> Iterator[Import]:
    """Yield what *path* imports at run time, by absolute names."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    yield from _imports(parsed(path).body, package, at_top=True)


def _imports(body: Sequence[ast.stmt], package: list[str], *, at_top: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_top)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield Import(full if full in MODULES else source, node.lineno, at_top)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _imports(node.orelse, package, at_top=at_top)
        else:
            # What a class or function holds is imported when it is called.
            called = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = [
                child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)
            ]
            yield from _imports(inner, package, at_top=at_top and not called)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method in *path*."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has, its docstring left out."""
    end = function.end_lineno or function.lineno
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        return end - (first.end_lineno or first.lineno) + (first.lineno - function.lineno)
    return end - function.lineno + 1


every_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)
every_core_source = pytest.mark.parametrize(
    "path", [path for path in CORE if module_of(path) != "corekit"], ids=name_of
)


@every_core_source
def test_each_part_imports_only_what_stands_below_it(path: Path) -> None:
    """Managers know no backend, adapters know no manager, and nobody below knows the App."""
    me = part_of(module_of(path))
    assert me in MAY_IMPORT, f"say in MAY_IMPORT what {me} may import"
    wrong = [
        f"{name_of(path)}:{each.line} imports {each.module}"
        for each in imports(path)
        if each.module.split(".")[0] == "corekit"
        and part_of(each.module) not in MAY_IMPORT[me] | {me}
    ]
    assert wrong == []


@pytest.mark.parametrize("path", BACKENDS, ids=name_of)
def test_backends_use_the_contracts_as_any_third_party(path: Path) -> None:
    """A backend imports contracts, plugins, configuration and errors: no policy, no App."""
    wrong = [
        f"{name_of(path)}:{each.line} imports {each.module}"
        for each in imports(path)
        if each.module.split(".")[0] == "corekit"
        and part_of(each.module) not in MEMORY_AND_BACKENDS | {"corekit"}
    ]
    assert wrong == []


def test_nobody_but_the_package_imports_the_app() -> None:
    """`corekit/__init__.py` alone imports `corekit.app`; others use `corekit.App`."""
    importers = {
        name_of(path) for path in SOURCES for each in imports(path) if each.module == "corekit.app"
    }
    assert importers <= {"corekit/__init__.py"}


def test_testing_does_not_load_the_app_by_itself() -> None:
    """The suites are for adapters: they may use the App inside of functions only."""
    wrong = [
        f"{name_of(path)}:{each.line}"
        for path in CORE
        if part_of(module_of(path)) == "testing"
        for each in imports(path)
        if each.at_top and each.module in {"corekit", "corekit.app"}
    ]
    assert wrong == []


def test_modules_import_each_other_without_cycles() -> None:
    """What is imported at the top of a module can be read before it."""
    packages = {module_of(path) for path in SOURCES if path.name == "__init__.py"}
    graph = {
        module_of(path): {
            each.module
            for each in imports(path)
            # A package's __init__ re-exports its modules, which import each other directly.
            if each.at_top and each.module in MODULES - packages
        }
        for path in SOURCES
        if path.name != "__init__.py"
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"cycle: {' -> '.join(error.args[1])}")
    assert order.index("corekit.errors") < order.index("corekit.arguments")


@every_source
def test_third_parties_are_imported_where_they_belong(path: Path) -> None:
    """Core needs pluggy in one file and msgpack in one place; a driver is its backend's alone."""
    ours = {"corekit", *(part.name for part in ROOT.glob("backends/*/corekit_*"))}
    for each in imports(path):
        top = each.module.split(".")[0]
        if top in sys.stdlib_module_names or top in ours:
            continue
        places = THIRD_PARTIES.get(top, ())
        assert name_of(path).startswith(places), f"{name_of(path)}:{each.line} imports {top}"


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in BACKENDS
        if path.name == "__init__.py" and path.parent.parent.parent == ROOT / "backends"
    ],
    ids=name_of,
)
def test_a_backends_init_imports_no_driver(path: Path) -> None:
    """An installed backend that is not used costs nothing at import."""
    for each in imports(path):
        top = each.module.split(".")[0]
        if each.at_top:
            assert top == "corekit" or top in sys.stdlib_module_names, f"line {each.line}: {top}"


@every_source
def test_modules_are_short(path: Path) -> None:
    """One idea per file: at most 400 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


def test_functions_are_short(record_property: Callable[[str, object], None]) -> None:
    """Nine of ten functions have at most 30 lines, docstring left out."""
    lengths = [length(function) for path in SOURCES for function in functions(path)]
    p90 = statistics.quantiles(lengths, n=10)[-1]
    record_property("functions", len(lengths))
    record_property("p90", p90)
    assert p90 <= LONGEST_USUAL_FUNCTION


def test_no_module_is_a_drawer() -> None:
    """A file is named after what is in it."""
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "base", "tools"}
    assert [name_of(path) for path in SOURCES if path.stem in drawers] == []


@every_source
def test_the_time_comes_from_the_clock(path: Path) -> None:
    """`time.time`, `time.monotonic`, `time.sleep` and `datetime.now` are the clock's business."""
    if name_of(path).startswith(tuple(MAY_ASK_THE_TIME)):
        return
    asked = {"time.time", "time.monotonic", "time.sleep", "time.time_ns", "time.monotonic_ns"}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            assert text not in asked, f"line {node.lineno}: {text}"
            assert not text.endswith(("datetime.now", "datetime.utcnow", "date.today")), node.lineno
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            pytest.fail(f"line {node.lineno}: from time import ...")


@every_source
def test_nothing_is_executed_that_came_from_outside(path: Path) -> None:
    """No pickle, no eval: what another process sent is data."""
    for each in imports(path):
        assert each.module.split(".")[0] not in FORBIDDEN_MODULES, each.line
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}, node.lineno


@every_source
def test_every_module_begins_with_the_future_and_a_docstring(path: Path) -> None:
    """The docstring says what the module is for; annotations are never evaluated."""
    tree = parsed(path)
    assert ast.get_docstring(tree), "no docstring"
    if any(isinstance(node, ast.AnnAssign | ast.arg) for node in ast.walk(tree)):
        future = [node for node in tree.body if isinstance(node, ast.ImportFrom)][:1]
        assert future, "no import of annotations"
        assert future[0].module == "__future__"


@every_source
def test_objects_with_state_show_it(path: Path) -> None:
    """A public class that has an `__init__` has a `__repr__`, of its own or inherited."""
    classes = {node.name: node for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)}

    def shows_itself(node: ast.ClassDef) -> bool:
        methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
        # Bases from elsewhere bring theirs, as exceptions and enums do.
        return "__repr__" in methods or any(
            base not in classes or shows_itself(classes[base])
            for base in bases
            if not base.startswith(("Protocol", "Generic"))
        )

    silent = [
        name
        for name, node in classes.items()
        if not name.startswith("_")
        and any(isinstance(each, ast.FunctionDef) and each.name == "__init__" for each in node.body)
        and not shows_itself(node)
    ]
    assert silent == []


@every_source
def test_no_checks_by_assert(path: Path) -> None:
    """`python -O` must not change what is checked; suites are tests and may assert."""
    if part_of(module_of(path)) == "testing":
        return
    assert [node.lineno for node in ast.walk(parsed(path)) if isinstance(node, ast.Assert)] == []


def test_the_rules_can_fail(tmp_path: Path) -> None:
    """The reader of imports sees what it must, and leaves out what is for annotations only."""
    source = """
from typing import TYPE_CHECKING
from . import memory
from .managers.cache import Cache
import msgpack.fallback
if TYPE_CHECKING:
    from .app import App
else:
    import pluggy
class Class:
    def method(self):
        if self:
            from .app import App
try:
    import zmq
except ImportError:
    pass
"""
    found = {
        (each.module, each.at_top)
        for each in _imports(ast.parse(source).body, ["corekit"], at_top=True)
    }
    assert found == {
        ("typing", True),
        ("corekit.memory", True),
        ("corekit.managers.cache", True),
        ("msgpack.fallback", True),
        ("pluggy", True),
        ("corekit.app", False),
        ("zmq", True),
    }
    text = 'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    return a\n'
    (function,) = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert length(function) == 4
