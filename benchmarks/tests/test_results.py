from __future__ import annotations

import json
from pathlib import Path

import pytest
from corekit_benchmarks.contracts import Sample
from corekit_benchmarks.results import SHARES, Line, Repetition, Results, curves
from hypothesis import given
from hypothesis import strategies as st

from .conftest import case, line


def test_the_spread_is_half_the_range() -> None:
    """The median is over the repetitions, and the spread their half range in shares of it."""
    found = line("a", 90, 100, 120)
    assert found.median("rate") == 100
    assert found.spread("rate") == pytest.approx(0.15)


def test_one_repetition_has_no_spread() -> None:
    """Nothing is made up where there is nothing to compare."""
    assert line("a", 90).spread("rate") is None
    assert Line("a", "-", durable=False).median("rate") is None


def test_ratios_are_taken_within_a_repetition() -> None:
    """A machine that is twice as slow for a while changes no ratio."""
    first, other = line("a", 100, 50, 20), line("b", 50, 100, 40)
    assert other.ratio("rate", first) == 2
    assert first.ratio("rate", first) == 1


def test_a_line_that_failed_halfway_is_compared_as_far_as_it_went() -> None:
    """What ran side by side is compared; the rest of the others is left out."""
    first, other = line("a", 100, 50, 100), line("b", 300)
    assert other.ratio("rate", first) == 3
    assert Line("c", "-", durable=False).ratio("rate", first) is None


def test_what_may_be_below_zero_has_no_ratio() -> None:
    """Memory that shrank is not minus two times anything."""
    assert line("a", -100).ratio("rate", line("b", 50)) is None
    assert line("a", 100).ratio("rate", line("b", 0)) is None


@given(st.lists(st.floats(1e-9, 10), min_size=1))
def test_a_distribution_rises_and_keeps_the_ends(latencies: list[float]) -> None:
    """It has a value for each share, from the shortest to the longest."""
    found = Repetition.of(Sample({}, sorted(latencies)))
    assert len(found.distribution) == len(SHARES)
    assert found.distribution == sorted(found.distribution)
    assert (found.distribution[0], found.distribution[-1]) == (min(latencies), max(latencies))
    assert found.figures["median"] in latencies


def test_known_latencies_have_known_quantiles() -> None:
    """The 99th percentile of 1 to 1001 is 991."""
    found = Repetition.of(Sample({}, [float(each) for each in range(1, 1002)]))
    assert found.figures == {"median": 501, "p99": 991}


def test_results_come_back_from_their_file(results: Results, tmp_path: Path) -> None:
    """What was saved is loaded as it was."""
    file = tmp_path / "results" / "run.json"
    results.save(file)
    assert Results.load(file) == results


@pytest.mark.parametrize("text", ["[]", '{"format": 0}', "{}"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    """A file of another format is told from one of ours."""
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="no results of format"):
        Results.load(file)


def test_results_hold_every_repetition(results: Results, tmp_path: Path) -> None:
    """The file has the raw figures, machine, versions and command, not only medians."""
    results.save(tmp_path / "run.json")
    stored = json.loads((tmp_path / "run.json").read_text())
    rates = [each["figures"]["rate"] for each in stored["cases"][0]["lines"][0]["repetitions"]]
    assert rates == [100, 120, 110]
    assert stored["command"].startswith("corekit bench")
    assert stored["machine"]["cores"] == 2
    assert stored["versions"] == {"corekit": "0.1.0"}


def test_curves_are_in_rising_order(results: Results) -> None:
    """The points of one varied setting belong together; cases without one are no points."""
    results.cases.reverse()
    (points,) = curves(results).values()
    assert [at for at, _ in points] == [0, 1000, 1_000_000]


def test_what_was_measured_anyway_is_a_point_of_its_curves(results: Results) -> None:
    """The case as the user chose it stands in the curve at the value that was chosen."""
    results.settings["depth"] = 10_000
    results.cases.append(case("queue.depth", line("zmq://", 97)))
    (points,) = curves(results).values()
    assert [(at, point.scaled) for at, point in points][2] == (10_000, "")
