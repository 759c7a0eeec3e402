"""Attribution of CPU time to processes."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from benchmarks.engine.machine import Usage, commit, describe

if TYPE_CHECKING:
    from pathlib import Path


def test_what_others_took_is_their_share_of_all_cores() -> None:
    cores = os.cpu_count() or 1
    before = Usage(at=10.0, machine_seconds=100.0, process_seconds=5.0, disk_bytes=0)
    after = Usage(12.0, machine_seconds=100.0 + 1.5 * cores, process_seconds=5.0 + cores, disk_bytes=0)
    assert after.other_share_since(before) == pytest.approx(0.25)


def test_rounding_of_clocks_never_makes_a_share_negative() -> None:
    before = Usage(at=10.0, machine_seconds=100.0, process_seconds=5.0, disk_bytes=0)
    assert Usage(11.0, 100.4, 5.5, 0).other_share_since(before) == 0.0
    assert before.other_share_since(before) == 0.0


def test_usage_of_a_process_that_computes_grows_and_so_does_the_machines() -> None:
    before = now = Usage.now(os.getpid())
    while now.process_seconds == before.process_seconds or now.machine_seconds == before.machine_seconds:
        now = Usage.now(os.getpid())
    assert now.process_seconds > before.process_seconds
    assert now.machine_seconds > before.machine_seconds


def test_reading_counts_when_it_reaches_a_disk_and_not_when_the_page_cache_has_it(tmp_path: Path) -> None:
    size = 2**20
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        file.write(bytes(size))
        before = Usage.now(os.getpid())
        assert len(os.pread(file.fileno(), size, 0)) == size
        cached = Usage.now(os.getpid())
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if _is_held(file.fileno()):
            pytest.skip("files are kept in memory here")
        assert len(os.pread(file.fileno(), size, 0)) == size
    assert cached.disk_bytes - before.disk_bytes < size
    assert Usage.now(os.getpid()).disk_bytes - cached.disk_bytes >= size


def test_the_machine_is_described() -> None:
    machine_facts = describe()
    assert machine_facts["cpu"]
    assert machine_facts["num_cores"] == os.cpu_count()
    assert machine_facts["cpu_model"]
    assert machine_facts["memory_gib"] > 0


def test_a_report_names_the_commit_of_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    monkeypatch.setattr("benchmarks.engine.machine._ROOT", tmp_path)
    assert commit() is None
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert commit() == head.stdout.strip()
    (tmp_path / "file").write_text("2")
    assert commit() == head.stdout.strip() + "+"


def _is_held(file: int) -> bool:
    """Whether the kernel has a file's first bytes without asking a disk."""
    try:
        return os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system that has no such way to ask keeps all it has
