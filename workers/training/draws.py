"""Checks that an adapter would generate given answers with given seeds, in one pass over the answers.

The engine draws a token by inverting the cumulative distribution at a random number that seed and place
determine (`inference.sampling.draw`). Given the tokens before it, each token is checked by itself, so that a
rounding error changes one token and not all after it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from backend.domain.attribution import MAX_ANSWER_TOKENS
from backend.domain.attribution_checks import Draws
from inference.sampling.draw import uniform
from workers.training.answers import TEMPERATURE
from workers.training.evaluate import batches_by_length, predict
from workers.training.packing import mixed_precision
from workers.training.progress import ProgressReporter, after_each_layer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

    from workers.training.answers import Answer
    from workers.training.progress import Emit
    from workers.training.rows import Example

_LOGIT_ROWS = 64  # computed at a time, because a row of logits is as wide as the vocabulary


@torch.inference_mode()
def check_draws(model: Any, answers: Sequence[Answer], end_tokens: Collection[int], emit: Emit) -> Draws:
    """`model` is a PEFT model with the adapter; `end_tokens` end an answer."""
    model.eval()
    progress = ProgressReporter(emit, "draws", len(answers))
    numbered = [replace(answer.example, contribution=number) for number, answer in enumerate(answers)]
    misses: list[Tensor] = []
    for batch in batches_by_length(numbered):
        seeds = [answers[each.contribution].prompt.seed for each in batch]
        with after_each_layer(model, progress.still_working):
            misses.append(_misses(model, batch, seeds))
        progress.advance(len(batch))
    found = torch.cat(misses)
    return Draws(
        num_answers=len(answers),
        num_tokens=len(found),
        num_missed=int((found > 0).sum()),
        mean_miss=float(found.mean()),
        largest_miss=float(found.max()),
        num_cut=sum(not _is_whole(answer.token_ids, end_tokens) for answer in answers),
    )


def _misses(model: Any, batch: Sequence[Example], seeds: Sequence[int]) -> Tensor:
    """Probability between each answer token's random number and the token, fp64 [tokens]; zero if the number
    draws the token.
    """
    with mixed_precision(model):
        predicted = predict(model, batch)
    drawn = [uniform(s, i) for s, each in zip(seeds, batch, strict=True) for i in range(each.num_trained)]
    numbers = torch.tensor(drawn, dtype=torch.float64, device=predicted.labels.device)
    head = model.get_output_embeddings()
    found = []
    for start in range(0, len(drawn), _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        logits = head(predicted.states[part]).float()
        probabilities = (logits / TEMPERATURE).softmax(dim=1).double()
        cumulative = probabilities.cumsum(dim=1)
        column, total = predicted.labels[part].unsqueeze(1), cumulative[:, -1]
        upper = cumulative.gather(1, column).squeeze(1) / total
        lower = upper - probabilities.gather(1, column).squeeze(1) / total
        found.append(torch.maximum(lower - numbers[part], numbers[part] - upper).clamp(min=0).cpu())
    return torch.cat(found)


def _is_whole(token_ids: Sequence[int], end_tokens: Collection[int]) -> bool:
    """Whether the answer ends where the engine ends it: with the first end token, or at the limit."""
    is_end = [token in end_tokens for token in token_ids]
    is_last = len(token_ids) == MAX_ANSWER_TOKENS or (is_end[-1] and len(token_ids) < MAX_ANSWER_TOKENS)
    return is_last and not any(is_end[:-1])
