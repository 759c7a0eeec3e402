from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import get_scheduler

from backend.domain.training import TrainingConfig
from inference.kernels.cpu import Cpu
from tests.fixtures_engine import peft_warnings_ignored
from workers.training.fit import _arguments, compute_dtype, lora_model

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
