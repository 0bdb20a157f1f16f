from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from corekit_benchmarks import measure as measuring
from corekit_benchmarks.contracts import RATE, About, Sample, Stage
from corekit_benchmarks.measure import Case, measure, planned, unmeasured
from corekit_benchmarks.processes import RoleFailed, stage
from corekit_benchmarks.results import CaseResult
from corekit_benchmarks.run import Plan
from corekit_benchmarks.settings import Settings
from corekit_benchmarks.subjects import Subject, backend_subjects
from corekit_benchmarks.workloads import find_workload

from .test_workloads import silent

_BROKE = RoleFailed("client: it broke")


class Recorder:
    """A workload that notes on whom it runs, and fails where it is told, or never ends there."""

    def __init__(
        self,
        fails_on: str = "",
        *,
        error: Exception | None = _BROKE,
        **about: Any,
    ) -> None:
        self.error = error
        self.about = About("lock.recorder", "lock", "{payload} B", (RATE,), **about)
        self.fails_on = fails_on
        self.order: list[str] = []

    async def run(self, stage: Stage) -> Sample:
        self.order.append(repr(stage).split()[2])
        if self.order[-1] == self.fails_on:
            if self.error is None:
                await asyncio.Event().wait()
            else:
                raise self.error
        return Sample({"rate": float(len(self.order))})


def subject(name: str, **others: object) -> Subject:
    """Return a subject that nobody connects to."""
    described = {"promise": "-", "durable": False, "shared": True, "statement": "import x"}
    return Subject(name, "lock", **{**described, **others})  # type: ignore[arg-type]


async def found(case: Case, subjects: list[Subject], repeat: int, directory: Path) -> CaseResult:
    """Return what *case* finds."""
    result = unmeasured(case, subjects)
    await measure(case, subjects, result, repeat, directory, silent)
    return result


async def test_subjects_take_turns(tmp_path: Path) -> None:
    """A B C A B C: what slows the machine for a while meets all alike."""
    recorder = Recorder()
    subjects = [subject(name) for name in "ABC"]
    result = await found(Case(recorder, Settings()), subjects, 2, tmp_path)
    assert recorder.order == list("ABCABC")
    assert [line.values("rate") for line in result.lines] == [[1, 4], [2, 5], [3, 6]]


async def test_a_subject_that_fails_is_left_out(tmp_path: Path) -> None:
    """Its line says why, and the others go on."""
    recorder = Recorder(fails_on="B")
    subjects = [subject(name) for name in "ABC"]
    result = await found(Case(recorder, Settings()), subjects, 2, tmp_path)
    assert recorder.order == list("ABCAC")
    assert [line.failure for line in result.lines] == ["", "client: it broke", ""]
    first = result.first()
    assert first is not None
    assert first.subject == "A"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no\nsuch"), "ValueError: no such"),
        (
            ExceptionGroup("", [RoleFailed("a"), ExceptionGroup("", [KeyError("b")])]),
            "a; KeyError: 'b'",
        ),
    ],
)
async def test_whatever_one_subject_does_the_others_go_on(
    error: Exception, reason: str, tmp_path: Path
) -> None:
    """Errors that nobody thought of are told like those that roles tell."""
    recorder = Recorder(fails_on="A", error=error)
    result = await found(Case(recorder, Settings()), [subject("A"), subject("B")], 2, tmp_path)
    assert [line.failure for line in result.lines] == [reason, ""]
    assert len(result.lines[1].repetitions) == 2


async def test_a_repetition_has_a_limit(tmp_path: Path) -> None:
    """One that goes on and on, however much it tells, is given up."""
    recorder = Recorder(fails_on="A", error=None)
    case = Case(recorder, Settings(limit=0.05))
    result = await found(case, [subject("A"), subject("B")], 1, tmp_path)
    assert result.lines[0].failure == "it took longer than 0.05 s"
    assert result.lines[1].repetitions


def test_how_often_a_case_is_measured() -> None:
    """As often as asked; where processes differ much more often, and the points of curves less."""

    def often(scaled: str = "", **about: Any) -> int:
        case = Case(Recorder(**about), Settings(), scaled)
        return Plan([case], [subject("a")], 3, Settings(), "", {}).size

    assert often() == 3
    assert often(repeat_times=4) == 12
    assert often(repeat_times=4, repeat_at_most=5) == 5
    assert often("payload", repeat_times=4) == often("payload") == 1
    assert often("payload", repeats_curves=True) == 3


async def test_what_takes_long_is_not_repeated(tmp_path: Path) -> None:
    """A time-out of half a minute is not waited for three times; nothing failed."""
    recorder = Recorder(repeat_within=0)
    result = await found(Case(recorder, Settings()), [subject("A"), subject("B")], 3, tmp_path)
    assert recorder.order == list("AB")
    assert [line.failure for line in result.lines] == ["", ""]


