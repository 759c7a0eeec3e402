"""Checkpoints and adapters shared by the engine's tests; all are made here, none is downloaded."""

from __future__ import annotations

import gc
import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from inference.engine import Engine
from tests.fixtures_engine import Oracle, make_adapter, make_model, tiny_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from inference.protocol import AdapterRef


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    """Objects in reference cycles stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def edited(tiny_llama: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny model with keys of its config.json changed."""

    def edit(**changes: Any) -> Path:
        folder = shutil.copytree(tiny_llama, tmp_path / "edited")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    return edit


@pytest.fixture(scope="session")
def llama_oracle(tiny_llama: Path) -> Oracle:
    return Oracle(tiny_llama)


@pytest.fixture(scope="session")
def llama_adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    """Different ranks, targets and scalings: two of them have no layer in common."""
    root = tmp_path_factory.mktemp("adapters")
    return [
        make_adapter(root / "all", tiny_llama, rank=4, seed=1),
        make_adapter(
            root / "attention", tiny_llama, rank=8, targets=("q_proj", "v_proj"), seed=2, use_rslora=True
        ),
        make_adapter(root / "mlp", tiny_llama, rank=2, targets=("gate_proj", "down_proj"), seed=3),
        make_adapter(
            root / "patterns",
            tiny_llama,
            rank=3,
            targets=("k_proj", "o_proj", "up_proj"),
            seed=4,
            rank_pattern={"k_proj": 6, "layers.1.mlp.up_proj": 1},
            alpha_pattern={"o_proj": 9},
        ),
    ]


@pytest.fixture
def make_engine(tiny_llama: Path) -> Iterator[Callable[..., Engine]]:
    """Engines on the tiny Llama; at the end each is idle, sound, and closed."""
    engines: list[Engine] = []

    def make(model: Path = tiny_llama, **overrides: Any) -> Engine:
        engines.append(Engine(tiny_config(model, **overrides)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.check_integrity()
        engine.close()
