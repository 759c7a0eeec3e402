"""A mixture of experts: a router chooses a few of many MLPs for each token (Shazeer et al. 2017,
https://arxiv.org/abs/1701.06538).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from inference.kernels.interface import Projection


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one layer. A token's result does not depend on the other tokens of the batch."""

    router: Tensor  # [num_experts, hidden]
    gate_up: Sequence[Projection]  # of each expert
    down: Sequence[Projection]
    num_used: int
    is_normalised: bool
    gate: Callable[[Tensor], Tensor]

    def __call__(self, states: Tensor) -> Tensor:
        """The weighted sum of each token's experts, [num_tokens, hidden] like `states`."""
        weights, chosen = self._route(states)
        result = torch.zeros_like(states)
        for expert in sorted(set(chosen.flatten().tolist())):
            tokens, places = torch.where(chosen == expert)
            gated = self.gate(self.gate_up[expert](states[tokens]))
            result.index_add_(0, tokens, self.down[expert](gated) * weights[tokens, places].unsqueeze(1))
        return result

    def _route(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of each token's experts, [num_tokens, num_used] both."""
        probabilities = functional.linear(states, self.router).float().softmax(dim=-1)
        best = probabilities.topk(self.num_used, dim=-1)
        weights = best.values
        if self.is_normalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.to(states.dtype), best.indices
