"""Computes the keys and values of the chat template's preamble once for all rows.

After its first token, a row repeats the preamble up to the user's words. Where no gradients of these tokens
are needed, their keys and values are the same in all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Layer = tuple["Tensor", "Tensor"]
"""Keys and values, both [heads, tokens, size]."""


@dataclass(frozen=True, slots=True)
class Preamble:
    """`layers` exclude the first token, which every row computes itself."""

    token_ids: tuple[int, ...]
    layers: Sequence[Layer]

    def prefixes(self, counts: Tensor) -> list[PrefixCache]:
        """Per layer, the prefix of a batch whose rows omit `counts` int64 [rows] of these tokens."""
        longest = int(counts.max())
        return [PrefixCache(keys[:, :longest], values[:, :longest], counts) for keys, values in self.layers]


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """Cached tokens that the rows of a batch attend to after their first one: `keys` and `values` [heads,
    tokens, size], of which row i sees the first `counts[i]`.
    """

    keys: Tensor
    values: Tensor
    counts: Tensor  # int64 [rows]

    def of_row(self, row: int) -> Layer:
        count = int(self.counts[row])
        return self.keys[:, :count], self.values[:, :count]

    def prepend_to(self, keys: Tensor, values: Tensor, later: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(keys, values, mask of hidden tokens bool [rows, 1, longest, cached + longest]), the cache first.

        `keys` and `values` [rows, heads, longest, size] are of the computed tokens, and `later` bool
        [longest, longest] hides later ones.
        """
        num_rows, longest = len(keys), len(later)
        cached = (part.expand(num_rows, -1, -1, -1) for part in (self.keys, self.values))
        keys, values = (torch.cat(parts, dim=2) for parts in zip(cached, (keys, values), strict=True))
        steps = torch.arange(self.keys.shape[1], device=keys.device)
        is_first = torch.arange(longest, device=keys.device).unsqueeze(1) == 0
        unseen = is_first | (steps >= self.counts.view(-1, 1, 1, 1))
        return keys, values, torch.cat([unseen, later.expand(num_rows, 1, -1, -1)], dim=3)


@torch.no_grad()
def compute_preamble(model: Any, token_ids: Sequence[int]) -> Preamble | None:
    """Run one forward pass of a PEFT model with its present weights. None if there is nothing to cache."""
    if len(token_ids) < 2:
        return None
    layers: list[Layer] = []
    model.get_base_model().base_model(
        input_ids=torch.tensor([token_ids], device=model.device),
        position_ids=torch.arange(len(token_ids), device=model.device).unsqueeze(0),
        row_lengths=torch.tensor([len(token_ids)], device=model.device),
        record_into=layers,
        use_cache=False,
    )
    return Preamble(tuple(token_ids), [(keys[:, 1:], values[:, 1:]) for keys, values in layers])
