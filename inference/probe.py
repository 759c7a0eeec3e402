"""Optional capture of a request's hidden states and error vectors, which attribution uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from inference.model.decoder import MAX_LOGIT_ROWS
from inference.protocol import ProbeStates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

TOP_TOKENS = 8
"""Number of most likely tokens that an error vector includes."""


@dataclass(slots=True)
class ProbeSums:
    """Running sums of the final hidden states of one sequence, and of its answer's error vectors, in fp32.

    The states at positions 0 .. P-1 belong to the prompt of P tokens. Answer token i is predicted from the
    state at position P-1+i, so the answer's states are those at P-1 .. P+n-2. All of them exist when the last
    token has been sampled, and none costs an extra step. A given answer uses the same positions.
    """

    num_prompt_tokens: int
    has_error: bool = True
    """Whether error vectors are requested."""
    prompt: Tensor | None = None
    answer: Tensor | None = None
    """Without `last`."""
    error: Tensor | None = None
    num_seen: int = 0
    last: Tensor | None = None
    """The answer's newest state, which counts once a token is sampled from it."""

    def add(self, states: Tensor, start: int) -> None:
        """Add `states` [n, hidden] fp32 of positions start .. start+n-1.

        Skips positions seen before, which a preempted request computes again.
        """
        fresh, end = max(start, self.num_seen), start + len(states)
        if fresh >= end:
            return
        self.num_seen = end
        if fresh < self.num_prompt_tokens:
            self.prompt = _accumulate(self.prompt, states[fresh - start : self.num_prompt_tokens - start])
        fresh = max(fresh, self.num_prompt_tokens - 1)
        if fresh < end:
            if len(earlier := states[fresh - start : -1]):
                self._keep_last()
                self.answer = _accumulate(self.answer, earlier)
                self.last = None
            self._push(states[-1])

    def add_one(self, state: Tensor, position: int) -> None:
        """Add the `state` [hidden] fp32 of one position: as `add`, faster for the answer's."""
        if self.last is None or position < self.num_seen:
            self.add(state.unsqueeze(0), position)
        else:
            self._push(state)
            self.num_seen = position + 1

    def drop_last(self) -> None:
        """Remove the newest state: no token of the answer was sampled from it."""
        self.last = None

    def _push(self, state: Tensor) -> None:
        self._keep_last()
        self.last = state.clone()

    def _keep_last(self) -> None:
        if self.last is not None:
            self.answer = self.last if self.answer is None else self.answer.add_(self.last)

    def add_error(self, error: Tensor) -> None:
        """Add `error` [hidden] fp32 of an answer token."""
        self.error = error.clone() if self.error is None else self.error.add_(error)

    def add_cached(self, total: Tensor, num_tokens: int) -> None:
        """Add the states of the first `num_tokens` positions, whose sum is `total` [hidden] fp32. Either
        all of them lie before P-1, or all have been seen before.
        """
        if self.num_seen < num_tokens:
            self.prompt, self.num_seen = total, num_tokens

    def finish(self, num_answer_tokens: int) -> ProbeStates:
        """Means of the states and the sum of the errors. Raises `ValueError` before all of the prompt was
        seen.
        """
        if self.prompt is None or self.num_seen < self.num_prompt_tokens:
            raise ValueError("the prompt has not been computed yet")
        answer = None
        sums = [each for each in (self.answer, self.last) if each is not None]
        if num_answer_tokens and sums:
            answer = (sums[0] + sums[1] if len(sums) > 1 else sums[0]).div(num_answer_tokens).tolist()
        return ProbeStates(
            prompt=(self.prompt / self.num_prompt_tokens).tolist(),
            answer=answer,
            error=None if answer is None or self.error is None else self.error.tolist(),
            num_prompt_tokens=self.num_prompt_tokens,
            num_answer_tokens=num_answer_tokens,
        )


