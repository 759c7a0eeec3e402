"""Logit bias and penalties, for many rows at once.

Only the logits of affected tokens are changed, so the cost depends on the lengths of the sequences, not on
the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from inference.protocol import Sampling


class TokenCounts:
    """The distinct tokens of a sequence and how often each occurs in its answer; grows token by token."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._token_ids = np.unique(np.asarray(prompt, dtype=np.int64))
        self._in_answer = np.zeros(len(self._token_ids), dtype=np.float32)
        self._index = {token_id: index for index, token_id in enumerate(self._token_ids.tolist())}

    @property
    def token_ids(self) -> NDArray[np.int64]:
        return self._token_ids[: len(self._index)]

    @property
    def in_answer(self) -> NDArray[np.float32]:
        """Occurrences in the answer of each of `token_ids`; zero for tokens of the prompt alone."""
        return self._in_answer[: len(self._index)]

    def push(self, token_id: int) -> None:
        """Append `token_id` to the answer."""
        index = self._index.get(token_id)
        if index is None:
            index = self._index[token_id] = len(self._index)
            if index == len(self._token_ids):
                self._token_ids = np.pad(self._token_ids, (0, index + 16))
                self._in_answer = np.pad(self._in_answer, (0, index + 16))
            self._token_ids[index] = token_id
        self._in_answer[index] += 1


def add_bias(logits: Tensor, rows: Sequence[int], biases: Sequence[dict[int, float]]) -> None:
    """Add `biases[i]`, by token id, to row `rows[i]` of `logits` [n, vocab] in place."""
    ids = [np.fromiter(bias, dtype=np.int64, count=len(bias)) for bias in biases]
    index = _index(logits, rows, ids)
    added = np.concatenate([np.fromiter(bias.values(), np.float32, count=len(bias)) for bias in biases])
    logits[index] += torch.from_numpy(added).to(logits.device)


def penalise(
    logits: Tensor, rows: Sequence[int], samplings: Sequence[Sampling], counts: Sequence[TokenCounts]
) -> None:
    """Apply the penalties of `samplings[i]` over `counts[i]` to row `rows[i]` of `logits` in place.

    Repetition as in transformers (`RepetitionPenaltyLogitsProcessor`): the logit of every token of prompt or
    answer is divided by the penalty if positive, else multiplied by it. Frequency and presence penalty as in
    OpenAI's API and vLLM, over the answer alone: the frequency penalty is subtracted once per occurrence of
    the token, the presence penalty once if there is any.
    """
    index = _index(logits, rows, [each.token_ids for each in counts])
    lengths = [len(each.token_ids) for each in counts]

    def per_token(values: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, np.float32), lengths)).to(logits.device)

    occurrences = torch.from_numpy(np.concatenate([each.in_answer for each in counts])).to(logits.device)
    repetition = per_token([each.repetition_penalty for each in samplings])
    penalised = logits[index]
    penalised = torch.where(penalised > 0, penalised / repetition, penalised * repetition)
    penalised -= per_token([each.frequency_penalty for each in samplings]) * occurrences
    penalised -= per_token([each.presence_penalty for each in samplings]) * (occurrences > 0)
    logits[index] = penalised


def _index(logits: Tensor, rows: Sequence[int], ids: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Indices of (row, token id) pairs; no pair occurs twice."""
    repeated = np.repeat(np.array(rows, np.int64), [len(each) for each in ids])
    return (
        torch.from_numpy(repeated).to(logits.device),
        torch.from_numpy(np.concatenate(ids)).to(logits.device),
    )
