"""Random checkpoints in the shapes of larger models, against transformers with PEFT in fp32."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.engine.shapes import SHAPES, make_checkpoint
from inference.engine import Engine
from inference.model.sources import resolve_model
from tests.fixtures_engine import tiny_config
from tests.support.parity import ForgetfulOracle, check_batch, make_kinds, prompts_of

CACHE = Path(os.environ.get("LORALEDGER_MODEL_CACHE", ".loraledger/cache/models"))
MIB = 2**20


@pytest.mark.deep
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_answers_as_transformers(name: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / name, name, resolve_model("", CACHE))
    limits = {"kv_budget_bytes": 64 * MIB, "adapter_budget_bytes": 512 * MIB, "max_step_tokens": 64}
    engine = Engine(tiny_config(model, **limits))
    kinds = make_kinds(tmp_path, model, ["plain", "dora"])
    try:
        adapters = [None, *kinds.values()]
        check_batch(engine, ForgetfulOracle(model), prompts_of([12, 90, 33]), adapters, max_tokens=6)
        engine.check_integrity()
    finally:
        engine.close()
