"""What conversations begin with, read once for all rows that do.

Behind its first token a row repeats the chat template's preamble up to the user's words. Where no gradients
of these tokens are asked for, all rows see the same there: keys and values of each layer.
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
    """`layers` have the tokens behind the first one, which every row reads itself."""

    token_ids: tuple[int, ...]
    layers: Sequence[Layer]

    def skipped(self, counts: Tensor) -> list[Skipped]:
        """By the rows of a batch, each as many of these tokens as `counts` int64 [rows] says: by layer."""
        most = int(counts.max())
        return [Skipped(keys[:, :most], values[:, :most], counts) for keys, values in self.layers]


@dataclass(frozen=True, slots=True)
class Skipped:
    """What the rows of a batch see behind their first token without reading it: `keys` and `values` [heads,
    tokens, size], of which row i sees the first `counts[i]`.
    """

    keys: Tensor
    values: Tensor
    counts: Tensor  # int64 [rows]

    def of_row(self, number: int) -> Layer:
        count = int(self.counts[number])
        return self.keys[:, :count], self.values[:, :count]

    def in_front_of(self, keys: Tensor, values: Tensor, later: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(keys, values, what is hidden bool [rows, 1, longest, skipped + longest]) of all rows, what they
        skipped in front. Of what they read: `keys` and `values` [rows, heads, longest, size], `later` bool
        [longest, longest].
        """
        num_rows, longest = len(keys), len(later)
        skipped = (part.expand(num_rows, -1, -1, -1) for part in (self.keys, self.values))
        keys, values = (torch.cat(parts, dim=2) for parts in zip(skipped, (keys, values), strict=True))
        steps = torch.arange(self.keys.shape[1], device=keys.device)
        is_first = torch.arange(longest, device=keys.device).unsqueeze(1) == 0
        unseen = is_first | (steps >= self.counts.view(-1, 1, 1, 1))
        return keys, values, torch.cat([unseen, later.expand(num_rows, 1, -1, -1)], dim=3)


@torch.no_grad()
def read_preamble(model: Any, token_ids: Sequence[int]) -> Preamble | None:
    """One forward pass of a PEFT model as it is now. None where there is nothing to skip."""
    if len(token_ids) < 2:
        return None
    layers: list[Layer] = []
    model.get_base_model().base_model(
        input_ids=torch.tensor([token_ids], device=model.device),
        position_ids=torch.arange(len(token_ids), device=model.device).unsqueeze(0),
        row_lengths=torch.tensor([len(token_ids)], device=model.device),
        read_into=layers,
        use_cache=False,
    )
    return Preamble(tuple(token_ids), [(keys[:, 1:], values[:, 1:]) for keys, values in layers])
