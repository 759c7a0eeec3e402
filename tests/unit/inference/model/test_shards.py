"""The ranks' shares add up to the whole."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.executor.layout import Span, StepLayout
from inference.executor.messages import (
    Erase,
    Forward,
    Message,
    Start,
    pack_blend,
    read_message,
    unpack_blend,
    write_message,
)
from inference.lora.adapter import Adapter
from inference.lora.blend import Blend, single_blend
from inference.lora.block import DoraScale, LoraBlock
from inference.lora.shards import shard_blend
from inference.model.shards import WHOLE, Shard
from tests.fixtures_engine import ALL_LINEAR
from tests.support.adapters import pairs

NARROWING = ("o_proj", "down_proj")


def random_blend(linear: str) -> Blend:
    torch.manual_seed(0)
    scale = DoraScale(torch.rand(2, 12) + 0.5, torch.randn(2, 12))
    block = LoraBlock(linear, range(3, 5), torch.randn(2, 2, 8), torch.randn(2, 2, 12), scale)
    return single_blend(Adapter("a", [block], 0, 1.0))


@pytest.mark.parametrize("linear", ALL_LINEAR)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_shares_of_a_linear_layer_and_its_adapter_give_the_whole_output(linear: str, size: int) -> None:
    blend = random_blend(linear)
    weight, bias, states = torch.randn(12, 8), torch.randn(12), torch.randn(5, 8)
    outputs = [
        share_of_output(Shard(rank, size), linear, weight, bias, states, blend) for rank in range(size)
    ]
    expected = share_of_output(WHOLE, linear, weight, bias, states, blend)
    given_back = sum(outputs) if linear in NARROWING else torch.cat(outputs, dim=1)
    torch.testing.assert_close(given_back, expected)


def share_of_output(
    shard: Shard, linear: str, weight: torch.Tensor, bias: torch.Tensor, states: torch.Tensor, blend: Blend
) -> torch.Tensor:
    if linear in NARROWING:
        states = states.chunk(shard.size, dim=1)[shard.rank]
    own = shard_blend(shard, blend).parts[0][0]
    pair = pairs(own)[4, linear]
    output = torch.nn.functional.linear(states, shard.weight(linear, weight), shard.bias(linear, bias))
    output = pair.dora.factor * (output + states @ pair.shrink.T @ pair.expand)
    return output if pair.dora.offset is None else output + pair.dora.offset


@pytest.mark.parametrize("linear", ["q_proj", "o_proj"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_share_arrives_as_it_was_sent(linear: str, rank: int) -> None:
    sent = shard_blend(Shard(rank, 2), random_blend(linear))
    sent = Blend("b", [*sent.parts, (sent.parts[0][0], -0.5)], 4)
    message = sent_and_read(pack_blend(sent, slot=5, first_row=7))
    assert (message.slot, message.first_row, message.rank) == (5, 7, 4)
    blend = unpack_blend(message)
    assert (blend.keys, [weight for _, weight in blend.parts]) == (sent.keys, [1.0, -0.5])
    for (got, _), (expected, _) in zip(blend.parts, sent.parts, strict=True):
        (block,), (other,) = got.blocks, expected.blocks
        assert (block.linear, block.layers) == (linear, other.layers)
        assert torch.equal(block.shrink, other.shrink)
        assert torch.equal(block.expand, other.expand)
        assert torch.equal(block.dora.factor, other.dora.factor)
        assert (block.dora.offset is None) == (other.dora.offset is None)


@given(
    st.lists(
        st.builds(
            Span,
            slot=st.integers(-1, 9),
            num_tokens=st.integers(1, 99),
            context_len=st.integers(1, 99),
            block_table=st.lists(st.integers(0, 9)),
            num_base=st.integers(0, 99),
        )
    )
)
def test_layouts_arrive_as_they_were_sent(spans: list[Span]) -> None:
    message = Forward(StepLayout([1, 2], spans, [3]))
    assert sent_and_read(message) == message


def test_other_messages_arrive_as_they_were_sent() -> None:
    for message in (Erase(3), Start({"a": 1, "b": "x", "c": None}, 1, "/tmp/r", 64, 8)):  # noqa: S108  # a name
        assert sent_and_read(message) == message


@pytest.mark.parametrize("length", [0, 3, 9])
def test_a_pipe_that_ends_within_a_message_has_ended(length: int) -> None:
    file = io.BytesIO()
    write_message(file, Erase(3))
    assert read_message(io.BytesIO(file.getvalue()[:length])) is None


def sent_and_read(message: Message) -> Any:
    file = io.BytesIO()
    write_message(file, message)
    file.seek(0)
    return read_message(file)
