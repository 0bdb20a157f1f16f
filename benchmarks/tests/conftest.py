from __future__ import annotations

from collections.abc import Iterator

import pytest
from corekit_benchmarks.contracts import MEDIAN, P99, RATE, Sample
from corekit_benchmarks.machine import SYNC, SYNC_AT_REST
from corekit_benchmarks.results import CaseResult, Line, Repetition, Results
from corekit_benchmarks.servers import Server, ServerMissing, running
from corekit_benchmarks.settings import Settings

from corekit.testing import missing

#: As little as shows that a workload works.
TINY = Settings(
    duration=0.05,
    payload=32,
    in_flight=4,
    processes=2,
    subscribers=2,
    channels=2,
    contenders=3,
    keys=5,
    callers=5,
    depth=50,
    rate=200,
    patience=40,
)


@pytest.fixture
def tiny() -> Settings:
    """Return settings under which every workload ends at once."""
    return TINY


@pytest.fixture(scope="session")
def zmq_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a broker for all tests."""
    yield from _server("zmq", tmp_path_factory)


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return an etcd server for all tests."""
    pytest.importorskip("corekit_etcd")
    yield from _server("etcd", tmp_path_factory)


def _server(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        with running(name, tmp_path_factory.mktemp("servers")) as server:
            yield server
    except ServerMissing as error:
        missing(str(error))


def line(subject: str, *rates: float, durable: bool = False, failure: str = "") -> Line:
    """Return a line with a repetition for each rate."""
    latencies = [number / 1e6 for number in range(1, 101)]
    repetitions = [Repetition.of(Sample({"rate": rate}, latencies)) for rate in rates]
    return Line(subject, "what it promises", durable, repetitions, failure)


def case(workload: str, *lines: Line, scaled: str = "", value: float = 0) -> CaseResult:
    """Return a case with *lines*."""
    figures = [RATE, MEDIAN, P99]
    return CaseResult(workload, f"title of {workload}", figures, scaled, value, list(lines))


@pytest.fixture
def results() -> Results:
    """Return what a run might have found."""
    return Results(
        command="corekit bench --backend memory://",
        begun="2026-01-02T03:04:05+00:00",
        seconds=12.5,
        repeat=3,
        settings={"duration": 1.0},
        machine={
            "processor": "a processor",
            "cores": 2,
            "python": "CPython 3.11",
            SYNC: 0.0005,
            SYNC_AT_REST: 0.001,
        },
        versions={"corekit": "0.1.0"},
        servers={"zmq": "0.1.0; queues: fsync before each confirmation"},
        cases=[
            case("cache.get", line("memory://", 100, 120, 110), line("cashews mem://", 10, 11, 12)),
            case(
                "queue.throughput",
                line("zmq://", 30, 20, 25, durable=True),
                line("JetStream", 10, 10, 10),
                line("<b>hostile</b> & co", failure='no server: "apt" <install> it'),
            ),
            *(
                case("queue.depth", line("zmq://", rate, rate), scaled="depth", value=depth)
                for depth, rate in ((0, 100), (1000, 95), (1_000_000, 90))
            ),
        ],
        not_measured={"arq": "No module named 'arq'"},
    )
