"""A third party's view: two wheels in an environment of their own, and nothing of this checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: To build, and to install from an index, takes longer than a test usually may.
pytestmark = pytest.mark.timeout(300)

USE_BY_URL = """
import asyncio, json, sys
import corekit
from corekit import App

async def main():
    url = "example://shelf"
    async with App("shop", cache=url) as one, App("shop", cache=url) as two:
        await one.cache.set("key", {"found": (1, 2)})
        found = await two.cache.get("key")
    return {"found": repr(found), "corekit": corekit.__file__}

print(json.dumps(asyncio.run(main())))
"""

MISSING = """
from corekit import AdapterNotFound, App, ConfigurationError
import asyncio

async def main():
    for url in ("exampel://shelf", "example://shelf"):
        try:
            async with App("shop", lock=url):
                pass
        except ConfigurationError as error:
            print(type(error).__name__, error)

asyncio.run(main())
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program away from this checkout, and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the example's source and an environment in which both are installed."""
    place = tmp_path_factory.mktemp("third_party")
    # Building leaves files behind: it is done in a copy.
    core = place / "core"
    unwanted = shutil.ignore_patterns("__pycache__", "conftest.py")
    shutil.copytree(ROOT / "corekit", core / "corekit", ignore=unwanted)
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, core)
    example = place / "example"
    shutil.copytree(Path(__file__).parent / "third_party", example, ignore=unwanted)

    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", place / "wheels", core, example)
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv")
    core_wheel, example_wheel = sorted(
        (place / "wheels").glob("*.whl"), key=lambda path: "example" in path.name
    )
    install = ("--python", place / "venv/bin/python", "install", "--no-compile")
    run(*pip, *install, f"{core_wheel}[testing]", example_wheel)
    shutil.rmtree(core)
    shutil.rmtree(example / "corekit_example")
    return place


def test_an_adapter_is_found_and_used_by_its_url(place: Path) -> None:
    """Nothing but the entry point tells corekit of it; two Apps meet in it."""
    printed = json.loads(run(place / "venv/bin/python", "-c", USE_BY_URL, cwd=place))
    assert printed["found"] == "{'found': (1, 2)}"
    assert printed["corekit"].startswith(str(place / "venv"))


def test_what_it_does_not_offer_is_told(place: Path) -> None:
    """A misspelt scheme and a component that it lacks are errors that name what there is."""
    typo, lacking = run(place / "venv/bin/python", "-c", MISSING, cwd=place).splitlines()
    assert typo == (
        "AdapterNotFound lock: no adapter for exampel://; installed: example, memory; "
        "did you mean example://"
    )
    assert lacking == (
        "ConfigurationError example:// offers no lock adapter: give the App a URL for it, such as "
        "lock='memory://...'; installed for lock: memory"
    )


def test_its_suite_of_six_lines_proves_it(place: Path) -> None:
    """The suite that ships with corekit runs in the third party's own environment, and passes."""
    printed = run(place / "venv/bin/python", "-m", "pytest", "-q", cwd=place / "example")
    assert " passed" in printed
    assert "failed" not in printed


def test_its_suite_can_fail(place: Path) -> None:
    """A wrong adapter fails the clause that it breaks."""
    wrong = place / "example/tests/test_wrong.py"
    wrong.write_text(
        "from corekit_example.cache import DictSpace\n"
        "from test_cache import TestExample as Right\n"
        "class Forgetful(DictSpace):\n"
        "    async def set(self, key, value, lifetime):\n"
        "        await super().set(key, value, None)\n"
        "class TestWrong(Right):\n"
        "    def make_adapter(self):\n"
        "        adapter = super().make_adapter()\n"
        "        space = adapter.space\n"
        "        def forgetful(name, **options):\n"
        "            right = space(name, **options)\n"
        "            return Forgetful(right._all, right._clock)\n"
        "        adapter.space = forgetful\n"
        "        return adapter\n"
        "del Right\n"
    )
    try:
        done = subprocess.run(
            [place / "venv/bin/python", "-m", "pytest", "-q", "-rf", wrong],
            capture_output=True,
            text=True,
            cwd=place / "example",
            check=False,
        )
    finally:
        wrong.unlink()
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_collected_in_the_end" in [name.rpartition("::")[2] for name in failed]


def test_the_core_wheel_brings_nothing_else(place: Path) -> None:
    """Beside pytest's own, only pluggy and msgpack came with it; its types are marked."""
    listing = run(
        sys.executable, "-m", "pip", "--python", place / "venv/bin/python", "list", "--format=json"
    )
    names = {each["name"] for each in json.loads(listing)}
    pytests = {"pytest", "iniconfig", "packaging", "Pygments", "pygments"}
    assert names - pytests == {"corekit", "corekit-example", "msgpack", "pluggy"}
    (package,) = (place / "venv").glob("lib/python*/site-packages/corekit")
    assert (package / "py.typed").exists()
