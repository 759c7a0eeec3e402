"""Token layout of one step's batch, in plain numbers that can be sent to other ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from inference.scheduling.step import Step


class Span(NamedTuple):
    """One sequence's tokens in the batch: the last `num_tokens` of its first `context_len` positions."""

    slot: int  # of its adapter
    num_tokens: int
    context_len: int
    block_table: list[int]
    num_base: int  # leading ones of the `num_tokens` that run on the base model alone


class StepLayout(msgspec.Struct, frozen=True):
    """The tokens of all sequences, concatenated without padding. `spans` are in the order of `token_ids`."""

    token_ids: list[int]
    spans: list[Span]
    fresh_blocks: list[int]


def build_layout(step: Step) -> StepLayout:
    """The layout of `step.scheduled`, in its order."""
    token_ids: list[int] = []
    spans: list[Span] = []
    for entry in step.scheduled:
        request = entry.request
        start, end = request.num_computed, request.num_computed + entry.num_rows
        token_ids += request.token_ids[start : start + entry.num_tokens] + entry.proposal
        num_base = min(entry.num_tokens, max(0, (request.num_base_tokens or 0) - start))
        spans.append(Span(request.slot, entry.num_rows, end, request.block_table, num_base))
    return StepLayout(token_ids, spans, step.fresh_blocks)
