"""How well a model predicts rows that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from workers.training.fit import collate
from workers.training.pulse import Pulse
from workers.training.rows import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from workers.training.pulse import Emit
    from workers.training.rows import Example

BATCH_TOKENS = 4096
"""Padding included: what bounds memory is the logits, a vocabulary wide for each token."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """All trained tokens of a batch, row by row: `labels` [tokens] and `rows` [tokens], each one's row in the
    batch, both int64, and the final `states` [tokens, hidden] that they are predicted from.
    """

    states: Tensor
    labels: Tensor
    rows: Tensor


def predictions(model: Any, rows: Sequence[Example], pad_token_id: int) -> Predictions:
    """One forward pass, without the head: logits of a prompt's tokens would cost more than their layers."""
    batch = {name: part.to(model.device) for name, part in collate(rows, pad_token_id).items()}
    labels = batch["labels"][:, 1:]
    decoder, seen = model.get_base_model().base_model, (batch["input_ids"], batch["attention_mask"])
    states = decoder(*seen, use_cache=False).last_hidden_state[:, :-1]
    is_trained = labels != IGNORED
    return Predictions(states[is_trained], labels[is_trained], is_trained.nonzero()[:, 0])


@torch.inference_mode()
def mean_loss(model: Any, examples: Sequence[Example], pad_token_id: int, emit: Emit) -> float:
    """Cross entropy in nats per trained token: each token weighs the same, whatever row it is in."""
    model.eval()
    total, num_tokens = 0.0, 0
    pulse = Pulse(emit, "evaluation", len(examples))
    for rows in batches_by_length(examples):
        found = predictions(model, rows, pad_token_id)
        logits = model.get_output_embeddings()(found.states)
        total += functional.cross_entropy(logits.float(), found.labels, reduction="sum").item()
        num_tokens += len(found.labels)
        pulse.advance(len(rows))
    return total / num_tokens


def batches_by_length(
    examples: Sequence[Example], batch_tokens: int = BATCH_TOKENS
) -> Iterator[Sequence[Example]]:
    """All examples, the longest first, so that little is padded; `batch_tokens` or one row at a time."""
    ordered = sorted(examples, key=lambda example: len(example.token_ids), reverse=True)
    start = 0
    while start < len(ordered):
        end = start + max(1, batch_tokens // len(ordered[start].token_ids))
        yield ordered[start:end]
        start = end
