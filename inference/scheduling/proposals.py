"""Adds predicted tokens to the requests of a step, to be computed along with the pending ones.

A proposed token costs a row of the step. If it is the token that is sampled in its place, it saves a step.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.request import GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.prompt_lookup import PromptLookup
    from inference.scheduling.block_manager import BlockManager
    from inference.scheduling.step import ScheduledRequest, Step, StepLimits

MAX_PROPOSED = 16
"""Proposed tokens of a request in a step."""


@dataclass(slots=True)
class _Proposal:
    """What one entry may propose."""

    entry: ScheduledRequest
    lookup: PromptLookup
    hit_rates: Sequence[float]  # of all tokens that may be proposed
    length: int = 0
    probability: float = 1.0  # estimated, that the tokens up to `length` will be accepted

    @property
    def next_probability(self) -> float:
        """Estimated probability that one more token, and so all before it, would be accepted."""
        if self.length == len(self.hit_rates):
            return 0.0
        return self.probability * self.hit_rates[self.length]

    def extend(self) -> None:
        """Propose one more token."""
        self.probability = self.next_probability
        self.length += 1


def propose(step: Step, blocks: BlockManager, limits: StepLimits) -> None:
    """Propose tokens for the entries of `step` that sample, the most probable ones first.

    Computing R rows takes a time of `limits.fixed_rows` + R, and yields a token for each row that is
    accepted. So one more row pays off while its probability exceeds R / (`limits.fixed_rows` + R): nearly
    always for a single request, and hardly ever in a large batch or next to a chunk of a prompt.
    """
    proposals = [_proposal(entry) for entry in step.scheduled]
    heap = [(-each.next_probability, index, each) for index, each in enumerate(proposals) if each is not None]
    heapq.heapify(heap)
    num_rows = step.num_tokens
    while heap and num_rows < limits.max_tokens:
        probability, index, proposal = heap[0]
        if -probability * (limits.fixed_rows + num_rows) <= num_rows:
            break
        proposal.extend()
        num_rows += 1
        heapq.heapreplace(heap, (-proposal.next_probability, index, proposal))
    for chosen in proposals:
        if chosen is not None and chosen.length:
            _reserve(step, chosen, blocks)


def _proposal(entry: ScheduledRequest) -> _Proposal | None:
    """None for an entry that does not sample, or whose next tokens cannot be predicted."""
    request = entry.request
    if not isinstance(request, GenerationRequest) or entry.num_tokens < request.num_pending:
        return None
    # The step samples one token more than are accepted.
    limit = min(MAX_PROPOSED, request.max_tokens - request.num_answer_tokens - 1)
    if request.lookup is None or limit < 1 or not request.lookup.can_predict(request.token_ids):
        return None
    return _Proposal(entry, request.lookup, request.lookup.hit_rates(request.token_ids, limit))


def _reserve(step: Step, chosen: _Proposal, blocks: BlockManager) -> None:
    """Give the entry as much of its proposal as finds kv_blocks: none is preempted for it."""
    request, end = chosen.entry.request, chosen.entry.request.num_tokens
    fresh = blocks.grow(request.block_table, end + chosen.length)
    step.fresh_blocks += fresh or []
    room = len(request.block_table) * blocks.block_size - end
    chosen.entry.proposal += chosen.lookup.predict(request.token_ids, min(chosen.length, room))
