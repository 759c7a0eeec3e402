"""From logits to tokens. Every request draws from its own stream of random numbers, whoever else is in the
batch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.protocol import Sampling

NOT_FINITE = -1  # stands for a token where the best logit is NaN or infinite
MIN_TEMPERATURE = 1e-6  # below it draws are greedy: a smaller one would be zero as a float32
_NUCLEUS_WIDTH = 256


def sample(
    logits: Tensor, samplings: Sequence[Sampling], seeds: Sequence[int], positions: Sequence[int]
) -> list[int]:
    """One token id per row of `logits` [n, vocab] fp32; `NOT_FINITE` where the row holds
    NaN or plus infinity, or nothing but minus infinity.

    Row i is drawn with the number that (`seeds[i]`, `positions[i]`) determines: stateless, so a preempted
    request goes on exactly where it was.
    """
    best = logits.max(dim=-1)
    tokens = best.indices.tolist()
    is_finite = torch.isfinite(best.values).tolist()
    for row, sampling in enumerate(samplings):
        if not is_finite[row]:
            tokens[row] = NOT_FINITE
        elif sampling.temperature >= MIN_TEMPERATURE and sampling.top_k != 1:
            tokens[row] = _draw(logits[row], sampling, uniform(seeds[row], positions[row]))
    return tokens


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 24 bits, the same on every machine."""
    words = seed.to_bytes(8, "big", signed=True) + position.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(words, digest_size=3).digest(), "big") / 2**24


def _draw(logits: Tensor, sampling: Sampling, number: float) -> int:
    """Invert the distribution's cumulative sum at `number`."""
    scaled = (
        logits - logits.max()
    ) / sampling.temperature  # the maximum goes first: tiny temperatures overflow
    probabilities = torch.softmax(scaled, dim=-1)
    if sampling.top_k == 0 and sampling.top_p == 1.0:
        return _invert(probabilities, number)
    ranked, ids = _nucleus(probabilities, sampling)
    return int(ids[_invert(ranked, number)])


def _nucleus(probabilities: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The likeliest `top_k` tokens, of them the fewest whose share reaches `top_p`; sorted, with ids."""
    vocab = len(probabilities)
    limit = min(sampling.top_k or vocab, vocab)
    # Sorting the whole vocabulary is rarely needed: a few hundred tokens usually hold all of the nucleus.
    width = min(limit, _NUCLEUS_WIDTH)
    ranked, ids = probabilities.topk(width)
    if width < limit and float(ranked.sum()) < sampling.top_p:
        ranked, ids = probabilities.topk(limit)
    if limit < vocab:
        ranked = ranked / (ranked.sum() if width == limit else probabilities.topk(limit).values.sum())
    before = ranked.cumsum(0) - ranked
    num_kept = max(1, int((before < sampling.top_p).sum()))
    return ranked[:num_kept], ids[:num_kept]


def _invert(probabilities: Tensor, number: float) -> int:
    """Index of the cumulative sum's step that holds `number`; never one of probability zero."""
    cumulative = probabilities.double().cumsum(0)
    total = cumulative[-1]
    index = torch.searchsorted(cumulative, total * number, right=True)
    last = torch.searchsorted(cumulative, total)
    return int(torch.minimum(index, last))
