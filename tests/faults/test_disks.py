"""A disk that is full, and a journal whose end was lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from corekit_zeromq.broker import journal, schema
from corekit_zeromq.broker.journal import FILE, LOG

from corekit import App
from corekit.testing import eventually

from . import checkers, crashes
from .checkers import Finding
from .crashes import Journalist
from .history import Event
from .processes import SCALE, Broker, Run, nothing_left, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + scaled(60))]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the directory of a file system of 128 MiB: half of it is the reserve."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def refused(events: list[Event]) -> list[Event]:
    """Return the publishes that were refused for want of room."""
    failed = checkers.select(events, "publish", "fail")
    return [event for event in failed if event["error"].startswith("StorageFull")]


def fill(path: Path) -> None:
    """Take all room that is left."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return


async def test_a_full_disk_refuses_and_recovers(
    new_run: Callable[[], Run], small_disk: Path, tmp_path: Path
) -> None:
    """Publishes fail clearly while there is no room; nothing confirmed is lost; it goes on.

    First at the reserve, where jobs can still be done, which makes room; then with the reserve
    taken by somebody else.
    """
    async with new_run() as run:
        broker = Broker(tmp_path / "broker", data=small_disk / "data")
        run.own(broker)
        await run.client("publisher", "publisher1", broker.url, width=4, body=60_000)
        assert await run.until(lambda events: len(refused(events)) > 20, 30)
        await run.client("consumer", "consumer1", broker.url)
        begin = len(checkers.select(run.events(), "publish", "ok"))
        assert await run.until(lambda e: len(checkers.select(e, "publish", "ok")) > begin + 50, 30)
        # Without a consumer until it is full again; then without any room at all.
        await run.end(["consumer1"])
        count = len(refused(run.events()))
        assert await run.until(lambda events: len(refused(events)) > count + 20, 30)
        async with run.fault("full", "disk"):
            fill(small_disk / "hog")
            await run.client("consumer", "consumer2", broker.url)
            await asyncio.sleep(3)
            (small_disk / "hog").unlink()
        lived = broker.program is not None and broker.program.runs
        if not lived:
            broker.kill()
            await asyncio.to_thread(broker.start)
        later = len(checkers.select(run.events(), "publish", "ok"))
        assert await run.until(lambda e: len(checkers.select(e, "publish", "ok")) > later + 50, 30)
        await run.end(["publisher1"])
        await run.until(nothing_left, 60)
        await run.end(["consumer2"])
        events = run.events()
        figures = {"refused": len(refused(events)), "broker_lived": int(lived)}
        findings = [checkers.no_loss(events), checkers.attempts(events, 3), Finding(figures)]
        run.judge(*findings, checkers.faults(events))


async def published(url: str, record: Callable[..., None], log: Path) -> list[tuple[bytes, int]]:
    """Publish one by one; return, when each was confirmed, the log's salt and where it ended."""
    ends = []
    read = log.read_bytes
    async with App("faults", event_queue=url, worker_mode="-") as app:
        for number in range(150):
            facts = {"key": f"test-{number}", "channel": "q", "number": number}
            record("publish", "call", **facts)
            await app.event_queue.publish("q", number)
            record("publish", "ok", **facts)
            found = {LOG: read()}
            ends.append((crashes.salt(found), crashes.log_end(found)))
    return ends


async def delivered(url: str) -> list[int]:
    """Return all that a broker has, in the order of delivery."""
    numbers: list[int] = []
    app = App("faults", event_queue=url)

    async def process(message: int, context: object) -> None:
        numbers.append(message)

    async with App("faults", event_queue=url, worker_mode="-") as asking:
        ready = (await asking.event_queue.stats("q")).ready
    app.event_queue.subscribe("q", process)
    async with app:
        await eventually(lambda: len(numbers) >= ready)
    return numbers


