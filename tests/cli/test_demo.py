"""`corekit demo`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from corekit.cli.demo import Report, demo
from corekit.cli.indexer import measure


def test_it_counts_each_file_once() -> None:
    """On real input over memory every file is counted once, and the exit code is 0."""
    root = Path(json.__file__).parent
    result = CliRunner().invoke(demo, [str(root), "--backend", "memory://", "--instances", "3"])
    assert result.exit_code == 0, result.output
    files = sorted(root.rglob("*.py"))
    lines = sum(measure(file, "")["lines"] for file in files)
    figures = [line.strip("│ ").split("│") for line in result.output.splitlines() if "│" in line]
    shown = {cells[0].strip(): cells[1].strip() for cells in figures}
    assert shown["files"] == str(len(files))
    assert shown["lines"] == str(lines)
    assert (shown["lost"], shown["duplicates"]) == ("0", "0")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"lost": 1}, "1 files lost"),
        ({"duplicates": 2}, "2 files counted twice"),
        ({"set_ups": 2}, "set up 2 times"),
        ({"told_word": 1}, "the new word reached 1 of 2"),
        ({"told_cancel": 1}, "the cancel reached 1 of 2"),
    ],
)
def test_a_wrong_figure_is_a_problem(wrong: dict[str, int], text: str) -> None:
    """Anything lost, doubled, set up twice or not told is a problem; a clean run has none."""
    good = {"set_ups": 1, "told_word": 2, "told_cancel": 2}
    assert Report(files=3, **good).problems(instances=2) == []
    assert Report(files=3, **{**good, **wrong}).problems(instances=2) == [text]


def test_a_directory_without_sources_is_refused(tmp_path: Path) -> None:
    """There must be something to index."""
    result = CliRunner().invoke(demo, [str(tmp_path)])
    assert result.exit_code == 1
    assert "no Python files" in result.output


def test_the_command_line_tells_what_it_needs() -> None:
    """Without click the script says what to install instead of a traceback."""
    program = "import sys; sys.modules['click'] = None; from corekit.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    assert "pip install 'corekit[cli]'" in run.stderr
