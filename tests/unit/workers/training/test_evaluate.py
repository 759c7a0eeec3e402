from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.services.train.options import parse_config
from tests.unit.workers.training.support import CONFIG, examples, ignore
from workers.training.evaluate import BATCH_TOKENS, batches_by_length, mean_loss
from workers.training.fit import lora_model
from workers.training.rows import Example

if TYPE_CHECKING:
    from pathlib import Path


def test_a_fresh_adapter_changes_nothing(tiny_base: Path) -> None:
    model = lora_model(tiny_base, parse_config(CONFIG))
    rows = examples(tiny_base)
    with model.disable_adapter():
        base = mean_loss(model, rows, ignore)
    assert mean_loss(model, rows, ignore) == base
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert trained == {torch.float32}


def test_each_token_weighs_the_same_in_the_mean_loss(tiny_base: Path) -> None:
    model = lora_model(tiny_base, parse_config(CONFIG))
    rows = examples(tiny_base)[:5]
    losses = [mean_loss(model, [row], ignore) for row in rows]
    weights = [row.num_trained for row in rows]
    expected = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
    assert mean_loss(model, rows, ignore) == pytest.approx(expected, rel=2e-2)  # in bf16


@given(lengths=st.lists(st.integers(1, 2 * BATCH_TOKENS), min_size=1, max_size=50))
def test_a_batch_of_evaluation_is_bounded_by_its_tokens(lengths: list[int]) -> None:
    rows = [Example(i, "g", (1,) * length, (1,) * length) for i, length in enumerate(lengths)]
    batches = list(batches_by_length(rows))
    assert sorted(row.contribution for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        padded = len(batch) * max(len(row.token_ids) for row in batch)
        assert padded <= BATCH_TOKENS or len(batch) == 1
