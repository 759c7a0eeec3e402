from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from backend.domain.training import TrainingConfig
from tests.fixtures_engine import peft_warnings_ignored
from workers.training.fit import compute_dtype, lora_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("capabilities", "dtype"), [({"amx_bf16": True}, "bfloat16"), ({}, "float32")])
def test_products_are_in_what_the_processor_multiplies_fast(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert compute_dtype() == getattr(torch, dtype)


def test_what_is_trained_is_in_fp32_whatever_the_base_is_in(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.bfloat16)
    with peft_warnings_ignored():
        model = lora_model(tiny_base, TrainingConfig())
    dtypes = {True: set[torch.dtype](), False: set[torch.dtype]()}
    for weight in model.parameters():
        dtypes[weight.requires_grad].add(weight.dtype)
    assert dtypes == {True: {torch.float32}, False: {torch.bfloat16}}
