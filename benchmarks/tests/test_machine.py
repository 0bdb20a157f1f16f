from __future__ import annotations

from pathlib import Path

from corekit_benchmarks.machine import SYNC, SYNC_AT_REST, machine


def test_the_disk_is_timed_busy_and_at_rest(tmp_path: Path) -> None:
    """Both times are told, in seconds, and the probe leaves nothing behind."""
    found = machine(tmp_path)
    assert 0 < found[SYNC] < 1
    assert 0 < found[SYNC_AT_REST] < 1
    assert not list(tmp_path.iterdir())
