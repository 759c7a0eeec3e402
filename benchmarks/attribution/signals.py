"""Signals and scores of each attribution method, and their cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from workers.training.evaluate import predict
from workers.training.gradients import sketch_row_gradients
from workers.training.index import hidden_index
from workers.training.influence import GRADIENT_RIDGE, directions
from workers.training.sketch import CountSketch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from workers.training.rows import Example

TOP_TOKENS = 8
"""Number of most likely tokens per position that an error vector includes."""
BATCH_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Signals:
    """One row per example, in their order. Times are processor time."""

    hidden: Tensor  # [examples, hidden] mean final state over the answer
    error: Tensor  # [examples, hidden] sum over the answer of W^T (p - y)
    loss: Tensor  # [examples] summed over the answer, nats
    forward_seconds: float


@torch.inference_mode()
def forward_signals(model: Any, examples: Sequence[Example]) -> Signals:
    """Signals from one forward pass with the adapter of `model`."""
    model.eval()
    head = model.get_output_embeddings()
    hidden, error, loss = [], [], []
    began = time.process_time()
    for batch in _batches(examples):
        found = predict(model, batch)
        logits = head(found.states).float()
        losses = functional.cross_entropy(logits, found.labels, reduction="none")
        counts = torch.bincount(found.rows, minlength=len(batch))
        loss.append(_sum_by_row(losses.unsqueeze(1), found.rows, len(batch))[:, 0])
        hidden.append(_sum_by_row(found.states.float(), found.rows, len(batch)) / counts.unsqueeze(1))
        error.append(_sum_by_row(error_vectors(logits, found.labels, head.weight), found.rows, len(batch)))
    return Signals(torch.cat(hidden), torch.cat(error), torch.cat(loss), time.process_time() - began)


def error_vectors(logits: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    """W^T (p - y) of each token: [tokens, hidden] for `logits` [tokens, vocab] and the head's weight [vocab,
    hidden], with p restricted to the `TOP_TOKENS` most likely tokens.
    """
    top = (logits - logits.logsumexp(dim=1, keepdim=True)).topk(TOP_TOKENS)
    expected = torch.einsum("tk,tkh->th", top.values.exp(), head[top.indices].float())
    return expected - head[labels].float()


def gradient_signals(
    model: Any, examples: Sequence[Example], preamble: Sequence[int]
) -> tuple[Tensor, float]:
    """(sketched gradients [examples, size] with the adapter of `model`, processor seconds)."""
    sketch = CountSketch()
    began = time.process_time()
    found = {
        row: sketched[place]
        for batch, sketched in sketch_row_gradients(model, examples, preamble, sketch, lambda *_: None)
        for place, row in enumerate(batch)
    }
    seconds = time.process_time() - began
    return torch.stack([found[row] for row in examples]), seconds


def ridge_scores(
    rows: Tensor, contributions: Sequence[int], answers: Tensor, ridge: float = GRADIENT_RIDGE
) -> Tensor:
    """Scores [answers, contributors] by the formula of `gradient-ridge-3`, for any signal."""
    _, vectors = directions(rows, contributions, ridge)
    return answers @ vectors.T


def cosine_scores(rows: Tensor, contributions: Sequence[int], answers: Tensor) -> Tensor:
    """Scores [answers, contributors] by the formula of `hidden-cosine-1`."""
    index = hidden_index(rows, contributions)
    answered = functional.normalize(answers - index["hidden.centre"], dim=1)
    return (1 + answered @ index["hidden.vectors"].T) / 2


def uniform_scores(rows: Tensor, contributions: Sequence[int], answers: Tensor) -> Tensor:  # noqa: ARG001
    """Scores [answers, contributors]: the number of rows of each contributor."""
    return torch.bincount(torch.tensor(contributions)).float().expand(len(answers), -1)


def _batches(examples: Sequence[Example]) -> Sequence[Sequence[Example]]:
    """Batches in the order of `examples`; sort them by length for efficiency."""
    batches: list[list[Example]] = []
    for example in examples:
        longest = max(len(each.token_ids) for each in [*(batches[-1] if batches else []), example])
        if batches and longest * (len(batches[-1]) + 1) <= BATCH_TOKENS:
            batches[-1].append(example)
        else:
            batches.append([example])
    return batches


def _sum_by_row(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    return torch.zeros(num_rows, values.shape[1]).index_add_(0, rows, values)
