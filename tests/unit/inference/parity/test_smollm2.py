"""The bundled base model itself, with adapters of every kind, against transformers with PEFT in fp32."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inference.model.sources import resolve_model
from tests.support.parity import ForgetfulOracle, blend, check_batch, make_kinds, prompts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engine import Engine

CACHE = Path(os.environ.get("LORALEDGER_MODEL_CACHE", ".loraledger/cache/models"))
KINDS = ["plain", "rslora", "values and up", "both patterns", "dora"]


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_smollm2_with_every_kind_in_one_batch(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    model = resolve_model("", CACHE)
    engine = make_engine(
        model, kv_budget_bytes=64 * 2**20, adapter_budget_bytes=256 * 2**20, max_step_tokens=64
    )
    kinds, oracle = make_kinds(tmp_path, model, KINDS), ForgetfulOracle(model)
    adapters = [None, *kinds.values(), blend((kinds["plain"], 0.5), (kinds["rslora"], 0.5))]
    check_batch(engine, oracle, prompts_of([12, 40, 7, 33, 21, 90, 64]), adapters, max_tokens=16)