async def test_one_process_is_not_asked_for_what_needs_several(tmp_path: Path) -> None:
    """A workload that kills a consumer says of memory that it is not measured."""
    recorder = Recorder(needs_shared=True)
    alone = [subject("A", shared=False)]
    result = await found(Case(recorder, Settings()), alone, 2, tmp_path)
    assert recorder.order == []
    assert "one process" in result.lines[0].failure


def test_only_ours_are_filled_to_the_brim() -> None:
    """A queue of a million messages is measured on backends only."""
    queue = find_workload("queue.depth")
    peer, ours = subject("P", peer="nats"), subject("A")
    both = [
        measuring.Subject(**{**_fields(each), "component": "event_queue"}) for each in (peer, ours)
    ]
    deep = Case(queue, Settings(depth=1_000_000), "depth")
    assert [each.name for each in deep.subjects(both)] == ["A"]
    assert len(Case(queue, Settings(depth=1000), "depth").subjects(both)) == 2


def _fields(subject: Subject) -> dict[str, object]:
    return {name: getattr(subject, name) for name in Subject.__slots__}


def test_scales_apply_where_the_setting_means_something() -> None:
    """A varied payload gives points to workloads that have one; each workload is measured as is."""
    workloads = [find_workload("cache.set"), find_workload("cache.miss")]
    cases = planned(workloads, Settings(), {"payload": (1.0, 2.0)}, own_scales=False)
    found = [(case.workload.about.name, case.scaled, case.settings.payload) for case in cases]
    assert found == [
        ("cache.set", "", 256),
        ("cache.set", "payload", 1),
        ("cache.set", "payload", 2),
        ("cache.miss", "", 256),
    ]
    proposed = planned(workloads, Settings(), {}, own_scales=True)
    assert {case.scaled for case in proposed} == {"", "payload"}


async def test_a_role_that_fails_tells_its_reason(tiny: Settings, tmp_path: Path) -> None:
    """The error of a client in another process reaches the director."""
    (broken,) = backend_subjects("memory://", "cache")
    workload = find_workload("cache.get")
    broken = replace(broken, url="nowhere://")
    result = await found(Case(workload, tiny), [broken], 1, tmp_path)
    assert "AdapterNotFound" in result.lines[0].failure


async def test_roles_share_a_process_if_they_are_told_so(tiny: Settings, tmp_path: Path) -> None:
    """A hundred subscribers need no hundred interpreters; others have a process of their own."""
    workload = find_workload("start.open")
    (alone,) = backend_subjects("memory://", "cache")
    before = len(psutil.Process(os.getpid()).children())
    async with stage(workload, replace(alone, shared=True), tiny, tmp_path) as it:
        for process in (0, 1, 0, 1, None):
            role = await it.start("client", process)
            assert (await role.receive())["time"] > 0
        assert len(psutil.Process(os.getpid()).children()) == before + 3


async def test_a_role_that_dies_is_noticed(tiny: Settings, tmp_path: Path) -> None:
    """The end of a process fails what waits for its role, at once."""
    (memory,) = backend_subjects("memory://", "cache")
    async with stage(find_workload("cache.get"), memory, tiny, tmp_path) as it:
        client = await it.start("client")
        await client.receive()
        await client.kill()
        with pytest.raises(RoleFailed, match="status -9"):
            await client.receive()


async def test_a_silent_role_fails(tiny: Settings, tmp_path: Path) -> None:
    """Nobody waits for ever for a role that says nothing: not to open, nor for what it tells."""
    (memory,) = backend_subjects("memory://", "cache")
    several, hasty = replace(memory, shared=True), replace(tiny, patience=0.01)
    async with stage(find_workload("cache.get"), several, hasty, tmp_path) as it:
        with pytest.raises(RoleFailed, match=r"said nothing for 0\.01 s"):
            await it.start("client")
    async with stage(find_workload("cache.get"), several, tiny, tmp_path) as it:
        await it.start("client")
        it.settings = hasty
        second = await it.start("client")
        with pytest.raises(RoleFailed, match=r"said nothing for 0\.01 s"):
            await second.receive()


async def test_the_first_client_is_open_before_another_begins(
    tiny: Settings, tmp_path: Path
) -> None:
    """One client alone creates what a server lacks; those after it open side by side."""
    (memory,) = backend_subjects("memory://", "cache")
    several = replace(memory, shared=True)
    async with stage(find_workload("cache.get"), several, tiny, tmp_path) as it:
        assert "client open " in repr(await it.start("client"))
        assert "client opening " in repr(await it.start("client"))


async def test_nothing_runs_on_after_a_repetition(tiny: Settings, tmp_path: Path) -> None:
    """All processes of a stage have ended when it is left, by an error too."""
    (memory,) = backend_subjects("memory://", "lock")
    before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}

    async def interrupted() -> None:
        async with stage(find_workload("lock.uncontended"), memory, tiny, tmp_path) as it:
            await it.start("client")
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await interrupted()
    after = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    assert after <= before
