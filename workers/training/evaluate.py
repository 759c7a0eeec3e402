"""Evaluates a model: forward passes over batches of rows, and the mean loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from workers.training.packing import collate, mixed_precision
from workers.training.progress import ProgressReporter, after_each_layer
from workers.training.rows import computed_positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from workers.training.preamble import Preamble
    from workers.training.progress import Emit
    from workers.training.rows import Example

BATCH_TOKENS = 4096
"""Limits the logits, whose memory dominates: each token has one per entry of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The trained tokens of a batch, row by row: `labels` int64 [tokens], the row of each, `rows` int64
    [tokens], and the final `states` [tokens, hidden] that predict them.
    """

    states: Tensor
    labels: Tensor
    rows: Tensor


def predict(model: Any, rows: Sequence[Example], preamble: Preamble | None = None) -> Predictions:
    """One forward pass without the head: logits of a prompt's tokens would cost more than their layers.
    Tokens of `preamble` after a row's first token come from its cache.
    """
    omitted = preamble.token_ids if preamble else ()
    batch = {name: part.to(model.device) for name, part in collate(rows, omitted).items()}
    inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "position_ids", "row_lengths")}
    if preamble:
        lengths = torch.tensor([len(row.token_ids) for row in rows], device=model.device)
        inputs["prefixes"] = preamble.prefixes(lengths - batch["row_lengths"])
    decoder, kept = model.get_base_model().base_model, batch["logits_to_keep"]
    states = decoder(**inputs, use_cache=False).last_hidden_state[0]
    numbers = torch.arange(len(rows), device=model.device).repeat_interleave(batch["row_lengths"])
    return Predictions(states[kept], batch["shift_labels"][0], numbers[kept])


@torch.inference_mode()
def mean_loss(model: Any, examples: Sequence[Example], emit: Emit) -> float:
    """Cross entropy in nats, averaged over all trained tokens."""
    model.eval()
    total, num_tokens = 0.0, 0
    progress = ProgressReporter(emit, "evaluation", len(examples))
    for rows in batches_by_length(examples):
        with mixed_precision(model), after_each_layer(model, progress.still_working):
            predicted = predict(model, rows)
            logits = model.get_output_embeddings()(predicted.states)
        total += functional.cross_entropy(logits.float(), predicted.labels, reduction="sum").item()
        num_tokens += len(predicted.labels)
        progress.advance(len(rows))
    return total / num_tokens


def batches_by_length(
    examples: Sequence[Example], batch_tokens: int = BATCH_TOKENS, preamble: Sequence[int] = ()
) -> Iterator[Sequence[Example]]:
    """All examples, the longest first, in batches of at most `batch_tokens` tokens or one row. Tokens of
    `preamble` after a row's first token do not count.
    """

    def length(example: Example) -> int:
        return len(computed_positions(example, preamble))

    ordered = sorted(examples, key=length, reverse=True)
    start = 0
    while start < len(ordered):
        end = start + max(1, batch_tokens // length(ordered[start]))
        yield ordered[start:end]
        start = end
