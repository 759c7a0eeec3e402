"""Log-probabilities of chosen tokens and of their likeliest alternatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inference.protocol import MAX_TOP_LOGPROBS, TokenLogprob, TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_MIN_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's API documents this value for the most unlikely tokens


def take_logprobs(
    logits: Tensor,
    token_ids: Sequence[int],
    num_top: Sequence[int],
    token_bytes: Callable[[int], bytes],
) -> list[TokenLogprobs]:
    """Of each row of `logits` [n, vocab] fp32: the chosen token's and the `num_top[i]` best ones'."""
    logprobs = torch.log_softmax(logits, dim=-1).clamp_min(_MIN_LOGPROB)
    place = torch.tensor(token_ids, device=logits.device).unsqueeze(1)
    chosen: list[float] = logprobs.gather(1, place).squeeze(1).tolist()
    # As many for every row, so that the order of equals does not depend on what others ask for.
    best = logprobs.topk(min(MAX_TOP_LOGPROBS, logits.shape[1]))
    top_ids, top_values = best.indices.tolist(), best.values.tolist()

    def named(token_id: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token_id, token_bytes(token_id), logprob)

    return [
        TokenLogprobs(
            named(token_id, chosen[row]),
            [named(*pair) for pair in zip(top_ids[row][:count], top_values[row][:count], strict=True)],
        )
        for row, (token_id, count) in enumerate(zip(token_ids, num_top, strict=True))
    ]
