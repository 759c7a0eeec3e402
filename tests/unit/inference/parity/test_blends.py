"""Blends against PEFT's own and against the sum of their deltas in the base model's weights, fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from inference.errors import AdapterBlendError, AdapterNotFiniteError, AdapterRankError, AdapterTooLargeError
from tests.fixtures_engine import (
    Oracle,
    drain,
    make_adapter,
    peft_warnings_ignored,
    read_tensors,
    rewrite_tensors,
    run_all,
)
from tests.support.parity import blend, check_batch, make_kinds, prompts_of, request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import AdapterRef


@pytest.fixture(scope="module")
def kinds(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterRef]:
    return make_kinds(tmp_path_factory.mktemp("kinds"), tiny_llama)


def in_bf16(ref: AdapterRef) -> AdapterRef:
    return rewrite_tensors(ref, {name: tensor.bfloat16() for name, tensor in read_tensors(ref).items()})


def test_blends_of_like_and_unlike_adapters_equal_the_sum_of_their_deltas(
    kinds: dict[str, AdapterRef], llama_oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    blends = [
        blend((kinds["plain"], 1.0)),
        blend((kinds["plain"], 0.3)),
        blend((kinds["plain"], 0.5), (kinds["rslora"], 0.5)),
        blend((kinds["attention"], 1.0), (kinds["mlp"], 1.0)),
        blend((kinds["rank pattern"], -0.7), (kinds["keys alone"], 1.9), (kinds["one layer"], 0.25)),
    ]
    adapters = [None, *blends, kinds["plain"], kinds["dora"]]
    check_batch(make_engine(), llama_oracle, prompts_of(range(3, 19)), adapters)


def test_a_blend_equals_pefts_concatenation(
    kinds: dict[str, AdapterRef], tiny_llama: Path, make_engine: Callable[..., Engine]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    first, second = kinds["plain"], kinds["rslora"]
    with peft_warnings_ignored():
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), first.path, "first"
        )
        model.load_adapter(second.path, "second")
        model.add_weighted_adapter(["first", "second"], [0.8, 0.4], "both", combination_type="cat")
        model.set_adapter("both")
    adapter = blend((first, 0.8), (second, 0.4))
    oracle = Oracle(tiny_llama)
    oracle._models[adapter.digest] = model.eval()
    check_batch(make_engine(), oracle, prompts_of([4, 20, 11]), [adapter])


def test_the_order_of_the_parts_changes_nothing_and_a_weight_does(
    kinds: dict[str, AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    one, two = (kinds["plain"], 0.5), (kinds["rslora"], 0.25)
    forward, backward, other = blend(one, two), blend(two, one), blend(one, (kinds["rslora"], 0.26))
    assert forward.digest == backward.digest != other.digest
    engine = make_engine()
    run_all(engine, *(request(str(i), adapter) for i, adapter in enumerate([forward, backward, other])))
    assert sorted(engine.status().active_adapters) == sorted([forward.digest, other.digest])


def test_a_dora_part_is_refused_and_says_why(
    kinds: dict[str, AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    adapter = blend((kinds["plain"], 1.0), (kinds["dora"], 1.0))
    answers = run_all(make_engine(), request("b", adapter), request("p", kinds["plain"]))
    assert isinstance(answers["b"].error, AdapterBlendError)
    assert "scales the whole output" in str(answers["b"].error)
    assert answers["p"].error is None


def test_a_blend_beyond_the_arena_or_number_range_is_refused(
    kinds: dict[str, AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(num_adapter_rows=8, max_rank=8)
    tall = blend((kinds["plain"], 1.0), (kinds["rslora"], 1.0))
    loud = blend((kinds["plain"], 3e38))
    answers = run_all(engine, request("t", tall), request("l", loud), request("p", kinds["plain"]))
    assert isinstance(answers["t"].error, AdapterRankError)
    assert isinstance(answers["l"].error, AdapterNotFiniteError)
    assert answers["p"].error is None


def test_a_refused_part_fails_the_blend_and_not_other_adapters(
    kinds: dict[str, AdapterRef], tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    bad = make_adapter(tmp_path / "bad", tiny_llama, seed=77)
    (tmp_path / "bad" / "adapter_config.json").unlink()
    adapter = blend((kinds["plain"], 1.0), (bad, 1.0))
    answers = run_all(make_engine(), request("b", adapter), request("p", kinds["plain"]))
    assert answers["b"].error is not None
    assert answers["p"].error is None


def test_blends_that_contend_for_the_cache_all_get_their_turn(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """Room for one blend's adapters and no more: each has to let go of the other's."""
    names = ["plain", "attention", "rslora", "values and up"]
    refs = [in_bf16(ref) for ref in make_kinds(tmp_path, tiny_llama, names).values()]
    engine = make_engine(adapter_budget_bytes=90_000, num_adapter_slots=2)
    adapters = [
        blend((first, 0.5), (second, 0.5))
        for first in refs
        for second in refs
        if first.digest < second.digest
    ]
    prompts = prompts_of(range(4, 16))
    check_batch(engine, Oracle(tiny_llama), prompts, [*adapters, *refs], max_tokens=3)
    assert len(engine.status().resident_adapters) < len(refs)


def test_a_blend_larger_than_the_cache_is_refused(
    kinds: dict[str, AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(adapter_budget_bytes=80_000)
    adapter = blend((kinds["plain"], 1.0), (kinds["rslora"], 1.0))
    engine.add(request("b", adapter))
    engine.add(request("p", kinds["plain"]))
    answers = drain(engine)
    assert isinstance(answers["b"].error, AdapterTooLargeError)
    assert answers["p"].error is None
