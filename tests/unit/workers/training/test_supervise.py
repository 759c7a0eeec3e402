from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.unit.workers.support import RESULT, TRAINED_FILES
from workers.training.spec import ADAPTER, RESULT_FILE
from workers.training.supervise import LOG_FILE, Message, TrainingCrashed, supervise

if TYPE_CHECKING:
    from pathlib import Path

SAY = """
import json, os, sys, time

def say(kind, **data):
    print(json.dumps({"kind": kind, "data": data}), flush=True)

"""


def program(body: str) -> list[str]:
    return [sys.executable, "-c", SAY + body]


def always() -> bool:
    return True


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_events_come_in_order_and_the_last_message_is_returned(tmp_path: Path) -> None:
    events: list[Message] = []
    body = "[say('progress', step=i) for i in range(200)]; say('done', digest='0x1'); time.sleep(60)"
    last = supervise(program(body), tmp_path, always, events.append)
    assert last == Message("done", {"digest": "0x1"})
    assert [event.data["step"] for event in events] == list(range(200))


def test_a_definite_failure_is_a_last_message_too(tmp_path: Path) -> None:
    last = supervise(program("say('failed', code='x'); sys.exit(1)"), tmp_path, always, print)
    assert last == Message("failed", {"code": "x"})


def test_a_process_that_dies_is_a_crash_and_leaves_its_words_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(TrainingCrashed, match="-9"):
        supervise(
            program("print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"),
            tmp_path,
            always,
            print,
        )
    assert "last words" in (tmp_path / LOG_FILE).read_text()


def test_a_process_that_hangs_is_killed(tmp_path: Path) -> None:
    pids: list[int] = []
    body = "say('pid', pid=os.getpid()); time.sleep(600)"
    with pytest.raises(TrainingCrashed, match="no sign of life"):
        supervise(program(body), tmp_path, always, lambda m: pids.append(m.data["pid"]), silence_seconds=0.1)
    assert not is_alive(pids[0])


def test_work_that_is_not_wanted_any_more_is_killed_at_once(tmp_path: Path) -> None:
    pids: list[int] = []
    body = "say('pid', pid=os.getpid()); time.sleep(600)"
    last = supervise(program(body), tmp_path, lambda: not pids, lambda m: pids.append(m.data["pid"]))
    assert last is None
    assert not is_alive(pids[0])


def test_an_error_of_the_listener_ends_the_process_too(tmp_path: Path) -> None:
    pids: list[int] = []

    def listen(message: Message) -> None:
        pids.append(message.data["pid"])
        raise LookupError

    with pytest.raises(LookupError):
        supervise(program("say('pid', pid=os.getpid()); time.sleep(600)"), tmp_path, always, listen)
    assert not is_alive(pids[0])


def test_the_training_process_ends_with_its_parent_while_it_waits(tmp_path: Path) -> None:
    """The folder is locked by us, so the process would wait for ever; its parent is killed with -9."""
    import fcntl

    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'workers.training.run', '--job', sys.argv[1]],"
        " stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-c", parent, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        while is_alive(pid):  # the test's own time limit ends this if it never does
            time.sleep(0.05)


def test_output_of_libraries_never_mixes_with_messages(tmp_path: Path) -> None:
    (tmp_path / ADAPTER).mkdir()
    for name, content in TRAINED_FILES.items():
        (tmp_path / ADAPTER / name).write_bytes(content)
    result = {"adapter_digest": RESULT.adapter_digest}
    (tmp_path / RESULT_FILE).write_text(json.dumps(result))
    command = [sys.executable, "-m", "workers.training.run", "--job", str(tmp_path)]
    assert supervise(command, tmp_path, always, print) == Message("done", result)
