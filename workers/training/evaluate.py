"""How well a model predicts rows that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from workers.training.packing import computing, flatten
from workers.training.progress import Pulse
from workers.training.rows import own_positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from workers.training.preamble import Preamble
    from workers.training.progress import Emit
    from workers.training.rows import Example

BATCH_TOKENS = 4096
"""What bounds memory is the logits, a vocabulary wide for each token."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """All trained tokens of a batch, row by row: `labels` [tokens] and `rows` [tokens], each one's row in the
    batch, both int64, and the final `states` [tokens, hidden] that they are predicted from.
    """

    states: Tensor
    labels: Tensor
    rows: Tensor


def predictions(model: Any, rows: Sequence[Example], preamble: Preamble | None = None) -> Predictions:
    """One forward pass, without the head: logits of a prompt's tokens would cost more than their layers. What
    rows have of `preamble` behind their first token is not read again.
    """
    left_out = preamble.token_ids if preamble else ()
    batch = {name: part.to(model.device) for name, part in flatten(rows, left_out).items()}
    seen: dict[str, Any] = {name: batch[name] for name in ("input_ids", "position_ids", "row_lengths")}
    if preamble:
        whole = torch.tensor([len(row.token_ids) for row in rows], device=model.device)
        seen["skipped"] = preamble.skipped(whole - batch["row_lengths"])
    decoder, kept = model.get_base_model().base_model, batch["logits_to_keep"]
    states = decoder(**seen, use_cache=False).last_hidden_state[0]
    numbers = torch.arange(len(rows), device=model.device).repeat_interleave(batch["row_lengths"])
    return Predictions(states[kept], batch["shift_labels"][0], numbers[kept])


@torch.inference_mode()
def mean_loss(model: Any, examples: Sequence[Example], emit: Emit) -> float:
    """Cross entropy in nats per trained token: each token weighs the same, whatever row it is in."""
    model.eval()
    total, num_tokens = 0.0, 0
    pulse = Pulse(emit, "evaluation", len(examples))
    for rows in batches_by_length(examples):
        with computing(model):
            found = predictions(model, rows)
            logits = model.get_output_embeddings()(found.states)
        total += functional.cross_entropy(logits.float(), found.labels, reduction="sum").item()
        num_tokens += len(found.labels)
        pulse.advance(len(rows))
    return total / num_tokens


def batches_by_length(
    examples: Sequence[Example], batch_tokens: int = BATCH_TOKENS, preamble: Sequence[int] = ()
) -> Iterator[Sequence[Example]]:
    """All examples, the longest first; `batch_tokens` or one row at a time. What rows have of `preamble`
    behind their first token does not count.
    """

    def length(example: Example) -> int:
        return len(own_positions(example, preamble))

    ordered = sorted(examples, key=length, reverse=True)
    start = 0
    while start < len(ordered):
        end = start + max(1, batch_tokens // length(ordered[start]))
        yield ordered[start:end]
        start = end
