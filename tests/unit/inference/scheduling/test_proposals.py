"""How many predicted tokens a step computes."""

from __future__ import annotations

import pytest

from inference.prompt_lookup import PromptLookup
from inference.protocol import Sampling
from inference.request import GenerationRequest
from inference.sampling.state import SamplingState
from inference.scheduling.block_manager import BlockManager
from inference.scheduling.proposals import MAX_PROPOSED, propose
from inference.scheduling.step import ScheduledRequest, Step, StepLimits
from inference.tokenization.detokenizer import TextStream

CYCLE = [1, 2, 3, 4]


class NoText:
    def decode(self, token_ids: list[int]) -> str:
        return ""


def decoding(blocks: BlockManager, *, copied: int = 60, max_tokens: int = 1000) -> ScheduledRequest:
    """A request that has copied `copied` tokens and has one pending."""
    token_ids = CYCLE * 2 + (CYCLE * copied)[:copied]
    request = GenerationRequest(
        request_id="",
        token_ids=token_ids,
        num_prompt_tokens=8,
        max_tokens=max_tokens,
        sampling=SamplingState(Sampling(), ()),
        adapter=None,
        text=TextStream(NoText(), ()),
        probe=None,
        num_computed=len(token_ids) - 1,
        lookup=PromptLookup(8),
    )
    blocks.grow(request.block_table, len(token_ids))
    return ScheduledRequest(request, 1)


def lengths(step: Step, blocks: BlockManager, max_step_tokens: int = 512) -> list[int]:
    num_fresh = len(step.fresh_blocks)
    held = sum(len(entry.request.block_table) for entry in step.scheduled)
    propose(step, blocks, StepLimits(32, max_step_tokens, num_adapter_rows=1024, fixed_rows=32))
    for entry in step.scheduled:
        end = entry.request.num_computed + entry.num_rows
        assert len(entry.request.block_table) * blocks.block_size >= end
    grown = sum(len(entry.request.block_table) for entry in step.scheduled) - held
    assert len(step.fresh_blocks) - num_fresh == grown
    return [len(entry.proposal) for entry in step.scheduled]


def test_a_copy_alone_is_proposed_at_length() -> None:
    blocks = BlockManager(100, 16)
    step = Step([decoding(blocks)])
    assert lengths(step, blocks) == [MAX_PROPOSED]
    last = step.scheduled[0].request.token_ids[-1]
    assert step.scheduled[0].proposal[:4] == [(last + place) % 4 + 1 for place in range(4)]


@pytest.mark.parametrize(("copied", "max_tokens", "length"), [(60, 61, 0), (60, 64, 3), (60, 60 + 99, 16)])
def test_no_token_is_proposed_beyond_the_answers_limit(copied: int, max_tokens: int, length: int) -> None:
    blocks = BlockManager(100, 16)
    assert lengths(Step([decoding(blocks, copied=copied, max_tokens=max_tokens)]), blocks) == [length]


def test_proposals_share_what_pays_off_and_a_larger_batch_gets_less() -> None:
    found = {}
    for size in (1, 8, 32, 128):
        blocks = BlockManager(2000, 16)
        found[size] = lengths(Step([decoding(blocks, copied=12) for _ in range(size)]), blocks)
    sums = {size: sum(each) / size for size, each in found.items()}
    assert sums[1] > sums[8] > sums[32] > sums[128]
    assert all(max(each) - min(each) <= 1 for each in found.values())


def test_doubtful_predictions_are_proposed_in_a_small_batch_alone() -> None:
    def all_lengths(size: int) -> list[int]:
        blocks = BlockManager(2000, 16)
        return lengths(Step([decoding(blocks, copied=0) for _ in range(size)]), blocks)

    assert 0 < all_lengths(1)[0] < MAX_PROPOSED
    assert not any(all_lengths(64))


def test_a_prompts_chunk_is_not_extended_and_fills_the_step() -> None:
    blocks = BlockManager(100, 16)
    chunk = decoding(blocks)
    chunk.request.num_computed -= 40
    chunk.num_tokens = 30
    assert lengths(Step([chunk]), blocks) == [0]
    step = Step([decoding(blocks), chunk])
    assert lengths(step, blocks, max_step_tokens=33) == [2, 0]


def test_without_free_blocks_a_proposal_ends_with_the_last_one() -> None:
    blocks = BlockManager(2 + 68 // 16, 16)
    assert lengths(Step([decoding(blocks)]), blocks) == [80 - 68]
    assert blocks.num_free == 0


def test_without_lookup_nothing_is_proposed() -> None:
    blocks = BlockManager(100, 16)
    entry = decoding(blocks)
    assert isinstance(entry.request, GenerationRequest)
    entry.request.lookup = None
    assert lengths(Step([entry]), blocks) == [0]
