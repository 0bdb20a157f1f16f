from __future__ import annotations

from pathlib import Path

import pytest
from corekit_benchmarks.report import speed_table
from corekit_benchmarks.results import Results
from corekit_benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[2]
RUN = ROOT / "benchmarks" / "results" / "full.json"

committed = pytest.mark.skipif(not RUN.exists(), reason="no full run is committed")


@committed
def test_the_table_of_the_readme_is_that_of_the_committed_run() -> None:
    """Nobody has written a figure by hand, and none is older than the run."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert speed_table.markdown(Results.load(RUN)) in readme


@committed
def test_the_committed_run_is_a_full_one() -> None:
    """It has every workload, and was not stopped."""
    results = Results.load(RUN)
    assert {case.workload for case in results.cases} == {each.about.name for each in WORKLOADS}
    assert "the rest" not in results.not_measured
