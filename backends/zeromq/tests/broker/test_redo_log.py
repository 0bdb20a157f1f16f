"""The redo log: what it gives back after whatever happened to its file."""

import errno
import os
from pathlib import Path

import pytest
from corekit_zeromq.broker.exits import BrokerRefused
from corekit_zeromq.broker.redo_log import CAPACITY, RedoLog
from hypothesis import given
from hypothesis import strategies as st

RECORDS = [b"one", b"", b"three" * 100, bytes(2000), b"five"]


def written(path: Path, records: list[bytes], salt: int = 7) -> RedoLog:
    """Return a log of *records*."""
    log = RedoLog(path, durable=True)
    log.restart(salt)
    assert all(log.append(record) for record in records)
    return log


def read(path: Path, salt: int = 7) -> list[bytes]:
    """Return what a new start reads."""
    log = RedoLog(path, durable=True)
    records = list(log.read(salt))
    log.close()
    return records


def test_records_come_back_in_order(tmp_path: Path) -> None:
    """All of them, whatever they are, also while the log is still open."""
    log = written(tmp_path / "log", RECORDS)
    assert read(tmp_path / "log") == RECORDS
    assert list(log.read(7)) == RECORDS
    log.close()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_other_salts_are_nothing(tmp_path: Path) -> None:
    """What carries another salt is not there: the records of another journal, or older ones."""
    written(tmp_path / "log", RECORDS).close()
    assert read(tmp_path / "log", 8) == []


def test_older_records_behind_the_newest_are_nothing(tmp_path: Path) -> None:
    """After a restart only what was appended since is there, though the file has more."""
    log = written(tmp_path / "log", [b"old"] * 5)
    log.restart(8)
    assert log.append(b"new")
    log.close()
    assert read(tmp_path / "log", 8) == [b"new"]
    assert read(tmp_path / "log", 7) == []


def test_a_flipped_bit_ends_it(tmp_path: Path) -> None:
    """Wherever a bit is wrong: the records before it are there, and no other ones."""
    written(tmp_path / "log", RECORDS).close()
    data = (tmp_path / "log").read_bytes()
    ends = [0]
    for record in RECORDS:
        ends.append(ends[-1] + 24 + len(record))
    for place in range(0, ends[-1], 5):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "log").write_bytes(damaged)
        assert read(tmp_path / "log") == RECORDS[: sum(end <= place for end in ends[1:])]


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is in the file, reading it ends, with nothing found."""
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(data)
    assert read(path) == []


def test_beyond_its_capacity_it_takes_nothing(tmp_path: Path) -> None:
    """A record without room is refused as a whole; a smaller one still fits."""
    log = written(tmp_path / "log", [bytes(CAPACITY - 1000)])
    assert not log.append(bytes(CAPACITY))
    assert not log.append(bytes(1000))
    assert log.append(bytes(500))
    log.close()
    assert (tmp_path / "log").stat().st_size == CAPACITY
    assert [len(record) for record in read(tmp_path / "log")] == [CAPACITY - 1000, 500]


def test_on_a_full_disk_it_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room is an answer, not a failure: the database may have some."""
    log = written(tmp_path / "log", [b"one"])

    def full(file: int, data: bytes, position: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert not log.append(b"two")
    assert log.append(b"three")
    log.close()
    assert read(tmp_path / "log") == [b"one", b"three"]


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems may write less than they were asked for."""
    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:1000], at))
        written(tmp_path / "log", RECORDS).close()
    assert read(tmp_path / "log") == RECORDS


def test_a_failed_flush_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk did not take is never confirmed."""
    log = written(tmp_path / "log", [b"one"])

    def fail(file: int) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="broken"):
            log.append(b"two")
    log.close()


def test_without_durability_nothing_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It survives the process; the disk gets it when the system pleases."""
    monkeypatch.delattr(os, "fdatasync")
    log = RedoLog(tmp_path / "log", durable=False)
    log.restart(7)
    assert log.append(b"one")
    assert list(log.read(7)) == [b"one"]
    log.close()


def test_a_log_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """With the file's name, as all that keeps a broker from starting."""
    (tmp_path / "log").mkdir()
    with pytest.raises(BrokerRefused, match=str(tmp_path / "log")):
        RedoLog(tmp_path / "log", durable=True)
