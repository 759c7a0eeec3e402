from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.domain.training import TrainingConfig
from tests.fixtures_engine import make_model, peft_warnings_ignored
from workers.training import packing
from workers.training.fit import lora_model
from workers.training.packing import collate, mixed_precision, row_indices
from workers.training.rows import IGNORED, Example, encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def ragged(base: Path) -> list[Example]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [{"prompt": "ab" * i, "completion": "cd" * j} for i, j in ((1, 4), (3, 1), (2, 3))]
    return [encode(0, row, tokenizer, 192) for row in rows]


def lora(base: Path) -> Any:
    """Set fp32 and non-zero B matrices; with B = 0 no gradient reaches A."""
    with peft_warnings_ignored():
        model = lora_model(base, TrainingConfig()).float()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    return model


def taken_in(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def alone(base: Path, row: Example) -> torch.Tensor:
    """Logits [tokens, vocab] of one row as transformers computes them."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    logits: torch.Tensor = model(input_ids=torch.tensor([row.token_ids])).logits[0]
    return logits


def test_a_row_has_its_tokens_its_places_and_the_predictions_of_its_own() -> None:
    rows = [Example(0, "a", (1, 2, 3, 4), (IGNORED, IGNORED, 3, 4)), Example(0, "b", (5, 6), (5, 6))]
    batch = {name: part.tolist() for name, part in collate(rows).items()}
    assert batch["input_ids"] == [[1, 2, 3, 4, 5, 6]]
    assert batch["position_ids"] == [[0, 1, 2, 3, 0, 1]]
    assert batch["row_lengths"] == [4, 2]
    assert batch["labels"] == [[IGNORED, IGNORED, 3, 4, IGNORED, 6]]
    assert batch["logits_to_keep"] == [1, 2, 4]
    assert batch["shift_labels"] == [[3, 4, 6]]


def test_what_rows_have_of_a_preamble_is_left_out_behind_their_first_token() -> None:
    rows = [
        Example(0, "a", (1, 2, 3, 4, 5), (*[IGNORED] * 4, 5)),
        Example(0, "b", (1, 7, 8), (IGNORED, 7, 8)),
    ]
    batch = {name: part.tolist() for name, part in collate(rows, (1, 2, 3)).items()}
    assert batch["input_ids"] == [[1, 4, 5, 1, 7, 8]]
    assert batch["position_ids"] == [[0, 3, 4, 0, 1, 2]]
    assert batch["row_lengths"] == [3, 3]
    assert batch["labels"] == [[IGNORED, IGNORED, 5, IGNORED, 7, 8]]
    assert batch["logits_to_keep"] == [1, 3, 4]


def test_places_behind_the_end_of_a_row_are_marked() -> None:
    places, is_real = row_indices(torch.tensor([3, 1]))
    assert places.tolist() == [[0, 1, 2], [3, 3, 3]]
    assert is_real.tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize("longest_together", [256, 0])
def test_rows_do_not_see_each_other_and_learn_as_they_do_alone(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, longest_together: int
) -> None:
    monkeypatch.setattr(packing, "MAX_BATCHED_LENGTH", longest_together)
    model, rows = lora(tiny_base), ragged(tiny_base)
    loss = model(**collate(rows)).loss
    found = taken_in(model, loss)
    logits = [model(input_ids=torch.tensor([row.token_ids])).logits[0, :-1] for row in rows]
    labels = [torch.tensor(row.labels[1:]) for row in rows]
    summed = functional.cross_entropy(torch.cat(logits), torch.cat(labels), reduction="sum")
    expected_loss = summed / sum(row.num_trained for row in rows)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, gradient in taken_in(model, expected_loss).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize("longest_together", [256, 0])
def test_every_family_predicts_as_transformers_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, longest_together: int
) -> None:
    monkeypatch.setattr(packing, "MAX_BATCHED_LENGTH", longest_together)
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.float32)
    windowed = {"sliding_window": 8} if family == "mistral" else {}
    base = make_model(tmp_path / family, family, **windowed)
    with peft_warnings_ignored():
        model = lora_model(base, TrainingConfig()).float().eval()
    rows = ragged(base)
    batch = collate(rows)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "row_lengths")}
    expected = torch.cat([alone(base, row) for row in rows])
    torch.testing.assert_close(model(**inputs).logits[0], expected, rtol=1e-3, atol=1e-3)


def padded(rows: Sequence[Example]) -> dict[str, torch.Tensor]:
    longest = max(len(row.token_ids) for row in rows)
    ids = [[*row.token_ids, *[0] * (longest - len(row.token_ids))] for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": (torch.tensor(ids) != 0).long()}


def test_a_mask_over_padding_is_refused(tiny_base: Path) -> None:
    model = lora(tiny_base)
    with pytest.raises(ValueError, match="would have no effect"):
        model(**padded(ragged(tiny_base)))


def test_products_of_an_adapter_over_a_base_in_bf16_are_in_bf16(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.fit.compute_dtype", lambda: torch.bfloat16)
    with peft_warnings_ignored():
        model = lora_model(tiny_base, TrainingConfig())
    dtypes = set()
    for name, module in model.named_modules():
        if name.endswith("lora_B.default"):
            module.register_forward_hook(lambda _m, _i, output: dtypes.add(output.dtype))
    batch = collate(ragged(tiny_base))
    with mixed_precision(model):
        loss = model(**batch).loss
    assert dtypes == {torch.bfloat16}
    assert {gradient.dtype for gradient in taken_in(model, loss).values()} == {torch.float32}