async def test_a_journal_that_lost_its_end(new_run: Callable[[], Run], tmp_path: Path) -> None:
    """Whatever byte a journal's log was cut at, a broker has what was confirmed before that byte.

    It is delivered in order, without holes and without anything else.
    """
    async with new_run() as run:
        broker = run.broker()
        log = broker.data / LOG
        ends = await published(broker.url, run.record, log)
        broker.kill()
        # The others went to the database before the log was begun anew.
        salt, last = ends[-1]
        logged = [end for found, end in ends if found == salt]
        assert logged == sorted(logged)
        cuts = run.random.sample(range(logged[0], last + 1), scaled(6))
        for number, cut in enumerate(cuts):
            copy = Broker(tmp_path / f"copy{number}")
            shutil.copytree(broker.data, copy.data)
            os.truncate(copy.data / log.name, cut)
            async with run.fault("cut", str(cut)):
                await asyncio.to_thread(copy.start)
            try:
                numbers = await delivered(copy.url)
            finally:
                copy.kill()
            confirmed = len(ends) - sum(end > cut for end in logged)
            assert numbers == list(range(len(numbers)))
            assert confirmed <= len(numbers) <= confirmed + 1
        run.judge(Finding({"published": len(ends), "cuts": len(cuts)}))


#: Every so many bytes the log is cut; with a scale of 7 at each.
STEP = max(1, round(7 / SCALE))


def test_a_journal_cut_at_every_byte(tmp_path: Path, new_run: Callable[[], Run]) -> None:
    """Cut anywhere in its log, it holds exactly the commits before that."""
    run = new_run()
    live, copy = tmp_path / "live", tmp_path / "copy"
    live.mkdir()
    journalist = Journalist(live, run.random)
    journalist.publish(100)
    commits = [journalist.commit()]
    commits += [journalist.step(3000) for _ in range(20)]
    journalist.close()
    last = commits[-1].files
    ends = [crashes.log_end(commit.files) for commit in commits]
    assert ends == sorted(set(ends)), "each commit makes the log longer"
    near = {end + offset for end in ends for offset in (-1, 0, 1, 23, 24, 25)}
    cuts = near | set(range(ends[-5], ends[-1] + 1, STEP))
    cuts = {cut for cut in cuts if ends[0] <= cut <= ends[-1]}
    for cut in sorted(cuts):
        crashes.write(copy, last | {LOG: last[LOG][:cut]})
        confirmed = max(number for number, end in enumerate(ends) if end <= cut)
        assert crashes.state(copy) == commits[confirmed].state, cut
    run.judge(Finding({"commits": len(commits), "bytes_cut_at": len(cuts)}))


def test_a_power_cut_below_the_file_system(
    tmp_path: Path, new_run: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever sectors of what was not yet synced are on disk: a commit is whole or absent.

    Everything that was confirmed is there, also while a log is copied to the database and begun
    anew, which happens often here: the journal's own log, and sqlite's.
    """
    monkeypatch.setattr(schema, "_CHECKPOINT_PAGES", 40)
    monkeypatch.setattr(journal, "_MOST_LOGGED", 3)
    run = new_run()
    live, copy = tmp_path / "live", tmp_path / "copy"
    live.mkdir()
    journalist = Journalist(live, run.random)
    commits = [journalist.commit()]
    commits += [journalist.step(3000) for _ in range(120)]
    journalist.close()
    steps = list(itertools.pairwise(commits))
    salts = len({crashes.salt(commit.files) for commit in commits})
    logs = sum(crashes.is_new_log(before.files, after.files) for before, after in steps)
    copies = sum(before.files[FILE] != after.files[FILE] for before, after in steps)
    assert salts > 10
    assert logs > 3
    assert copies > 3
    whole = 0
    for _ in range(scaled(500)):
        before, after = run.random.choice(steps)
        crashes.write(copy, crashes.power_cut(before.files, after.files, run.random))
        found = crashes.state(copy)
        whole += found == after.state
        assert found in (before.state, after.state)
    figures = {"power_cuts": scaled(500), "commits_whole": whole, "new_logs": logs, "salts": salts}
    run.judge(Finding({**figures, "copied_to_database": copies}))


def test_a_power_cut_while_a_journal_is_created(tmp_path: Path) -> None:
    """Whichever sectors of the first page are on disk, the journal is made anew."""
    for sectors in range(2 ** (4096 // crashes.SECTOR)):
        crashes.write(tmp_path / "data", crashes.half_created(tmp_path / "page", sectors))
        assert crashes.state(tmp_path / "data") == ([], {}, 0)
