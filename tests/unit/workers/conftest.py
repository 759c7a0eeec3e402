from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fixtures_engine import make_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a byte-level tokenizer and a chat template."""
    return make_model(tmp_path_factory.mktemp("base") / "tiny-llama")
