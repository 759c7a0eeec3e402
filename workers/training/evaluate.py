"""How well a model predicts rows that it was not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from workers.training.fit import collate
from workers.training.rows import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workers.training.rows import Example

_BATCH_ROWS = 16


@torch.inference_mode()
def mean_loss(model: Any, examples: Sequence[Example], pad_token_id: int) -> float:
    """Cross entropy in nats per trained token: each token weighs the same, whatever row it is in."""
    model.eval()
    total, num_tokens = 0.0, 0
    for rows in batches_by_length(examples):
        batch = {name: part.to(model.device) for name, part in collate(rows, pad_token_id).items()}
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1]
        is_trained = labels != IGNORED
        loss = functional.cross_entropy(logits[is_trained].float(), labels[is_trained], reduction="sum")
        total += loss.item()
        num_tokens += int(is_trained.sum())
    return total / num_tokens


def batches_by_length(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """All examples, the longest first, so that little is padded."""
    ordered = sorted(examples, key=lambda example: len(example.token_ids), reverse=True)
    for start in range(0, len(ordered), _BATCH_ROWS):
        yield ordered[start : start + _BATCH_ROWS]
