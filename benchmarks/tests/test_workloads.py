from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from corekit_benchmarks.contracts import Workload
from corekit_benchmarks.measure import Case, measure, unmeasured
from corekit_benchmarks.peers import PEERS, load_peer
from corekit_benchmarks.results import Line
from corekit_benchmarks.servers import SERVERS, ServerMissing, running
from corekit_benchmarks.settings import Settings
from corekit_benchmarks.subjects import Subject, backend_subjects, peer_subjects
from corekit_benchmarks.workloads import WORKLOADS, find_workload, matching

from corekit.testing import missing

every_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each.about.name)

#: What shows of each component whether a peer works.
REPRESENTATIVES = {
    "cache": ("cache.mixed", "cache.stampede"),
    "pub_sub": ("pub_sub.throughput", "pub_sub.latency"),
    "event_queue": ("queue.throughput", "queue.latency_under_load", "queue.depth"),
    "lock": ("lock.uncontended", "lock.contended"),
}


#: What some peers say that they do not offer.
LACKING = ("client: it does not cache functions", "contenders: two writes exclude nobody")


def silent(what: str, *, done: int = 0) -> None:
    """Tell nobody."""


async def measured(
    workload: Workload, subjects: list[Subject], settings: Settings, directory: Path
) -> list[Line]:
    """Return the lines of one repetition."""
    case = Case(workload, settings)
    result = unmeasured(case, subjects)
    await measure(case, subjects, result, 1, directory, silent)
    return result.lines


def check(workload: Workload, line: Line) -> None:
    """Check that *line* has all that *workload* promises."""
    assert line.failure == ""
    (repetition,) = line.repetitions
    expected = {figure.name for figure in workload.about.figures if "server" not in figure.name}
    assert expected <= set(repetition.figures)
    assert repetition.figures.get("lost", 0) == 0
    main = workload.about.figures[0]
    if main.unit in {"/s", "s"}:
        assert repetition.figures[main.name] > 0


def served(url: str, subjects: list[Subject]) -> list[Subject]:
    """Return *subjects* with the URL of the server that was started for them."""
    return [replace(subject, url=url) for subject in subjects]


@every_workload
async def test_every_workload_measures_memory(
    workload: Workload, tiny: Settings, tmp_path: Path
) -> None:
    """Each workload finds all its figures in one process, or says why it cannot."""
    (line,) = await measured(workload, _of(workload, "memory://"), tiny, tmp_path)
    if workload.about.needs_shared:
        assert "one process" in line.failure
    else:
        check(workload, line)


@pytest.mark.skipif(not find_spec("corekit_zeromq"), reason="corekit-zeromq is not installed")
@every_workload
async def test_every_workload_measures_processes_over_zmq(
    workload: Workload, tiny: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each workload finds all its figures among processes that share a broker."""
    broker = request.getfixturevalue("zmq_broker")
    subjects = served(broker.url, _of(workload, "zmq://"))
    (line,) = await measured(workload, subjects, tiny, tmp_path)
    check(workload, line)


@pytest.mark.skipif(not find_spec("corekit_etcd"), reason="corekit-etcd is not installed")
@pytest.mark.parametrize("name", ["cache.mixed", "lock.uncontended", "lock.contended"])
async def test_workloads_measure_processes_over_etcd(
    name: str, tiny: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A backend that offers some components only is measured on those."""
    server, workload = request.getfixturevalue("etcd_server"), find_workload(name)
    subjects = served(server.url, _of(workload, "etcd://"))
    (line,) = await measured(workload, subjects, tiny, tmp_path)
    check(workload, line)


@pytest.mark.parametrize("peer", PEERS)
async def test_peers_run_the_same_workloads(peer: str, tiny: Settings, tmp_path: Path) -> None:
    """Each offer of a peer whose library and server are installed finds the same figures."""
    subjects, absent = peer_subjects([peer])
    if absent:
        missing(absent[peer])
    for subject in subjects:
        if subject.server is None:
            await _check_peer(subject, tiny, tmp_path)
            continue
        try:
            with running(subject.server, tmp_path) as server:
                await _check_peer(replace(subject, url=server.url), tiny, tmp_path)
        except ServerMissing as error:
            missing(str(error))


async def _check_peer(subject: Subject, settings: Settings, directory: Path) -> None:
    for name in REPRESENTATIVES[subject.component]:
        workload = find_workload(name)
        (line,) = await measured(workload, [subject], settings, directory)
        if not line.failure.endswith(LACKING):
            check(workload, line)


def _of(workload: Workload, backend: str) -> list[Subject]:
    component = workload.about.component
    subjects = backend_subjects(backend)
    return [each for each in subjects if component in {None, each.component}][:1]


def test_names_are_unique_and_titles_complete() -> None:
    """A name means one workload; a title names settings that exist, and no others."""
    names = [workload.about.name for workload in WORKLOADS]
    assert len(set(names)) == len(names)
    for workload in WORKLOADS:
        assert "{" not in Case(workload, Settings()).title
        for setting in workload.about.scales:
            assert hasattr(Settings(), setting)


def test_a_kind_means_all_its_workloads() -> None:
    """`queue` stands for all that begin with "queue.", and nothing else."""
    assert [each.about.name for each in matching("queue.depth")] == ["queue.depth"]
    assert len(matching("queue")) == 5
    assert matching("que") == []


def test_peers_need_servers_that_are_known() -> None:
    """What a peer needs can be started, and what it is called is unique in its component."""
    seen = set()
    for name in PEERS:
        try:
            peer = load_peer(name)
        except ImportError:
            continue
        for offer in peer.offers:
            assert offer.server is None or offer.server in SERVERS
            assert (offer.component, offer.name) not in seen
            seen.add((offer.component, offer.name))
