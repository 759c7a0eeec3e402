"""Random draws from logits, many rows at once. A row's draw never depends on other rows."""

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
# Logits processed at a time on a CPU, 1 MiB: groups that fit into the cache took a quarter of the time.
_GROUP_NUMEL = 1 << 18
# Numbers of most likely tokens to rank before ranking all: sorting a vocabulary costs thirty times as much as
# finding its best 256 tokens, which usually contain the whole nucleus.
_WIDTHS = (256, 4096)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 24 bits; the same on every machine."""
    words = seed.to_bytes(8, "big", signed=True) + position.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(words, digest_size=3).digest(), "big") / 2**24


def draw(
    logits: Tensor, rows: Sequence[int], samplings: Sequence[Sampling], numbers: Sequence[float]
) -> list[int]:
    """One token id for each of `rows` of `logits` [n, vocab] fp32, each with a finite maximum.

    Row `rows[i]` is drawn with `samplings[i]`: its distribution's cumulative sum is inverted at `numbers[i]`,
    from [0, 1). Temperature, min-p, top-k and top-p are applied in this order, each to the result of the one
    before.
    """
    group = len(rows) if logits.is_cuda else max(1, _GROUP_NUMEL // logits.shape[1])
    tokens: list[int] = []
    for start in range(0, len(rows), group):
        chunk = slice(start, start + group)
        tokens += _draw_group(logits[list(rows[chunk])], samplings[chunk], numbers[chunk])
    return tokens


def _draw_group(logits: Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]) -> list[int]:
    """Like `draw`, for all rows; overwrites `logits`."""
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
    """Probabilities [n, vocab] after temperature and min-p; overwrites `logits`."""
    # Subtract the maximum first, because division by a tiny temperature can overflow.
    logits -= logits.amax(dim=-1, keepdim=True)
    logits /= _column(logits, [each.temperature for each in samplings])
    if any(each.min_p for each in samplings):
        # The largest logit is zero here, so the floor is relative to the largest probability.
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
    """Draw for those of `rows` whose `width` most likely tokens contain all candidates; return the others."""
    if not rows:
        return []
    vocab = probabilities.shape[1]
    width = min(width, vocab)
    ranked, ids = probabilities[list(rows)].topk(width)
    cumulative = ranked.cumsum(dim=-1)
    limits = [min(samplings[row].top_k or vocab, vocab) for row in rows]
    last = torch.tensor([min(limit, width) - 1 for limit in limits], device=ranked.device).unsqueeze(1)
    # Top-p is relative to the mass left by top-k; without top-k that is 1, tokens that are not ranked
    # included.
    has_all = torch.tensor([limit == vocab for limit in limits], device=ranked.device).unsqueeze(1)
    mass = cumulative.gather(1, last).masked_fill(has_all, 1.0)
    target = mass * _column(ranked, [samplings[row].top_p for row in rows])
    is_kept = (cumulative - ranked < target) & (torch.arange(width, device=ranked.device) <= last)
    # At least one: a tiny top-p may round to zero in fp32.
    num_kept = is_kept.sum(dim=-1, keepdim=True).clamp_min(1)
    total = cumulative.gather(1, num_kept - 1)
    index = torch.searchsorted(
        cumulative, total * _column(ranked, [numbers[row] for row in rows]), right=True
    )
    # Rounding can move a number past the end; the token that reaches the total has a probability above zero.
    index = torch.minimum(index, torch.searchsorted(cumulative, total))
    # The mass that a top-k beyond the ranked tokens leaves is not known.
    is_complete = [
        limit <= width or (limit == vocab and is_reached)
        for limit, is_reached in zip(limits, (cumulative[:, -1:] >= target).squeeze(1).tolist(), strict=True)
    ]
    drawn = ids.gather(1, index).squeeze(1).tolist()
    for position, row in enumerate(rows):
        if is_complete[position]:
            tokens[row] = drawn[position]
    return [row for position, row in enumerate(rows) if not is_complete[position]]


def _invert(probabilities: Tensor, numbers: Tensor) -> list[int]:
    """For each row of [n, vocab], the index at which the cumulative sum passes its number [n, 1].

    Sums in blocks: a plain fp32 sum over the vocabulary would lose the tail, and one in fp64 costs ten
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
    """Index [n, 1] of the first sum above `target` [n, 1]; never one of a probability of zero."""
    index = torch.searchsorted(cumulative, target, right=True)
    return torch.minimum(index, torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()))


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    """[n, 1] fp32"""
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(1)
