from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from backend.processes.child import Child, ChildExited, ChildTimeout, InvalidOutput, module_command
from backend.processes.parent import EXIT_ORPHANED

if TYPE_CHECKING:
    from pathlib import Path

PARENT = "import os, sys, time\nfrom backend.processes.parent import Parent\nparent = Parent()\n"
ECHO = f"{PARENT}while True: parent.send(parent.receive())\n"
HANG = f"{PARENT}parent.send(os.getpid()); time.sleep(600)\n"


def run(program: str, **options: Any) -> Child:
    return Child([sys.executable, "-c", program], **options)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_messages_go_both_ways_in_order() -> None:
    messages = [{"text": "é\n\ud800"}, None, [1, 2.5], "x" * 1_000_000]
    with run(ECHO) as child:
        child.send(*messages[:3])
        child.send(messages[3])
        assert [child.receive() for _ in messages] == messages


def test_one_thread_may_send_while_another_one_receives() -> None:
    """More than both pipes hold: a child that waits to write does not read."""
    messages = ["x" * 10_000] * 200
    with run(ECHO) as child:
        sender = threading.Thread(target=child.send, args=messages)
        sender.start()
        assert [child.receive() for _ in messages] == messages
        sender.join()


def test_output_of_libraries_is_no_message(tmp_path: Path) -> None:
    program = f"{PARENT}print('printed', flush=True); os.system('echo shell'); parent.send('message')"
    with (tmp_path / "errors").open("wb") as errors, run(program, errors=errors) as child:
        assert child.receive() == "message"
    assert (tmp_path / "errors").read_text().split() == ["printed", "shell"]


def test_the_environment_is_added_to() -> None:
    program = f"{PARENT}parent.send([os.environ.get(name) for name in ('GIVEN', 'PATH')])"
    with run(program, environment={"GIVEN": "1"}) as child:
        assert child.receive() == ["1", os.environ["PATH"]]


def test_a_module_is_run_with_arguments(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))")
    command = module_command("echo", "--job", tmp_path)
    with Child(command, environment={"PYTHONPATH": str(tmp_path)}) as child:
        assert child.receive() == ["--job", str(tmp_path)]


def test_a_child_that_hangs_is_killed_when_its_time_is_over() -> None:
    with run(HANG, seconds=2) as child:
        pid = child.receive()
        with pytest.raises(ChildTimeout, match="took too long"):
            child.receive()
    assert not is_alive(pid)


def test_a_child_that_does_not_read_is_killed_when_its_time_is_over() -> None:
    with run("import time; time.sleep(600)", seconds=0.2) as child, pytest.raises(ChildTimeout):
        child.send("x" * 1_000_000)


def test_a_child_that_pauses_may_be_waited_for_again() -> None:
    with run(ECHO) as child:
        with pytest.raises(ChildTimeout, match=r"no message within 0\.05 seconds"):
            child.receive(0.05)
        child.send("more")
        assert child.receive(60) == "more"


def test_a_message_that_arrives_in_pieces_is_read_whole() -> None:
    program = "import os, time\nos.write(1, b'[1,'); time.sleep(0.3); os.write(1, b' 2]\\n'); time.sleep(600)"
    with run(program) as child:
        while True:
            try:
                assert child.receive(0.1) == [1, 2]
            except ChildTimeout:
                continue
            break


@pytest.mark.parametrize(("end", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", -9)])
def test_a_child_that_dies_is_reported_with_its_status(end: str, status: int) -> None:
    with run(f"{PARENT}parent.send('last words'); {end}") as child:
        assert child.receive() == "last words"
        with pytest.raises(ChildExited, match=str(status)) as error:
            child.receive()
        with pytest.raises(ChildExited):
            child.send("x" * 1_000_000)
    assert (error.value.status, child.status) == (status, status)


def test_a_child_that_closes_its_output_and_stays_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.processes.child.EXIT_SECONDS", 0.1)
    with (
        run("import os, time; os.close(1); time.sleep(600)") as child,
        pytest.raises(ChildExited, match="-9"),
    ):
        child.receive()


@pytest.mark.parametrize("garbage", ["no json", "\\xff\\xfe", "{} {}"])
def test_garbage_is_refused(garbage: str) -> None:
    with run(f"import os; os.write(1, b'{garbage}\\n')") as child, pytest.raises(InvalidOutput, match="JSON"):
        child.receive()


def test_nesting_that_would_overflow_the_parsers_stack_is_refused() -> None:
    program = "import os; os.write(1, b'[' * 50_000 + b'\\n')"
    with run(program) as child, pytest.raises(InvalidOutput, match="deep"):
        child.receive()


def test_a_line_without_end_is_refused() -> None:
    program = "import os\nwhile True: os.write(1, b'1' * 4096)"
    with run(program, max_line_bytes=1_000_000) as child, pytest.raises(InvalidOutput, match="1000000 bytes"):
        child.receive()
    assert child.status is not None


def test_output_that_is_no_message_comes_in_chunks_and_has_a_status() -> None:
    with run("import os, sys; os.write(1, b'x' * 200_000); sys.exit(4)") as child:
        assert b"".join(child.chunks()) == b"x" * 200_000
        assert child.wait() == 4


def test_memory_and_processor_time_are_limited() -> None:
    hungry = PARENT.replace("Parent()", "Parent(memory_bytes=200 << 20)")
    with run(
        f"{hungry}bytes(100 << 20)\ntry: bytes(300 << 20)\nexcept MemoryError: parent.send('full')"
    ) as child:
        assert child.receive() == "full"
    busy = PARENT.replace("Parent()", "Parent(cpu_seconds=1)")
    with run(f"{busy}while True: pass") as child, pytest.raises(ChildExited) as error:
        child.receive()
    assert error.value.status in {-signal.SIGXCPU, -signal.SIGKILL}


def test_a_child_never_outlives_its_context() -> None:
    pids: list[int] = []

    def fail() -> None:
        with run(HANG) as child:
            pids.append(child.receive())
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not is_alive(pids[0])


def test_a_child_that_ends_by_itself_is_given_time_to() -> None:
    program = "import sys; sys.stdin.read(); sys.exit(5)"
    child = run(program, output=subprocess.DEVNULL)
    child.end(grace_seconds=60)
    assert child.status == 5


def test_a_child_that_ignores_the_end_of_its_input_is_killed() -> None:
    child = run("import time; time.sleep(600)")
    child.end(grace_seconds=0.1)
    assert child.status == -9


def test_a_child_does_not_outlive_its_parent() -> None:
    """The parent is killed, so nothing of it could end the child, which neither reads nor writes."""
    program = (
        "import sys, time\nfrom backend.processes.child import Child\n"
        f"child = Child([sys.executable, '-c', {HANG!r}])\n"
        "print(child.receive(), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    while is_alive(pid):  # the test's own time limit ends this if it never does
        time.sleep(0.05)


def test_a_child_that_cannot_read_its_messages_any_more_ends() -> None:
    program = """
from backend.processes import parent
def fail(*_): raise MemoryError
parent.LineBuffer.add = fail
parent.Parent().receive()
"""
    with run(program) as child:
        child.send("a message")
        with pytest.raises(ChildExited) as ended:
            child.receive(60)
        assert ended.value.status == EXIT_ORPHANED
