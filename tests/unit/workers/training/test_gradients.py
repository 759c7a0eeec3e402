from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch.nn import functional
from transformers import AutoTokenizer

from backend.services.train.options import parse_config
from tests.unit.workers.support import letter_rows
from tests.unit.workers.training.support import ignore
from workers.training import packing
from workers.training.fit import lora_model
from workers.training.gradients import row_gradients, sketch_row_gradients
from workers.training.rows import IGNORED, Example, computed_positions, encode
from workers.training.sketch import SKETCH_SIZE, CountSketch, PartSketch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Everything(CountSketch):
    """Keeps all coordinates instead of sums of them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, torch.Tensor]] = []

    def zeros(self, num_rows: int) -> torch.Tensor:
        self.seen.append({})
        return super().zeros(num_rows)

    def add(self, sums: torch.Tensor, module: str, gradients: torch.Tensor) -> None:
        assert module not in self.seen[-1]
        self.seen[-1][module] = gradients


def sketch_of(model: Any) -> PartSketch:
    return PartSketch(model.config.num_hidden_layers)


def make_model(base: Path, variant: str = "lora") -> Any:
    """A model in fp32 with non-zero B matrices."""
    model = lora_model(base, parse_config({"rank": 4, "variant": variant, "seed": 3})).float()
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    return model


@pytest.fixture
def rows(tiny_base: Path) -> list[Example]:
    """Examples of different lengths, two of them with several answer turns."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    turns = [
        {"role": role, "content": f"{role} says {'so ' * i}"}
        for i, role in enumerate(("user", "assistant", "user", "assistant"))
    ]
    contents: list[Mapping[str, Any]] = [row for _, row in letter_rows(5)]
    contents += [{"messages": turns}, {"messages": turns[:2]}, {"text": "nothing but text"}]
    return [encode(number, row, tokenizer, 192) for number, row in enumerate(contents)]


def reference(model: Any, example: Example, preamble: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """Autograd on one row alone, through the model's own head and all of its positions. What it has of
    `preamble` behind the first token takes no part in it.
    """
    model.zero_grad()
    ids, labels = torch.tensor([example.token_ids]), torch.tensor([example.labels])
    is_own = torch.zeros(ids.shape[1], 1, dtype=torch.bool)
    is_own[computed_positions(example, preamble)] = True

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where(is_own, output, output.detach())

    hooks = [layer.register_forward_hook(hook) for layer in model.modules() if isinstance(layer, LoraLayer)]
    logits = model(input_ids=ids).logits[0, :-1]
    for each in hooks:
        each.remove()
    functional.cross_entropy(logits, labels[0, 1:], ignore_index=IGNORED, reduction="sum").backward()
    found = {}
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            found[name.partition(".lora_B")[0]] = weight.grad.clone()
    return found


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_a_batch_gives_each_row_what_autograd_gives_it_alone(
    tiny_base: Path, rows: Sequence[Example], variant: str
) -> None:
    model = make_model(tiny_base, variant)
    everything = Everything()
    order = [row for batch, _ in sketch_row_gradients(model, rows, (), everything, ignore) for row in batch]
    (batch,) = (seen for seen in everything.seen if seen)
    assert len(order) == len(rows)
    for place, row in enumerate(order):
        expected = reference(model, row)
        assert expected.keys() == batch.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(batch[name][place].T, gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("longest_together", [256, 0])
def test_behind_its_first_token_a_row_takes_no_gradients_of_the_preamble(
    tiny_base: Path,
    rows: Sequence[Example],
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    longest_together: int,
) -> None:
    monkeypatch.setattr(packing, "MAX_BATCHED_LENGTH", longest_together)
    model = make_model(tiny_base, variant)
    preamble = (*rows[0].token_ids[:9], 0)  # "What is " and what no row has
    skipped = {len(row.token_ids) - len(computed_positions(row, preamble)) for row in rows}
    assert skipped == {0, 8}
    everything = Everything()
    found = list(sketch_row_gradients(model, rows, preamble, everything, ignore))
    seen = [each for each in everything.seen if each]
    for (batch, _), gradients in zip(found, seen, strict=True):
        for place, row in enumerate(batch):
            for name, gradient in reference(model, row, preamble).items():
                taken = gradients[name][place].T
                torch.testing.assert_close(taken, gradient, rtol=1e-3, atol=1e-4)


def test_the_same_rows_give_the_same_bits_and_leave_the_model_as_it_was(
    tiny_base: Path, rows: Sequence[Example]
) -> None:
    model = lora_model(tiny_base, parse_config({"rank": 4}))
    before = {name: (weight.requires_grad, weight.clone()) for name, weight in model.named_parameters()}
    sketches = [
        torch.cat([found for _, found in sketch_row_gradients(model, rows, (), sketch_of(model), ignore)])
        for _ in range(2)
    ]
    assert torch.equal(*sketches)
    assert sketches[0].abs().sum(dim=1).min() > 0
    for name, weight in model.named_parameters():
        assert weight.grad is None
        assert before[name][0] == weight.requires_grad
        assert torch.equal(before[name][1], weight)
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_are_small_for_any_number_of_rows(
    tiny_base: Path, rows: Sequence[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.gradients.BATCH_TOKENS", 64)
    model = make_model(tiny_base)
    batches = list(sketch_row_gradients(model, rows, (), sketch_of(model), ignore))
    assert len(batches) > 3
    alone = {row: found[place] for batch, found in batches for place, row in enumerate(batch)}
    monkeypatch.setattr("workers.training.gradients.BATCH_TOKENS", 10_000)
    ((together, found),) = sketch_row_gradients(model, rows, (), sketch_of(model), ignore)
    for place, row in enumerate(together):
        torch.testing.assert_close(found[place], alone[row], rtol=1e-3, atol=1e-4)


def test_row_gradients_are_in_the_order_of_the_rows(tiny_base: Path, rows: Sequence[Example]) -> None:
    model = make_model(tiny_base)
    given = [*rows, rows[0]]
    found = row_gradients(model, given, (), ignore)
    assert found.shape == (len(given), SKETCH_SIZE)
    for row, each in zip(given, found, strict=True):
        ((_, alone),) = sketch_row_gradients(model, [row], (), sketch_of(model), ignore)
        torch.testing.assert_close(each, alone[0], rtol=1e-3, atol=1e-4)
    assert row_gradients(model, [], (), ignore).shape == (0, SKETCH_SIZE)
