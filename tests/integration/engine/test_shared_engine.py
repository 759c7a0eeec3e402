"""Several processes share one supervised engine; any of them, and the engine, may be killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.cli.operator.supervisor import Service, Supervisor
from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from tests.fixtures_engine import make_model

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = Path(__file__).with_name("client_process.py")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EngineProcess:
    folder = tmp_path_factory.mktemp("engine")
    model = make_model(folder / "model", "llama")
    options = {"dtype": "float32", "kernels": "portable"}
    return EngineProcess(folder / "e.sock", str(model), num_threads=1, options=options)


@pytest.fixture(scope="module")
def supervisor(spec: EngineProcess) -> Iterator[Supervisor]:
    with Supervisor(spec.socket_path.parent / "logs") as running:
        running.start(
            Service("engine", spec.arguments(), spec.environment(), is_ready=spec.socket_path.exists)
        )
        yield running
    assert not spec.socket_path.exists()


@contextmanager
def client_process(socket_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, CLIENT, socket_path], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str], word: str) -> list[str]:
    """Output of the process up to `word`."""
    assert process.stdout is not None
    words: list[str] = []
    while word not in words:
        line = process.stdout.readline()
        assert line, f"it ended after {words}"
        words.append(line.strip())
    return words


async def test_a_killed_client_costs_the_others_nothing(supervisor: Supervisor, spec: EngineProcess) -> None:
    with client_process(spec.socket_path) as killed, client_process(spec.socket_path) as other:
        says(killed, "began")
        os.kill(killed.pid, signal.SIGKILL)
        for _ in range(2):
            assert "engine_unavailable" not in says(other, "answered")
        async with EngineClient(spec.socket_path) as client:
            assert (await client.status()).num_running <= 1
    assert supervisor.is_running("engine")


def test_a_second_engine_on_the_same_path_exits_and_the_first_continues(
    supervisor: Supervisor, spec: EngineProcess
) -> None:
    second = subprocess.run(
        spec.arguments(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    assert second.returncode == 1
    assert f"process {supervisor.pids()['engine']} is the engine" in second.stderr
    with client_process(spec.socket_path) as process:
        says(process, "answered")


def test_a_killed_engine_costs_its_clients_a_retryable_error_and_is_started_again(
    supervisor: Supervisor, spec: EngineProcess
) -> None:
    first_pid = supervisor.pids()["engine"]
    with client_process(spec.socket_path) as one, client_process(spec.socket_path) as other:
        for process in (one, other):
            says(process, "began")
        os.kill(first_pid, signal.SIGKILL)
        for process in (one, other):
            says(process, "engine_unavailable")
        while supervisor.pids()["engine"] == first_pid:
            supervisor.watch_once()
            time.sleep(0.05)
        for process in (one, other):
            assert set(says(process, "answered")) == {"engine_unavailable", "began", "answered"}
