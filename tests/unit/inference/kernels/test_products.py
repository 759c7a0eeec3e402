"""The native products of bf16, with bias and deltas, against fp64 on random, ragged input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.kernels import native
from inference.kernels.build import load_library
from inference.kernels.cpu import Cpu, this_cpu
from inference.kernels.interface import (
    LoraTarget,
    Segment,
)
from inference.kernels.native import NativeKernels

# Each arithmetic that this machine can run; the first one runs anywhere.
PRODUCT_CPUS = [Cpu("any", frozenset({"avx512f"}))]
if "avx512_bf16" in this_cpu().features:
    PRODUCT_CPUS.append(Cpu("AuthenticAMD", this_cpu().features - {"amx_bf16"}))
if "amx_bf16" in this_cpu().features:
    PRODUCT_CPUS.append(this_cpu())
SEEDS = st.integers(0, 2**31)


@pytest.mark.parametrize("cpu", PRODUCT_CPUS, ids=lambda cpu: cpu.vendor)
@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    num_tokens=st.integers(0, 130),
    width=st.integers(1, 140),
    out=st.integers(1, 100),
    has_bias=st.booleans(),
)
def test_products(cpu: Cpu, seed: int, num_tokens: int, width: int, out: int, has_bias: bool) -> None:
    """More rows than one chunk holds, and outputs that fill no panel; rounded once, as the sum of all."""
    torch.manual_seed(seed)
    states, weight = torch.randn(num_tokens, width), torch.randn(out, width)
    states, weight, bias = states.bfloat16(), weight.bfloat16(), torch.randn(out).bfloat16()
    product = NativeKernels(torch.bfloat16, cpu=cpu).projection(weight, bias if has_bias else None)
    assert product is not None
    expected = states.double() @ weight.double().T + (bias.double() if has_bias else 0)
    torch.testing.assert_close(product(states).double(), expected, atol=1e-4, rtol=2**-8)


@pytest.mark.parametrize("cpu", PRODUCT_CPUS, ids=lambda cpu: cpu.vendor)
def test_a_token_gets_the_same_product_in_any_company(cpu: Cpu) -> None:
    torch.manual_seed(0)
    product = NativeKernels(torch.bfloat16, cpu=cpu).projection(torch.randn(70, 576).bfloat16(), None)
    assert product is not None
    states = torch.randn(131, 576).bfloat16()
    together = product(states)
    for start, end in ((0, 1), (5, 17), (7, 130), (130, 131)):
        assert torch.equal(product(states[start:end].clone()), together[start:end])


@pytest.mark.parametrize("cpu", PRODUCT_CPUS, ids=lambda cpu: cpu.vendor)
@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    runs=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=9),
    width=st.integers(1, 80),
    outs=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    left_out=st.integers(0, 3),
    has_bias=st.booleans(),
)
def test_products_with_deltas(
    cpu: Cpu,
    seed: int,
    runs: list[tuple[int, int]],
    width: int,
    outs: list[int],
    left_out: int,
    has_bias: bool,
) -> None:
    """Adapters of other ranks, tokens without one, targets that begin inside a panel, any left out."""
    torch.manual_seed(seed)
    rows_of = [None, slice(0, 3), slice(3, 8), slice(8, 20)]
    ends = list(itertools.accumulate(count for count, _ in runs))
    segments = [
        Segment(end - count, end, adapter - 1, rows)
        for end, (count, adapter) in zip(ends, runs, strict=True)
        if (rows := rows_of[adapter]) is not None
    ]
    states = torch.randn(ends[-1], width).bfloat16()
    weight, bias = torch.randn(sum(outs), width).bfloat16(), torch.randn(sum(outs)).bfloat16()
    columns = [slice(end - out, end) for end, out in zip(itertools.accumulate(outs), outs, strict=True)]
    targets = [
        LoraTarget(torch.randn(20, width).bfloat16(), torch.randn(20, out).bfloat16() * 0.1, place)
        for number, (out, place) in enumerate(zip(outs, columns, strict=True))
        if number != left_out
    ]
    kernels = NativeKernels(torch.bfloat16, cpu=cpu)
    linear = kernels.projection(weight, bias if has_bias else None)
    assert linear is not None
    expected = states.double() @ weight.double().T + (bias.double() if has_bias else 0)
    for segment, target in itertools.product(segments, targets):
        own = slice(segment.start, segment.end)
        shrunk = states[own].double() @ target.shrink[segment.rows].double().T
        expected[own, target.columns] += shrunk @ target.expand[segment.rows].double()
    batch = kernels.lora_batch(segments, len(states))
    torch.testing.assert_close(
        batch.project(linear, states, targets).double(), expected, atol=1e-4, rtol=2**-8
    )


@pytest.mark.parametrize("cpu", PRODUCT_CPUS, ids=lambda cpu: cpu.vendor)
def test_a_token_gets_the_same_product_and_delta_in_any_company(cpu: Cpu) -> None:
    torch.manual_seed(0)
    kernels = NativeKernels(torch.bfloat16, cpu=cpu)
    linear = kernels.projection(torch.randn(70, 100).bfloat16(), torch.randn(70).bfloat16())
    assert linear is not None
    states = torch.randn(131, 100).bfloat16()
    targets = [LoraTarget(torch.randn(11, 100).bfloat16(), torch.randn(11, 60).bfloat16(), slice(5, 65))]
    together = kernels.lora_batch([Segment(3, 131, 0, slice(0, 11))], 131).project(linear, states, targets)
    for start, end in ((3, 4), (5, 17), (7, 130), (130, 131)):
        batch = kernels.lora_batch([Segment(0, end - start, 0, slice(0, 11))], end - start)
        assert torch.equal(batch.project(linear, states[start:end].clone(), targets), together[start:end])
    assert torch.equal(linear(states[:3].clone()), together[:3])


@pytest.mark.parametrize("cpu", PRODUCT_CPUS, ids=lambda cpu: cpu.vendor)
def test_products_show_what_is_not_finite_in_its_own_row_alone(cpu: Cpu) -> None:
    weight, states = torch.ones(40, 8).bfloat16(), torch.ones(3, 8).bfloat16()
    states[0, 3], states[2, 3] = math.nan, math.inf
    product = NativeKernels(torch.bfloat16, cpu=cpu).projection(weight, None)
    assert product is not None
    result = product(states)
    assert result[0].isnan().all()
    assert (result[1] == 8).all()
    assert result[2].isinf().all()


def test_products_that_are_not_ours_are_left_to_torch() -> None:
    assert NativeKernels(torch.float32, cpu=PRODUCT_CPUS[0]).projection(torch.randn(4, 6), None) is None
    without = NativeKernels(torch.bfloat16, cpu=Cpu("any", frozenset()))
    assert without.projection(torch.randn(4, 6).bfloat16(), None) is None


@pytest.mark.parametrize(
    ("features", "function", "named"),
    [({"amx_bf16", "avx512f"}, "multiply_widened", "AVX-512"), ({"amx_bf16"}, None, "oneDNN")],
)
def test_products_use_the_next_best_where_the_system_keeps_the_tile_registers(
    features: set[str],
    function: str | None,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    library = load_library()
    monkeypatch.setattr(library, "may_use_tiled", lambda: False, raising=False)
    # Compiled only for CPUs with AMX; not called here.
    monkeypatch.setattr(library, "multiply_tiled", None, raising=False)
    monkeypatch.setattr(native, "load_library", lambda: library)
    products = NativeKernels(torch.bfloat16, cpu=Cpu("GenuineIntel", frozenset(features)))._products
    assert (None if products is None else products.multiply.__name__) == function
    assert "AMX tile registers" in caplog.text
    assert named in caplog.text
