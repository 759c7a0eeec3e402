"""Optional capture of a request's states, for attribution. What they are used for is not known here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.protocol import ProbeStates

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class ProbeSums:
    """Running sums of the final hidden states of one sequence, in fp32.

    The states at positions 0 .. P-1 belong to the prompt of P tokens. Answer token i is predicted from the
    state at position P-1+i, so the answer's states are those at P-1 .. P+n-2: all of them exist when the last
    token has been sampled, and none costs an extra step. Offline, on given tokens, the same positions are
    taken.
    """

    num_prompt_tokens: int
    prompt: Tensor | None = None
    answer: Tensor | None = None
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

    def adopt(self, total: Tensor, num_tokens: int) -> None:
        """The states of the first `num_tokens` positions add up to `total` [hidden] fp32. All of them lie
        before P-1, or all have been seen before.
        """
        if self.num_seen < num_tokens:
            self.prompt, self.num_seen = total, num_tokens

    def finish(self, num_answer_tokens: int) -> ProbeStates:
        """The means. Raises `ValueError` before the whole prompt was seen."""
        if self.prompt is None or self.num_seen < self.num_prompt_tokens:
            raise ValueError("the prompt has not been computed yet")
        answer = None
        if num_answer_tokens and self.answer is not None:
            answer = (self.answer / num_answer_tokens).tolist()
        return ProbeStates(
            prompt=(self.prompt / self.num_prompt_tokens).tolist(),
            answer=answer,
            num_prompt_tokens=self.num_prompt_tokens,
            num_answer_tokens=num_answer_tokens,
        )


def _accumulate(total: Tensor | None, states: Tensor) -> Tensor:
    if total is None:
        return states.sum(dim=0)
    # Decoding adds one state a step: every operation saved here counts for each request of each step.
    return total.add_(states[0] if len(states) == 1 else states.sum(dim=0))