class OutputHead(Protocol):
    """The language model head."""

    def logits(self, hidden: Tensor, rows: Sequence[int], slots: Sequence[int]) -> Tensor:
        """[len(rows), vocab] of these rows of `hidden`, each under the adapter in its slot."""

    def top_probabilities(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As `inference.kernels.interface.Kernels.top_probabilities`."""

    def sum_outputs(self, weights: Tensor, token_ids: Tensor) -> Tensor:
        """Sums [n, hidden] fp32 of the output embeddings of `token_ids` [n, count], multiplied by `weights`
        [n, count] fp32.
        """


@dataclass(frozen=True, slots=True)
class LikelyTokens:
    """The model's most likely next tokens, for each probe that records errors."""

    rows: Sequence[int]  # of the batch's logits
    probes: Sequence[ProbeSums]
    probabilities: Tensor  # [n, TOP_TOKENS] fp32
    token_ids: Tensor  # [n, TOP_TOKENS]


class ErrorProbe:
    """Adds the error vectors of answer tokens to the probes of their requests.

    A token's error vector is W^T (p - y), the gradient of its loss (nats) with respect to the state that it
    is predicted from: W are the base model's output embeddings, without an adapter of the head; p the model's
    own probabilities of the `TOP_TOKENS` most likely tokens, before temperature, penalties and truncation; y
    the token.
    """

    def __init__(self, head: OutputHead) -> None:
        self._head = head

    def likely_tokens(self, probes: Sequence[ProbeSums | None], logits: Tensor) -> LikelyTokens | None:
        """Call this before sampling, which may overwrite `logits` [len(probes), vocab]. None if no probe
        records errors.
        """
        recording = [
            (row, probe) for row, probe in enumerate(probes) if probe is not None and probe.has_error
        ]
        if not recording:
            return None
        rows, recording_probes = zip(*recording, strict=True)
        selected = logits if len(rows) == len(logits) else logits[list(rows)]  # a tuple indexes dimensions
        return LikelyTokens(rows, recording_probes, *self._head.top_probabilities(selected, TOP_TOKENS))

    def add(self, likely: LikelyTokens, token_ids: Sequence[int]) -> None:
        """Add the errors of the sampled `token_ids`, one for each row of the batch's logits. Nothing is added
        where it is negative: no token was sampled.
        """
        sampled = [token_ids[row] for row in likely.rows]
        errors = self._errors(likely.probabilities, likely.token_ids, [max(0, token) for token in sampled])
        for probe, token, error in zip(likely.probes, sampled, errors.unbind(), strict=True):
            if token >= 0:
                probe.add_error(error)

    def add_given(
        self, probe: ProbeSums, targets: Sequence[tuple[int, int]], hidden: Tensor, start: int, slot: int
    ) -> None:
        """Add the errors of a given answer. `targets` are pairs of (position, token predicted from its
        state), `hidden` [n, hidden] the states of the positions from `start` on, under the adapter in `slot`.
        """
        for first in range(0, len(targets), MAX_LOGIT_ROWS):
            chunk = targets[first : first + MAX_LOGIT_ROWS]
            rows = [position - start for position, _ in chunk]
            logits = self._head.logits(hidden, rows, [slot] * len(rows))
            likely = self._head.top_probabilities(logits, TOP_TOKENS)
            probe.add_error(self._errors(*likely, [token for _, token in chunk]).sum(dim=0))

    def _errors(self, probabilities: Tensor, token_ids: Tensor, actual: Sequence[int]) -> Tensor:
        """[n, hidden] of the tokens `actual`; the first two are as in `LikelyTokens`."""
        weights = functional.pad(probabilities, (0, 1), value=-1.0)
        targets = torch.tensor(actual, device=token_ids.device).unsqueeze(1)
        return self._head.sum_outputs(weights, torch.cat((token_ids, targets), dim=1))


def _accumulate(total: Tensor | None, states: Tensor) -> Tensor:
    if total is None:
        return states.sum(dim=0)
    return total.add_(states.sum(dim=0))
