from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from corekit_benchmarks.contracts import MEDIAN, P99, Figure
from corekit_benchmarks.report import page, speed_table, table
from corekit_benchmarks.report.plots import Axis, Curve, even_axis, lines, log_axis
from corekit_benchmarks.report.quantities import shown, shown_ratio, shown_spread
from corekit_benchmarks.results import CaseResult, Line, Repetition, Results
from corekit_benchmarks.workloads.event_queue import CONFIRMED
from rich.console import Console

from .conftest import case, line

VOID = {"meta"}
SECONDS, BYTES, RATE = Figure("t", "s", "less"), Figure("m", "B", "less"), Figure("r", "/s", "more")


class Reader(HTMLParser):
    """Checks that elements nest, and collects text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def reader(results: Results) -> Reader:
    """Return the page, read."""
    reader = Reader()
    reader.feed(page.html(results))
    reader.close()
    return reader


def test_the_page_is_well_formed(reader: Reader) -> None:
    """Every element is closed where it was opened; hostile names are text, not elements."""
    assert reader.open == []
    assert "b" not in reader.tags
    assert "<b>hostile</b> & co" in reader.text


def test_the_page_needs_nothing_else(results: Results, reader: Reader) -> None:
    """No element, style or script refers to anything outside of the page."""
    assert not {"script", "link", "img", "iframe", "object", "use", "image"} & set(reader.tags)
    assert not {"src", "href", "xlink:href", "srcset", "data"} & {
        name for name, _ in reader.attributes
    }
    assert not re.search(r"url\(|@import|https?://", page.html(results))


def test_the_page_shows_bars_distributions_and_curves(reader: Reader) -> None:
    """Each kind of plot is there, with names and values as text."""
    assert reader.tags.count("svg") >= 4
    for text in ("110/s", "latency; lower is better", "queue.depth: rate over depth", "99.9 %"):
        assert text in reader.text


def test_the_page_tells_what_was_not_measured(reader: Reader) -> None:
    """What is missing is told with its reason, in tables and at the end."""
    assert 'not measured: no server: "apt" <install> it' in reader.text
    assert "No module named 'arq'" in reader.text


def test_no_number_of_a_plot_is_impossible(results: Results) -> None:
    """Coordinates are finite."""
    assert not re.search(r'="[^"]*\b(nan|inf)\b', page.html(results))


def test_an_empty_run_has_a_page_too(results: Results) -> None:
    """Nothing fails where nothing was measured."""
    results.cases.clear()
    assert "corekit bench" in page.html(results)


def test_names_at_the_ends_of_curves_keep_apart() -> None:
    """Names of curves that end in one place stand below each other, inside of the plot."""
    curves = [Curve(f"c{number}", [(1, 1), (2, 10)], "#000") for number in range(9)]
    across = even_axis("x", [1, 2], str)
    up = log_axis("", [1, 10], str)
    svg = lines(curves, across, up, "title")
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)" class="value"', svg))
    assert len(heights) == 9
    assert all(after - before >= 13.9 for before, after in pairwise(heights))
    assert 0 <= heights[0] <= heights[-1] <= 300


@pytest.mark.parametrize("values", [[5.0], [1e-6, 2e-6], [1e-9, 10.0], [1.0, 10.0]])
def test_a_logarithmic_axis_holds_its_values(values: list[float]) -> None:
    """Every value stands between 0 and 1, and so do the ticks."""
    axis: Axis = log_axis("", values, str)
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert len(axis.ticks) >= 2
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value, _ in axis.ticks)


@pytest.mark.parametrize(
    ("value", "figure", "text"),
    [
        (None, RATE, "-"),
        (0.0, RATE, "0/s"),
        (70.0, RATE, "70/s"),
        (24_512.0, RATE, "24.5 k/s"),
        (2_510_000.0, RATE, "2.51 M/s"),
        (999_900.0, RATE, "1 M/s"),
        (0.000584, SECONDS, "584 µs"),
        (0.0, SECONDS, "0 s"),
        (3e-8, SECONDS, "30 ns"),
        (9.76, SECONDS, "9.76 s"),
        (-180_224.0, BYTES, "-176 KiB"),
        (12.0, BYTES, "12 B"),
        (0.875, Figure("u", "", "less"), "0.875"),
    ],
)
def test_numbers_have_three_digits_and_a_unit(
    value: float | None, figure: Figure, text: str
) -> None:
    """Quantities are written as people read them."""
    assert shown(value, figure) == text


def test_ratios_and_spreads_are_written_short() -> None:
    """Small ratios keep two digits behind the point, and what is not there is empty."""
    assert [shown_ratio(each) for each in (None, 0.0049, 1.0, 24.4)] == [
        "",
        "0.0049 x",
        "1.00 x",
        "24 x",
    ]
    assert [shown_spread(each) for each in (None, 0.034)] == ["", "± 3 %"]


def test_the_terminal_shows_every_line(results: Results) -> None:
    """Figures, ratios, guarantees, and why something is missing."""
    output = io.StringIO()
    table.show(results, Console(file=output, width=160))
    for text in ("cache.get", "110/s", "± 9 %", "0.10 x", "what it promises", "not measured: arq"):
        assert text in output.getvalue()


def test_the_readme_compares_with_the_goals(results: Results) -> None:
    """Ours over theirs, the deepest queue over the empty one, and nothing that was not measured."""
    text = speed_table.markdown(results)
    assert "| memory: `cache.get` | 110/s | cashews mem://: 11/s | 10 x | ≥ 6 x |" in text
    assert "to acknowledged, durable | 25/s | JetStream (what it promises): 10/s | 2.50 x |" in text
    assert "1,000,000 messages waiting | 90/s | the same with none: 100/s | 0.90 x |" in text
    assert "≥ 0.9 x |" in text
    assert "asyncio.Lock" not in text
    assert "2 cores of a processor" in text


def test_a_goal_that_was_missed_is_told(results: Results) -> None:
    """A ratio below its goal is not left to the reader's arithmetic."""
    results.cases = [case("pub_sub.throughput", line("zmq://", 15), line("nats-py core", 10))]
    assert "| 1.50 x | ≥ 2 x: missed |" in speed_table.markdown(results)


