"""Counters that processes share, counted by real processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COUNT = """
import os, signal, sys
from pathlib import Path
from telemetry import metrics
metrics.enable_multiprocess(Path(sys.argv[1]), sys.argv[2])
from prometheus_client import Counter, Gauge, Histogram
counter = Counter("things", "Things.", ["kind"])
height = Gauge("height", "Height.", ["of"], multiprocess_mode="mostrecent")
height.labels(sys.argv[3]).set(int(sys.argv[3]))
Histogram("seconds", "Seconds.", buckets=(1.0, 2.0)).observe(1.5)
counter.labels("a").inc(int(sys.argv[3]))
print("counted", flush=True)
if sys.stdin.read():
    os.kill(os.getpid(), signal.SIGKILL)
"""
READ = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from prometheus_client import generate_latest
from telemetry.metrics import shared_registry
print(generate_latest(shared_registry()).decode())
"""


def counting(folder: Path, name: str, amount: int) -> subprocess.Popen[bytes]:
    """A process that has counted, and lives until its input ends."""
    command = [sys.executable, "-c", COUNT, str(folder), name, str(amount)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"counted\n"
    return process


def read(folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder)], check=True, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_of_several_processes_are_summed(tmp_path: Path) -> None:
    running = [counting(tmp_path, name, amount) for name, amount in (("api", 1), ("api", 2), ("index", 4))]
    found = read(tmp_path)
    assert found['things_total{kind="a"}'] == 7
    assert (found['seconds_bucket{le="1.0"}'], found['seconds_bucket{le="2.0"}']) == (0, 3)
    assert [found[f'height{{of="{amount}"}}'] for amount in (1, 2, 4)] == [1, 2, 4]
    for process in running:
        process.communicate()


def test_processes_that_run_are_known_by_name(tmp_path: Path) -> None:
    processes = [counting(tmp_path, name, 1) for name in ("api", "api", "send-all")]
    assert metrics.running(tmp_path) == {"api", "send-all"}
    for process in processes:
        process.communicate()
    assert metrics.running(tmp_path) == set()
    assert metrics.running(tmp_path / "missing") == set()


def test_a_restart_continues_the_counters_of_a_killed_process(tmp_path: Path) -> None:
    for killed in (True, False, False):
        process = counting(tmp_path, "api", 5)
        process.communicate(b"die" if killed else b"")
        assert process.returncode == (-signal.SIGKILL if killed else 0)
    assert read(tmp_path)['things_total{kind="a"}'] == 15
    assert len(list(tmp_path.glob("*.db"))) == len(metrics.KINDS)


def test_a_restart_leaves_out_gauges_that_only_the_last_process_set(tmp_path: Path) -> None:
    for amount in (3, 4):
        counting(tmp_path, "api", amount).communicate(b"kill")
    heights = {name: value for name, value in read(tmp_path).items() if name.startswith("height")}
    assert heights == {'height{of="4"}': 4}


def test_on_a_full_disk_a_process_keeps_its_metrics_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.delenv(metrics.FOLDER_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "prometheus_client", raising=False)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    metrics.enable_multiprocess(tmp_path, "api")
    assert metrics.FOLDER_VARIABLE not in os.environ
    assert "are not shared" in caplog.text


def test_enabling_after_metrics_exist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prometheus_client  # noqa: F401 - as a process that is wired in the wrong order does

    monkeypatch.delenv(metrics.FOLDER_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="before any metric is created"):
        metrics.enable_multiprocess(tmp_path, "api")


@pytest.mark.parametrize("make", [lambda folder: folder.write_text("a file"), lambda folder: folder.mkdir()])
def test_the_folder_may_exist_or_be_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    folder = tmp_path / "metrics"
    make(folder)
    is_usable = folder.is_dir()
    process = counting(folder, "api", 1)
    process.communicate()
    assert any(folder.glob("*.db")) == is_usable
