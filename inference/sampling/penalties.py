"""What single tokens' logits are changed by before a draw: bias and penalties, for many rows at once.

Only the tokens concerned are touched, so the cost follows the lengths of the sequences, not the vocabulary.
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
        self._places = {token_id: place for place, token_id in enumerate(self._token_ids.tolist())}

    @property
    def token_ids(self) -> NDArray[np.int64]:
        return self._token_ids[: len(self._places)]

    @property
    def in_answer(self) -> NDArray[np.float32]:
        """Occurrences in the answer of each of `token_ids`; zero for a token of the prompt alone."""
        return self._in_answer[: len(self._places)]

    def push(self, token_id: int) -> None:
        """The answer goes on with `token_id`."""
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = len(self._places)
            if place == len(self._token_ids):
                self._token_ids = np.pad(self._token_ids, (0, place + 16))
                self._in_answer = np.pad(self._in_answer, (0, place + 16))
            self._token_ids[place] = token_id
        self._in_answer[place] += 1


def add_bias(logits: Tensor, rows: Sequence[int], biases: Sequence[dict[int, float]]) -> None:
    """Add in place `biases[i]`, by token id, to row `rows[i]` of `logits` [n, vocab]."""
    ids = [np.fromiter(bias, dtype=np.int64, count=len(bias)) for bias in biases]
    place = _places(logits, rows, ids)
    added = np.concatenate([np.fromiter(bias.values(), np.float32, count=len(bias)) for bias in biases])
    logits[place] += torch.from_numpy(added).to(logits.device)


def penalise(
    logits: Tensor, rows: Sequence[int], samplings: Sequence[Sampling], counts: Sequence[TokenCounts]
) -> None:
    """Apply in place the penalties of `samplings[i]` over `counts[i]` to row `rows[i]` of `logits`.

    Repetition as in transformers (`RepetitionPenaltyLogitsProcessor`): the logit of every token of prompt or
    answer is divided by it where positive and multiplied by it elsewhere. Then as OpenAI's API and vLLM
    define them, over the answer alone: minus the frequency penalty times the token's occurrences, minus the
    presence penalty once if there is any.
    """
    place = _places(logits, rows, [each.token_ids for each in counts])
    lengths = [len(each.token_ids) for each in counts]

    def spread(values: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, np.float32), lengths)).to(logits.device)

    occurrences = torch.from_numpy(np.concatenate([each.in_answer for each in counts])).to(logits.device)
    repetition = spread([each.repetition_penalty for each in samplings])
    touched = logits[place]
    touched = torch.where(touched > 0, touched / repetition, touched * repetition)
    touched -= spread([each.frequency_penalty for each in samplings]) * occurrences
    touched -= spread([each.presence_penalty for each in samplings]) * (occurrences > 0)
    logits[place] = touched


def _places(logits: Tensor, rows: Sequence[int], ids: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Indices of (row, token id) pairs; no pair occurs twice."""
    repeated = np.repeat(np.array(rows, np.int64), [len(each) for each in ids])
    return (
        torch.from_numpy(repeated).to(logits.device),
        torch.from_numpy(np.concatenate(ids)).to(logits.device),
    )
