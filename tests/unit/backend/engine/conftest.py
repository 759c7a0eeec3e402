"""A real engine process on a tiny random checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.engine.process import EngineProcess
from tests.fixtures_engine import make_adapter, make_model
from tests.support.engine import RunningEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inference.protocol import AdapterRef


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("served"), "llama")


@pytest.fixture(scope="session")
def served_adapter(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    return make_adapter(tmp_path_factory.mktemp("adapter") / "a", served_model)


@pytest.fixture(scope="session")
def tiny_process(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineProcess:
    folder = tmp_path_factory.mktemp("run")
    options = {"dtype": "float32", "max_waiting": 3, "max_running": 2, "kv_budget_bytes": 4 * 1024 * 1024}
    return EngineProcess(folder / "engine.sock", served_model, num_threads=1, options=options)


@pytest.fixture(scope="session")
def engine_socket(tiny_process: EngineProcess) -> Iterator[Path]:
    """Socket of an engine that runs for the whole session."""
    engine = RunningEngine(tiny_process)
    engine.wait_until_ready()
    yield engine.socket_path
    engine.end()
    assert engine.process.returncode == 0
    assert not engine.socket_path.exists()
