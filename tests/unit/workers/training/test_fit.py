from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model_state_dict
from transformers import get_scheduler

from backend.domain.training import TrainingConfig
from inference.kernels.cpu import Cpu
from tests.fixtures_engine import peft_warnings_ignored
from tests.unit.workers.training.support import examples
from workers.training.fit import (
    MICRO_BATCH_TOKENS,
    _arguments,
    compute_dtype,
    fit,
    lora_model,
    micro_batches,
)
from workers.training.rows import Example

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("vendor", "features", "dtype"),
    [
        ("GenuineIntel", {"avx512f", "avx512_bf16", "amx_bf16"}, "bfloat16"),
        ("AuthenticAMD", {"avx512f", "avx512_bf16"}, "bfloat16"),
        ("GenuineIntel", {"avx512f", "avx512_bf16"}, "float32"),
        ("AuthenticAMD", {"avx512f"}, "float32"),
        ("GenuineIntel", {"avx2"}, "float32"),
    ],
)
def test_products_are_in_what_the_processor_multiplies_fast(
    monkeypatch: pytest.MonkeyPatch, vendor: str, features: set[str], dtype: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("workers.training.fit.this_cpu", lambda: Cpu(vendor, features))
    assert compute_dtype() == getattr(torch, dtype)


def test_trained_weights_are_fp32_for_any_dtype_of_the_base(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.bfloat16)
    with peft_warnings_ignored():
        model = lora_model(tiny_base, TrainingConfig())
    dtypes = {True: set[torch.dtype](), False: set[torch.dtype]()}
    for weight in model.parameters():
        dtypes[weight.requires_grad].add(weight.dtype)
    assert dtypes == {True: {torch.float32}, False: {torch.bfloat16}}


@pytest.mark.parametrize(
    ("scheduler", "factors"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.5]),
        ("cosine", [0.0, 0.5, 1.0, 0.5]),
    ],
)
def test_every_scheduler_warms_up(tmp_path: Path, scheduler: Any, factors: list[float]) -> None:
    config = TrainingConfig(scheduler=scheduler, warmup_fraction=0.5, learning_rate=1.0)
    arguments = _arguments(config, 4, tmp_path, bf16=False)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=arguments.learning_rate)
    warmup = arguments.get_warmup_steps(4)
    schedule = get_scheduler(arguments.lr_scheduler_type, optimizer, warmup, 4)
    found = []
    for _ in factors:
        found += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(factors)
    unheated = _arguments(replace(config, warmup_fraction=0.0), 4, tmp_path, bf16=False)
    schedule = get_scheduler(unheated.lr_scheduler_type, optimizer, unheated.get_warmup_steps(4), 4)
    assert schedule.get_last_lr() == [1.0]


def test_a_step_in_micro_batches_gives_the_weights_of_one_in_a_whole(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.float32)
    rows = examples(tiny_base)
    config = TrainingConfig(batch_size=12, steps=4, loss_on="all")

    def trained(name: str) -> tuple[dict[str, torch.Tensor], list[float]]:
        losses: list[float] = []
        with peft_warnings_ignored():
            model = lora_model(tiny_base, config)
            fit(
                model,
                rows,
                config,
                tmp_path / name,
                lambda kind, data: losses.append(data["loss"]) if kind == "progress" else None,
            )
        return get_peft_model_state_dict(model), losses

    weights, losses = trained("whole")
    monkeypatch.setattr("workers.training.fit.MICRO_BATCH_TOKENS", 3 * max(len(r.token_ids) for r in rows))
    assert len(micro_batches(rows[:12])) >= 4
    in_parts, losses_in_parts = trained("parts")
    assert losses_in_parts == pytest.approx(losses, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(in_parts[name], weight, rtol=1e-3, atol=1e-4)


@given(lengths=st.lists(st.integers(2, 2 * MICRO_BATCH_TOKENS), min_size=1, max_size=50))
def test_what_a_step_computes_at_once_is_bounded_whatever_its_batch(lengths: list[int]) -> None:
    rows = [Example(i, "g", (1,) * length, (1,) * length) for i, length in enumerate(lengths)]
    parts = micro_batches(rows)
    assert sorted(row.contribution for part in parts for row in part) == list(range(len(rows)))
    for part in parts:
        padded = len(part) * max(len(row.token_ids) for row in part)
        assert padded <= MICRO_BATCH_TOKENS or len(part) == 1


def test_a_batch_of_the_default_size_is_computed_at_once_in_its_order() -> None:
    default = TrainingConfig()
    rows = [Example(i, "g", (1,) * (default.max_length - i), (1,) * 9) for i in (3, 1, 7, 0, 2, 4, 5, 6)]
    assert len(rows) == default.batch_size
    assert micro_batches(rows) == [rows]
