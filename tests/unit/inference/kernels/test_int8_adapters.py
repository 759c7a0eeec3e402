"""Deltas of adapters in int8 against their definition: states times A's integers, times each row's scale,
times B's integers.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.kernels.cpu import Cpu, product_arithmetic, this_cpu
from inference.kernels.int8 import quantize_rows
from inference.kernels.interface import LoraTarget, Segment
from inference.kernels.native import NativeKernels
from inference.kernels.portable import PortableKernels

NUM_ROWS = 20
CPUS = [
    cpu
    for cpu in (Cpu("any", frozenset({"avx512f"})), this_cpu().without_tiles(), this_cpu())
    if product_arithmetic(cpu) is not None
]
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-6}


def make_target(width: int, columns: slice) -> LoraTarget:
    """An arena in int8. The scales of the rows from 11 on, which no segment uses, are infinite."""
    shrink, shrink_scales = quantize_rows(torch.randn(NUM_ROWS, width))
    expand, expand_scales = quantize_rows(torch.randn(NUM_ROWS, columns.stop - columns.start) * 0.1)
    scales = shrink_scales * expand_scales
    scales[11:] = torch.inf
    return LoraTarget(shrink, expand, columns, scales)


def add_deltas(
    states: torch.Tensor, targets: list[LoraTarget], segments: list[Segment], output: torch.Tensor
) -> torch.Tensor:
    """`output` [num_tokens, out] plus the deltas, in fp64."""
    result = output.double()
    for segment, target in itertools.product(segments, targets):
        own = slice(segment.start, segment.end)
        assert target.scales is not None
        shrunk = states[own].double() @ target.shrink[segment.rows].double().T
        shrunk *= target.scales[segment.rows].double()
        result[own, target.columns] += shrunk @ target.expand[segment.rows].double()
    return result


def make_segments(runs: list[tuple[int, int]]) -> tuple[list[Segment], int]:
    """`runs` of (tokens, adapter), where adapter 0 is the base model; returns the number of all tokens."""
    rows_of = [None, slice(0, 3), slice(3, 11)]
    ends = list(itertools.accumulate(count for count, _ in runs))
    segments = [
        Segment(end - count, end, adapter - 1, rows)
        for end, (count, adapter) in zip(ends, runs, strict=True)
        if (rows := rows_of[adapter]) is not None
    ]
    return segments, ends[-1]


RUNS = st.lists(st.tuples(st.integers(1, 70), st.integers(0, 2)), min_size=1, max_size=6).filter(
    lambda runs: any(adapter for _, adapter in runs)
)


@settings(max_examples=40, deadline=None)
@given(DTYPES, st.integers(0, 2**31), RUNS, st.integers(1, 80), st.integers(1, 70))
def test_deltas_equal_the_definition(
    dtype: torch.dtype, seed: int, runs: list[tuple[int, int]], width: int, out: int
) -> None:
    """In plain torch and in the native kernels, for segments of few and of many tokens."""
    torch.manual_seed(seed)
    segments, num_tokens = make_segments(runs)
    states, output = torch.randn(num_tokens, width).to(dtype), torch.randn(num_tokens, out + 9).to(dtype)
    targets = [make_target(width, slice(4, out + 4)), make_target(width, slice(out + 4, out + 9))]
    expected = add_deltas(states, targets, segments, output)
    for kernels in (PortableKernels(), NativeKernels(dtype)):
        actual = output.clone()
        kernels.lora_batch(segments, num_tokens).add(states, targets, actual)  # type: ignore[attr-defined]
        torch.testing.assert_close(
            actual.double(), expected, atol=4 * TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("cpu", CPUS, ids=lambda cpu: cpu.vendor)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), RUNS, st.integers(1, 80), st.integers(1, 70))
def test_products_with_deltas_are_rounded_once(
    cpu: Cpu, seed: int, runs: list[tuple[int, int]], width: int, out: int
) -> None:
    torch.manual_seed(seed)
    segments, num_tokens = make_segments(runs)
    states, weight = torch.randn(num_tokens, width).bfloat16(), torch.randn(out + 40, width).bfloat16()
    targets = [make_target(width, slice(20, out + 20)), make_target(width, slice(out + 20, out + 40))]
    kernels = NativeKernels(torch.bfloat16, cpu=cpu)
    linear = kernels.projection(weight, None)
    assert linear is not None
    expected = add_deltas(states, targets, segments, states.float() @ weight.float().T)
    actual = kernels.lora_batch(segments, num_tokens).project(linear, states, targets)
    torch.testing.assert_close(actual.double(), expected, atol=1e-3, rtol=2**-8)


@pytest.mark.parametrize("cpu", CPUS, ids=lambda cpu: cpu.vendor)
def test_a_token_gets_the_same_bits_in_any_batch(cpu: Cpu) -> None:
    torch.manual_seed(0)
    kernels = NativeKernels(torch.bfloat16, cpu=cpu)
    linear = kernels.projection(torch.randn(70, 100).bfloat16(), torch.randn(70).bfloat16())
    assert linear is not None
    states, targets = torch.randn(131, 100).bfloat16(), [make_target(100, slice(5, 65))]
    together = kernels.lora_batch([Segment(3, 131, 0, slice(0, 11))], 131).project(linear, states, targets)
    for start, end in ((3, 4), (5, 17), (7, 130), (130, 131)):
        batch = kernels.lora_batch([Segment(0, end - start, 0, slice(0, 11))], end - start)
        assert torch.equal(batch.project(linear, states[start:end].clone(), targets), together[start:end])
