"""Log-probabilities of sampled tokens and of their most likely alternatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inference.protocol import MAX_TOP_LOGPROBS, TokenLogprob, TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_MIN_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's API documents this value for very unlikely tokens


def gather_logprobs(
    logits: Tensor,
    token_ids: Sequence[int],
    num_top: Sequence[int],
    token_bytes: Callable[[int], bytes],
) -> list[TokenLogprobs]:
    """For row i of `logits` [n, vocab] fp32: log-probabilities of `token_ids[i]` and of the `num_top[i]` best
    tokens.
    """
    logprobs = torch.log_softmax(logits, dim=-1).clamp_min(_MIN_LOGPROB)
    index = torch.tensor(token_ids, device=logits.device).unsqueeze(1)
    sampled: list[float] = logprobs.gather(1, index).squeeze(1).tolist()
    # The same number for every row, so that the order of equal values does not depend on other requests.
    best = logprobs.topk(min(MAX_TOP_LOGPROBS, logits.shape[1]))
    top_ids, top_values = best.indices.tolist(), best.values.tolist()

    def token_logprob(token_id: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token_id, token_bytes(token_id), logprob)

    return [
        TokenLogprobs(
            token_logprob(token_id, sampled[row]),
            [
                token_logprob(*pair)
                for pair in zip(top_ids[row][:count], top_values[row][:count], strict=True)
            ],
        )
        for row, (token_id, count) in enumerate(zip(token_ids, num_top, strict=True))
    ]
