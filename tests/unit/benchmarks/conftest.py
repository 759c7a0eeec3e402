"""A tiny model with a vocabulary as large as the one that prompts are drawn from, and adapters for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.engine.adapters import make_adapters
from tests.fixtures_engine import make_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), vocab_size=49_152, initializer_range=0.05)


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = make_adapters(tmp_path_factory.mktemp("adapters"), tiny_model, 8, rank=2)
    return [str(folder) for folder in made]