def test_a_confirmed_publish_is_compared_with_the_disk(results: Results) -> None:
    """Three times what the machine's disk takes, and a millisecond; the times are fractions."""
    figures = [MEDIAN, P99, CONFIRMED]
    for took, goal in ((0.0024, "≤ 3 x + 1 ms |"), (0.0026, "≤ 3 x + 1 ms: missed |")):
        found = Line("zmq://", "-", True, [Repetition({CONFIRMED.name: took}, [])])
        results.cases = [CaseResult("queue.latency", "", figures, lines=[found])]
        text = speed_table.markdown(results)
        disk = "fdatasync of 4 KiB: 500 µs, at rest 1 ms"
        assert f"| {disk} | {took / 0.0005:.2f} x | {goal}" in text


def test_a_hand_over_is_compared_with_a_write(results: Results) -> None:
    """Of the most contenders: their rate turned round, beside half of what two writes take."""
    two = Line("two bare etcd writes", "-", True, [Repetition({"rate": 1, "median": 0.002}, [])])
    results.cases = [
        CaseResult("lock.uncontended", "", [RATE, MEDIAN, P99], lines=[two]),
        case("lock.contended", line("etcd://", 500), scaled="contenders", value=100),
    ]
    text = speed_table.markdown(results)
    assert "hand-over among 100 | 2 ms | one bare etcd write: 1 ms | 2.00 x | ≤ 3 x |" in text


def test_subjects_that_meet_in_a_plot_differ_in_colour(results: Results) -> None:
    """Starting up, where all meet in bars alone, takes no colour from the ten of a component."""
    everybody = [line(f"subject {number}", 10) for number in range(14)]
    results.cases = [case("start.open", *everybody), case("queue.latency", *everybody[4:])]
    text = page.html(results)
    curves_only = text[text.index("queue.latency</h3>") : text.index("start.open</h3>")]
    assert len(set(re.findall(r'class="curve" stroke="(#\w+)"', curves_only))) == 10
