"""Optional capture of a request's hidden states and error vectors, which attribution uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from inference.protocol import ProbeStates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

TOP_TOKENS = 8
"""Number of most likely tokens that an error vector includes."""
_LOGIT_ROWS = 64  # computed at a time, because a row of logits is as wide as the vocabulary
_BLOCK = 256


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
    error: Tensor | None = None
    num_seen: int = 0

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
            self.answer = _accumulate(self.answer, states[fresh - start :])

    def add_error(self, error: Tensor) -> None:
        """Add `error` [hidden] fp32 of an answer token."""
        self.error = error if self.error is None else self.error + error

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
        if num_answer_tokens and self.answer is not None:
            answer = (self.answer / num_answer_tokens).tolist()
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

    def output_rows(self, token_ids: Tensor) -> Tensor:
        """Output embeddings of `token_ids`, [len(token_ids), hidden]."""


@dataclass(frozen=True, slots=True)
class ExpectedOutputs:
    """The model's expected output embedding, W^T p in `ErrorProbe`, for each probe that records errors."""

    rows: Sequence[int]  # of the batch's logits
    probes: Sequence[ProbeSums]
    outputs: Tensor  # [n, hidden]


class ErrorProbe:
    """Adds the error vectors of answer tokens to the probes of their requests.

    A token's error vector is W^T (p - y), the gradient of its loss (nats) with respect to the state that it
    is predicted from: W are the base model's output embeddings, without an adapter of the head; p the model's
    own probabilities of the `TOP_TOKENS` most likely tokens, before temperature, penalties and truncation; y
    the token.
    """

    def __init__(self, head: OutputHead) -> None:
        self._head = head

    def expected_outputs(self, probes: Sequence[ProbeSums | None], logits: Tensor) -> ExpectedOutputs | None:
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
        return ExpectedOutputs(rows, recording_probes, self._expected(selected))

    def add(self, expected: ExpectedOutputs, token_ids: Sequence[int]) -> None:
        """Add the errors of the sampled `token_ids`, one for each row of the batch's logits."""
        sampled = torch.tensor([token_ids[row] for row in expected.rows], device=expected.outputs.device)
        errors = expected.outputs - self._head.output_rows(sampled).float()
        for probe, error in zip(expected.probes, errors, strict=True):
            probe.add_error(error)

    def add_given(
        self, probe: ProbeSums, targets: Sequence[tuple[int, int]], hidden: Tensor, start: int, slot: int
    ) -> None:
        """Add the errors of a given answer. `targets` are pairs of (position, token predicted from its
        state), `hidden` [n, hidden] the states of the positions from `start` on, under the adapter in `slot`.
        """
        for first in range(0, len(targets), _LOGIT_ROWS):
            chunk = targets[first : first + _LOGIT_ROWS]
            rows = [position - start for position, _ in chunk]
            logits = self._head.logits(hidden, rows, [slot] * len(rows))
            given = torch.tensor([token for _, token in chunk], device=hidden.device)
            errors = self._expected(logits) - self._head.output_rows(given).float()
            probe.add_error(errors.sum(dim=0))

    def _expected(self, logits: Tensor) -> Tensor:
        values, token_ids = top_tokens(logits)
        # One row at a time, so that its fp32 copy stays in the CPU's cache.
        totals = torch.stack([row.float().logsumexp(dim=0) for row in logits])
        weights = (values.float() - totals.unsqueeze(1)).exp()
        rows = self._head.output_rows(token_ids.flatten()).float().view(*token_ids.shape, -1)
        return torch.bmm(weights.unsqueeze(1), rows).squeeze(1)


def top_tokens(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The `TOP_TOKENS` largest of each row of `logits` [n, vocab] and their ids, both [n, TOP_TOKENS].

    Takes a third of the time of `topk` over the vocabulary: it searches only the blocks with the largest
    maxima, which contain them.
    """
    num_rows, vocab = logits.shape
    count = min(TOP_TOKENS, vocab)
    if vocab % _BLOCK or vocab // _BLOCK < count:
        found = logits.topk(count, dim=1)
        return found.values, found.indices
    blocks = logits.view(num_rows, -1, _BLOCK)
    best = blocks.amax(dim=2).topk(count, dim=1).indices
    candidates = blocks.gather(1, best.unsqueeze(2).expand(-1, -1, _BLOCK)).flatten(1)
    values, indices = candidates.topk(count, dim=1)
    return values, best.gather(1, indices // _BLOCK) * _BLOCK + indices % _BLOCK


def _accumulate(total: Tensor | None, states: Tensor) -> Tensor:
    if total is None:
        return states.sum(dim=0)
    # Decoding adds one state per request and step, so this skips the sum for a single state.
    return total.add_(states[0] if len(states) == 1 else states.sum(dim=0))
