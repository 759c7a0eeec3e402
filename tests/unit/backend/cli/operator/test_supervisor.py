"""The supervisor on real child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from backend.cli.operator.supervisor import NotReady, Service, Supervisor
from tests.support.processes import is_running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "logs") as running:
        yield running


def eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_exited_service_is_restarted(supervisor: Supervisor) -> None:
    supervisor.start(Service("sleeper", SLEEPER))
    first = supervisor.pids()["sleeper"]
    os.kill(first, signal.SIGKILL)

    def has_successor() -> bool:
        supervisor.watch_once()
        return supervisor.pids()["sleeper"] != first and supervisor.is_running("sleeper")

    eventually(has_successor)


def test_a_service_that_hangs_is_killed_and_restarted(supervisor: Supervisor) -> None:
    silences = [0.0, 59.0, 61.0]
    service = Service("sleeper", SLEEPER, silence=lambda: silences.pop(0) if silences else 0.0)
    supervisor.start(service)
    first = supervisor.pids()["sleeper"]
    supervisor.watch_once()
    supervisor.watch_once()
    assert supervisor.is_running("sleeper")

    def has_successor() -> bool:
        supervisor.watch_once()
        return supervisor.pids()["sleeper"] != first and supervisor.is_running("sleeper")

    eventually(has_successor)
    assert not is_alive(first)


def test_a_service_that_exits_before_it_is_ready_is_an_error_with_its_log(
    supervisor: Supervisor,
) -> None:
    failing = [sys.executable, "-c", "raise SystemExit('no such port')"]
    with pytest.raises(NotReady, match="no such port"):
        supervisor.start(Service("failing", failing, is_ready=lambda: False))


# Each waits until the other runs too: started one after the other, neither would become ready.
MEETING = (
    "import pathlib, sys, time\n"
    "own, other, ready = map(pathlib.Path, sys.argv[1:])\n"
    "own.touch()\n"
    "while not other.exists(): time.sleep(0.01)\n"
    "ready.touch()\n"
    "time.sleep(600)"
)


def test_services_that_start_together_do_not_wait_for_each_other(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    services = [
        Service(
            own.name,
            [sys.executable, "-c", MEETING, str(own), str(other), str(own.with_suffix(".ready"))],
            is_ready=own.with_suffix(".ready").exists,
        )
        for own, other in ((a, b), (b, a))
    ]
    supervisor.start(*services)
    assert supervisor.is_running("a")
    assert supervisor.is_running("b")
    assert a.with_suffix(".ready").exists()
    assert b.with_suffix(".ready").exists()


def test_the_service_that_fails_among_others_is_named_and_exit_stops_the_others(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "raise SystemExit('no such port')"]
    with Supervisor(tmp_path / "logs") as supervisor:
        with pytest.raises(NotReady, match=r"^failing did not become ready; .*failing\.log (.|\n)*no such"):
            supervisor.start(
                Service("ready", SLEEPER),
                Service("failing", failing, is_ready=lambda: False),
                Service("loading", SLEEPER, is_ready=lambda: False),
            )
        pids = supervisor.pids()
        assert pids.keys() == {"ready", "failing", "loading"}
        assert supervisor.is_running("ready")
        assert supervisor.is_running("loading")
    assert not any(is_alive(pid) for pid in pids.values())


def test_a_service_that_is_not_ready_in_the_time_of_all_is_an_error(supervisor: Supervisor) -> None:
    with pytest.raises(NotReady, match=r"^loading did not become ready"):
        supervisor.start(
            Service("ready", SLEEPER, ready_seconds=0.0),
            Service("loading", SLEEPER, is_ready=lambda: False, ready_seconds=0.0),
        )


def test_a_start_that_is_stopped_waits_for_no_service(supervisor: Supervisor) -> None:
    stop = threading.Event()

    def is_ready() -> bool:
        stop.set()
        return False

    supervisor.start(Service("loading", SLEEPER, is_ready=is_ready), stop=stop)
    assert supervisor.is_running("loading")


def test_exit_stops_all_children_the_newest_first(tmp_path: Path) -> None:
    order = tmp_path / "order"
    body = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    open(sys.argv[1], 'a').write(sys.argv[2])\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(sys.argv[1] + sys.argv[2], 'w')\n"
        "time.sleep(600)"
    )
    with Supervisor(tmp_path / "logs") as supervisor:
        for name in ("a", "b"):
            ready = tmp_path / f"order{name}"
            argv = [sys.executable, "-c", body, str(order), name]
            supervisor.start(Service(name, argv, is_ready=ready.exists))
        pids = supervisor.pids()
    assert order.read_text() == "ba"
    assert not any(is_alive(pid) for pid in pids.values())


def test_a_killed_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    parent = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from backend.cli.operator.supervisor import Service, Supervisor\n"
        "s = Supervisor(Path(sys.argv[1]))\n"
        "s.start(Service('child', [sys.executable, '-c', 'import time; time.sleep(600)']))\n"
        "print(s.pids()['child'], flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path / "logs")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_alive(child)
        process.kill()
    eventually(lambda: not is_running(child))
