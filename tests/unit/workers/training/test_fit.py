from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer

from backend.domain.training import TrainingConfig
from tests.fixtures_engine import peft_warnings_ignored
from workers.training.fit import collate, collate_packs, compute_dtype, lora_model
from workers.training.rows import IGNORED, Example, encode

if TYPE_CHECKING:
    from pathlib import Path


def gradients(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_head_where_something_is_learnt_gives_the_loss_and_gradients_of_all(
    tiny_base: Path,
) -> None:
    with peft_warnings_ignored():
        model = lora_model(tiny_base, TrainingConfig()).float()
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # of zeros: nothing would reach the other half
            torch.nn.init.normal_(weight)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    rows = [{"prompt": "ab" * (3 - i), "completion": "cd" * (i + 1)} for i in range(3)]
    ragged = [encode(0, row, tokenizer, 192) for row in rows]
    batch = collate(ragged, 0)
    assert batch["logits_to_keep"].numel() < batch["input_ids"].shape[1] - 1
    whole = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    (loss, found), (expected_loss, expected) = gradients(model, batch), gradients(model, whole)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_columns_are_kept_where_any_row_predicts_a_token_that_it_learns() -> None:
    rows = [Example(0, "a", (1, 2, 3, 4), (IGNORED, IGNORED, 3, 4)), Example(0, "b", (5, 6), (IGNORED, 6))]
    batch = collate(rows, 9)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 9, 9]]
    assert batch["logits_to_keep"].tolist() == [0, 1, 2]
    assert batch["shift_labels"].tolist() == [[IGNORED, 3, 4], [6, IGNORED, IGNORED]]


def test_rows_of_a_pack_do_not_see_each_other(tiny_base: Path) -> None:
    with peft_warnings_ignored():
        model = lora_model(tiny_base, TrainingConfig()).float()
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    rows = [
        encode(0, {"prompt": "ab" * i, "completion": "cd" * (5 - i)}, tokenizer, 192) for i in (1, 2, 3, 4)
    ]
    packed = collate_packs([rows[:3], rows[3:]], 0)
    apart = [model(**collate([row], 0)).loss.item() * row.num_trained for row in rows]
    loss, found = gradients(model, packed)
    assert loss * sum(row.num_trained for row in rows) == pytest.approx(sum(apart), rel=1e-5)
    _, expected = gradients(model, collate(rows, 0))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


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
