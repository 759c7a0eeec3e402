"""Optional capture of a request's states, for attribution. What they are used for is not known here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from inference.protocol import ProbeStates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.request import Request

TOP_TOKENS = 8
"""How many of the likeliest tokens count in an error vector."""
_LOGIT_ROWS = 64  # at a time: logits are a vocabulary wide
_BLOCK = 256


@dataclass(slots=True)
class ProbeSums:
    """Running sums of the final hidden states of one sequence, and of its answer's error vectors, in fp32.

    The states at positions 0 .. P-1 belong to the prompt of P tokens. Answer token i is predicted from the
    state at position P-1+i, so the answer's states are those at P-1 .. P+n-2: all of them exist when the last
    token has been sampled, and none costs an extra step. Offline, on given tokens, the same positions are
    taken.
    """

    num_prompt_tokens: int
    has_error: bool = True
    """Whether error vectors are wanted."""
    prompt: Tensor | None = None
    answer: Tensor | None = None
    error: Tensor | None = None
    num_seen: int = 0

    def add(self, states: Tensor, start: int) -> None:
        """Take in `states` [n, hidden] fp32 of positions start .. start+n-1.

        Positions seen before are skipped: a preempted request computes them again.
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
        """Take in `error` [hidden] fp32 of an answer token."""
        self.error = error if self.error is None else self.error + error

    def adopt(self, total: Tensor, num_tokens: int) -> None:
        """The states of the first `num_tokens` positions add up to `total` [hidden] fp32. All of them lie
        before P-1, or all have been seen before.
        """
        if self.num_seen < num_tokens:
            self.prompt, self.num_seen = total, num_tokens

    def finish(self, num_answer_tokens: int) -> ProbeStates:
        """Means of states, the sum of errors. Raises `ValueError` before the whole prompt was seen."""
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


class OutputSide(Protocol):
    """Where states become logits."""

    def logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        """[len(rows), vocab] of these rows of `hidden`."""

    def output_rows(self, token_ids: Tensor) -> Tensor:
        """Output embeddings [len(token_ids), hidden]: what states are multiplied by for these logits."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model expected in the places of some tokens: a row of `outputs` [n, hidden] for each probe."""

    places: Sequence[int]
    probes: Sequence[ProbeSums]
    outputs: Tensor


class ErrorProbe:
    """Adds the error vectors of answer tokens to the probes of their requests.

    That of a token is W^T (p - y), the gradient of its loss (nats) with respect to the state that it is
    predicted from: W the output embeddings, p the model's own probabilities, before temperature, penalties
    and cuts, of the `TOP_TOKENS` likeliest tokens, y the token.
    """

    def __init__(self, outputs: OutputSide) -> None:
        self._outputs = outputs

    def expect(self, requests: Sequence[Request], logits: Tensor) -> Expected | None:
        """Before tokens are chosen by `logits` [requests, vocab], which that may change; None if none is
        probed.
        """
        asking = [
            (place, request.probe)
            for place, request in enumerate(requests)
            if request.probe is not None and request.probe.has_error
        ]
        if not asking:
            return None
        places, probes = zip(*asking, strict=True)
        own = logits if len(places) == len(logits) else logits[list(places)]  # a tuple indexes dimensions
        return Expected(places, probes, self._expected(own))

    def add(self, expected: Expected, token_ids: Sequence[int]) -> None:
        """`token_ids`: what was chosen, for each of the requests."""
        chosen = torch.tensor([token_ids[place] for place in expected.places], device=expected.outputs.device)
        errors = expected.outputs - self._outputs.output_rows(chosen).float()
        for probe, error in zip(expected.probes, errors, strict=True):
            probe.add_error(error)

    def add_given(self, request: Request, hidden: Tensor) -> None:
        """Of a request whose answer is given, before its probe has seen `hidden` [n, hidden], the states from
        `num_computed` on.
        """
        start = request.num_computed
        targets = request.given_targets(start, start + len(hidden))
        for first in range(0, len(targets), _LOGIT_ROWS):
            some = targets[first : first + _LOGIT_ROWS]
            logits = self._outputs.logits(hidden, [position - start for position, _ in some])
            given = torch.tensor([token for _, token in some], device=hidden.device)
            errors = self._expected(logits) - self._outputs.output_rows(given).float()
            if request.probe is not None:
                request.probe.add_error(errors.sum(dim=0))

    def _expected(self, logits: Tensor) -> Tensor:
        values, token_ids = likeliest(logits)
        # Row by row: what is copied stays in the cache.
        totals = torch.stack([row.float().logsumexp(dim=0) for row in logits])
        weights = (values.float() - totals.unsqueeze(1)).exp()
        rows = self._outputs.output_rows(token_ids.flatten()).float().view(*token_ids.shape, -1)
        return torch.bmm(weights.unsqueeze(1), rows).squeeze(1)


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The `TOP_TOKENS` largest of each row of `logits` [n, vocab] and their ids, both [n, TOP_TOKENS]: as
    `topk`, in a third of its time. They lie in those blocks whose largest are the largest.
    """
    num_rows, vocab = logits.shape
    count = min(TOP_TOKENS, vocab)
    if vocab % _BLOCK or vocab // _BLOCK < count:
        found = logits.topk(count, dim=1)
        return found.values, found.indices
    blocks = logits.view(num_rows, -1, _BLOCK)
    best = blocks.amax(dim=2).topk(count, dim=1).indices
    candidates = blocks.gather(1, best.unsqueeze(2).expand(-1, -1, _BLOCK)).flatten(1)
    values, places = candidates.topk(count, dim=1)
    return values, best.gather(1, places // _BLOCK) * _BLOCK + places % _BLOCK


def _accumulate(total: Tensor | None, states: Tensor) -> Tensor:
    if total is None:
        return states.sum(dim=0)
    # Decoding adds one state a step: every operation saved here counts for each request of each step.
    return total.add_(states[0] if len(states) == 1 else states.sum(dim=0))
