"""A real engine process on a tiny random checkpoint, and an engine whose vLLM server is a double."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from backend.engine.process import EngineProcess
from backend.engine.vllm import VllmEngine
from backend.engine.vllm_adapters import ServedBase, VllmAdapters
from backend.engine.vllm_answer import read_answer_parts
from inference.model.base_model import base_model_digest
from tests.fixtures_engine import make_adapter, make_model
from tests.support.engine import RunningEngine
from tests.support.vllm import FakeVllm, fake_vllm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
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


@pytest.fixture
def vllm() -> Iterator[FakeVllm]:
    with fake_vllm() as fake:
        yield fake


@pytest.fixture
def adapters(served_model: Path, tmp_path: Path) -> Iterator[VllmAdapters]:
    base = ServedBase(served_model, base_model_digest(served_model), "float32", 32)
    found = VllmAdapters(base, tmp_path / "cache", lambda: None)
    yield found
    found.close()


@pytest.fixture
def run(vllm: FakeVllm, adapters: VllmAdapters, served_model: Path) -> Callable[..., Any]:
    """Runs a coroutine function with a `VllmEngine`."""

    def run(use: Callable[[VllmEngine], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            engine = VllmEngine(vllm.url, adapters, read_answer_parts(served_model))
            try:
                async with asyncio.timeout(60):
                    return await use(engine)
            finally:
                await engine.close()

        return asyncio.run(main())

    return run
