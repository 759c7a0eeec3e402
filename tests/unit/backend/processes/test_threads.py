"""Starts of threads, also without memory, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from backend.processes import threads
from backend.processes.threads import start_thread

TIMEOUT_SECONDS = 60
START = """
threads.START_SECONDS = 0.5
try:
    threads.start_thread(threading.Thread(target=print, args=("runs",)))
except (RuntimeError, MemoryError):
    memory = None
    print("refused")
"""
# Later threads use the stack of the one that ended, which needs no memory.
NO_MEMORY = """
import resource
first = threading.Thread(target=len, args=("",))
first.start()
first.join()
memory = []
resource.setrlimit(resource.RLIMIT_DATA, (4096, resource.RLIM_INFINITY))
for size in (1 << 16, 4096, 600):
    try:
        while True:
            memory.append(bytearray(size))
    except MemoryError:
        pass
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import threading\nfrom backend.processes import threads\n{script}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)


def test_a_thread_runs() -> None:
    ran = threading.Event()
    start_thread(threading.Thread(target=ran.set))
    assert ran.wait(TIMEOUT_SECONDS)


def test_a_thread_runs_where_standard_error_is_a_logger() -> None:
    done = run(f"import io, sys\nsys.stderr = io.StringIO()\n{START}")
    assert (done.returncode, done.stdout) == (0, "runs\n")


def test_the_timer_ends_with_the_start() -> None:
    done = run(f"{START}\nimport time\ntime.sleep(1)\nprint('goes on')")
    assert (done.returncode, done.stdout) == (0, "runs\ngoes on\n")


def test_a_start_that_fails_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "START_SECONDS", 0.1)
    thread = threading.Thread(target=len, args=("",))
    start_thread(thread)
    with pytest.raises(RuntimeError, match="once"):
        start_thread(thread)
    thread.join()
    assert not threading.Event().wait(0.3)  # this process still runs


def test_a_process_whose_thread_dies_before_it_runs_ends_with_its_stacks() -> None:
    done = run(f"def die(_): raise MemoryError\nthreading.Thread._bootstrap = die\n{START}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "in start_thread" in done.stderr


def test_a_process_without_memory_does_not_hang() -> None:
    done = run(f"{NO_MEMORY}{START}")
    assert (done.returncode, done.stdout) in {(0, "runs\n"), (0, "refused\n"), (1, "")}
