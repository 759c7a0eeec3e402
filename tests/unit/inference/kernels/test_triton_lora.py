"""The GPU kernels in Triton's interpreter, which executes them on the CPU.

Not in bf16: the interpreter multiplies the bits of bf16 numbers as if they were integers.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.kernels.reference import lora_delta
from inference.lora.segments import BASE_SLOT, find_segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.01}


class Target(NamedTuple):
    shrink: Tensor
    expand: Tensor
    columns: slice


@pytest.fixture(scope="module")
def triton_lora() -> Iterator[Any]:
    """Kernels are made for the interpreter or for a GPU when their module is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, "inference.kernels.triton_lora", raising=False)
        yield importlib.import_module("inference.kernels.triton_lora")
        sys.modules.pop("inference.kernels.triton_lora", None)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int]], int, int]:
    """Ranks by slot, runs of (slot, number of tokens), in_features, out_features."""
    ranks = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    slots = st.integers(BASE_SLOT, len(ranks) - 1)
    runs = draw(st.lists(st.tuples(slots, st.integers(1, 35)), min_size=1, max_size=6))
    runs.append((0, draw(st.integers(1, 3))))
    return ranks, runs, draw(st.sampled_from([1, 48, 130])), draw(st.sampled_from([1, 64, 100]))


@settings(max_examples=20, deadline=None)
@given(
    batch=batches(), dtype=st.sampled_from(list(TOLERANCE)), gap=st.integers(0, 3), seed=st.integers(0, 99)
)
def test_any_ragged_batch_equals_the_reference(
    batch: tuple[list[int], list[tuple[int, int]], int, int],
    dtype: torch.dtype,
    gap: int,
    seed: int,
    triton_lora: Any,
) -> None:
    """Rows of no adapter hold NaN: reading one would show."""
    ranks, runs, num_in, num_out = batch
    torch.manual_seed(seed)
    slots = [slot for slot, count in runs for _ in range(count)]
    rows, end = [], gap
    for rank in ranks:
        rows.append(slice(end, end + rank))
        end += rank + gap
    shrink, expand = torch.full((end, num_in), torch.nan), torch.full((end, num_out), torch.nan)
    for place in rows:
        shrink[place] = torch.randn(place.stop - place.start, num_in) / num_in**0.5
        expand[place] = torch.randn(place.stop - place.start, num_out) / 4
    states, before = torch.randn(len(slots), num_in), torch.randn(len(slots), num_out + 7)
    shrink, expand, states, before = (tensor.to(dtype) for tensor in (shrink, expand, states, before))
    output = before.clone()
    lora = triton_lora.TritonLora(find_segments(runs, rows), len(slots), "cpu")
    lora.add(states, [Target(shrink, expand, slice(4, 4 + num_out))], output)
    pairs = {slot: (shrink[place].float(), expand[place].float()) for slot, place in enumerate(rows)}
    expected = before.float()
    expected[:, 4 : 4 + num_out] += lora_delta(states.float(), slots, pairs, num_out)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(output.float(), expected, atol=tolerance, rtol=tolerance)


def test_targets_with_the_same_states_do_not_disturb_each_other(triton_lora: Any) -> None:
    torch.manual_seed(0)
    states, output = torch.randn(20, 32), torch.zeros(20, 30)
    targets = [Target(torch.randn(8, 32), torch.randn(8, 10), slice(i, i + 10)) for i in (0, 10, 20)]
    lora = triton_lora.TritonLora(find_segments([(0, 20)], [slice(3, 8)]), 20, "cpu")
    lora.add(states, targets, output)
    for target in targets:
        expected = states @ target.shrink[3:8].T @ target.expand[3:8]
        torch.testing.assert_close(output[:, target.columns], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy says so of what is meant to be
def test_an_adapter_that_overflows_stays_among_its_own_tokens(triton_lora: Any) -> None:
    shrink = torch.ones(4, 16)
    shrink[:2] = torch.inf
    output = torch.zeros(8, 16)
    lora = triton_lora.TritonLora(find_segments([(0, 3), (1, 5)], [slice(0, 2), slice(2, 4)]), 8, "cpu")
    lora.add(torch.ones(8, 16), [Target(shrink, torch.ones(4, 16), slice(0, 16))], output)
    assert not torch.isfinite(output[:3]).any()
    assert (output[3:] == 32).all()
