"""Random draws from logits, many rows at once. A row's draw never depends on the rows beside it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.protocol import Sampling

_BLOCK = 256
# Logits worked on at once on a CPU, 1 MiB: what fits its cache was measured to take a quarter of the time.
_GROUP_NUMEL = 1 << 18
# How many of the likeliest tokens to rank before giving up and ranking all: sorting a vocabulary costs
# thirty times as much as finding its 256 best, and they usually hold all of the nucleus.
_WIDTHS = (256, 4096)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 24 bits, the same on every machine."""
    words = seed.to_bytes(8, "big", signed=True) + position.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(words, digest_size=3).digest(), "big") / 2**24


def draw(
    logits: Tensor, rows: Sequence[int], samplings: Sequence[Sampling], numbers: Sequence[float]
) -> list[int]:
    """One token id for each of `rows` of `logits` [n, vocab] fp32, each with a finite maximum.

    Row `rows[i]` is drawn by `samplings[i]`: its distribution's cumulative sum is inverted at `numbers[i]`,
    from [0, 1). The temperature is applied first, then min-p, then top-k, then top-p over what is left.
    """
    group = len(rows) if logits.is_cuda else max(1, _GROUP_NUMEL // logits.shape[1])
    tokens: list[int] = []
    for start in range(0, len(rows), group):
        part = slice(start, start + group)
        tokens += _draw_group(logits[list(rows[part])], samplings[part], numbers[part])
    return tokens


def _draw_group(logits: Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]) -> list[int]:
    """As `draw`, of all rows; `logits` are overwritten."""
    probabilities = _distributions(logits, samplings)
    ranked = [row for row, each in enumerate(samplings) if each.top_k or each.top_p < 1.0]
    plain = [row for row, each in enumerate(samplings) if not (each.top_k or each.top_p < 1.0)]
    tokens = [0] * len(samplings)
    if plain:
        found = _invert(probabilities[plain], _column(logits, [numbers[row] for row in plain]))
        for row, token_id in zip(plain, found, strict=True):
            tokens[row] = token_id
    for width in _WIDTHS:
        ranked = _draw_ranked(probabilities, samplings, numbers, ranked, width, tokens)
    _draw_ranked(probabilities, samplings, numbers, ranked, logits.shape[1], tokens)
    return tokens


def _distributions(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Probabilities [n, vocab] after temperature and min-p; `logits` are overwritten."""
    # The maximum goes first: tiny temperatures overflow.
    logits -= logits.amax(dim=-1, keepdim=True)
    logits /= _column(logits, [each.temperature for each in samplings])
    if any(each.min_p for each in samplings):
        # The likeliest token's logit is zero here, so the floor is a share of its probability.
        floors = _column(logits, [each.min_p for each in samplings]).log()
        logits.masked_fill_(logits < floors, -torch.inf)
    return torch.softmax(logits, dim=-1)


def _draw_ranked(
    probabilities: Tensor,
    samplings: Sequence[Sampling],
    numbers: Sequence[float],
    rows: Sequence[int],
    width: int,
    tokens: list[int],
) -> list[int]:
    """Draw for those of `rows` whose `width` likeliest tokens hold all that may be drawn; the others."""
    if not rows:
        return []
    vocab = probabilities.shape[1]
    width = min(width, vocab)
    ranked, ids = probabilities[list(rows)].topk(width)
    cumulative = ranked.cumsum(dim=-1)
    limits = [min(samplings[row].top_k or vocab, vocab) for row in rows]
    last = torch.tensor([min(limit, width) - 1 for limit in limits], device=ranked.device).unsqueeze(1)
    # Top-p is a share of what top-k left; without top-k that is everything, ranked or not.
    has_all = torch.tensor([limit == vocab for limit in limits], device=ranked.device).unsqueeze(1)
    mass = cumulative.gather(1, last).masked_fill(has_all, 1.0)
    target = mass * _column(ranked, [samplings[row].top_p for row in rows])
    is_kept = (cumulative - ranked < target) & (torch.arange(width, device=ranked.device) <= last)
    num_kept = is_kept.sum(dim=-1, keepdim=True)
    total = cumulative.gather(1, num_kept - 1)
    place = torch.searchsorted(
        cumulative, total * _column(ranked, [numbers[row] for row in rows]), right=True
    )
    # Rounding may carry a number past the end; the step that reaches the total is never of probability zero.
    place = torch.minimum(place, torch.searchsorted(cumulative, total))
    is_enough = [
        limit <= width or reached
        for limit, reached in zip(limits, (cumulative[:, -1:] >= target).squeeze(1).tolist(), strict=True)
    ]
    drawn = ids.gather(1, place).squeeze(1).tolist()
    for index, row in enumerate(rows):
        if is_enough[index]:
            tokens[row] = drawn[index]
    return [row for index, row in enumerate(rows) if not is_enough[index]]


def _invert(probabilities: Tensor, numbers: Tensor) -> list[int]:
    """For each row of [n, vocab] the index of the cumulative sum's step that holds its number [n, 1].

    Summed in blocks: a plain fp32 sum over the vocabulary would lose its tail, and one in fp64 costs ten
    times as much.
    """
    num_rows, vocab = probabilities.shape
    padded = functional.pad(probabilities, (0, -vocab % _BLOCK)) if vocab % _BLOCK else probabilities
    blocks = padded.view(num_rows, -1, _BLOCK).cumsum(dim=-1)
    outer = blocks[..., -1].double().cumsum(dim=-1)
    target = outer[:, -1:] * numbers.double()
    block = _step(outer, target)
    before = functional.pad(outer, (1, 0)).gather(1, block)
    inner = blocks[torch.arange(num_rows, device=blocks.device), block.squeeze(1)].double()
    found: list[int] = (block * _BLOCK + _step(inner, target - before)).squeeze(1).tolist()
    return found


def _step(cumulative: Tensor, target: Tensor) -> Tensor:
    """Index [n, 1] of the first step above `target` [n, 1]; never a step of height zero."""
    place = torch.searchsorted(cumulative, target, right=True)
    return torch.minimum(place, torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()))


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    """[n, 1] fp32"""
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(1)
