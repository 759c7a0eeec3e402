"""Products in 8 bits: the definition against plain products, and the kernels against the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import KernelBuildError, UnsupportedModelError
from inference.kernels import reference
from inference.kernels.cpu import Cpu, has_int8_products, this_cpu
from inference.kernels.int8 import Int8Linear, Int8Weight, quantize_rows, rotate_rows
from inference.kernels.interface import LoraTarget, Segment
from inference.kernels.native import NativeKernels
from inference.kernels.native_products import NativeLinear
from inference.kernels.portable import PortableKernels
from inference.kernels.select import select_kernels

# Each kind of registers, and of attention, that this machine can run; none with AVX-512 but without VNNI.
_WITHOUT_TILES = this_cpu().without_tiles()
CPUS = [
    cpu
    for cpu in (Cpu("any", _WITHOUT_TILES.features), Cpu("AuthenticAMD", _WITHOUT_TILES.features), this_cpu())
    if has_int8_products(cpu)
]
needs_int8 = pytest.mark.skipif(not CPUS, reason="neither AVX2 nor AVX-512 with VNNI")
SEEDS = st.integers(0, 2**31)


def test_a_row_is_quantised_by_its_largest_value() -> None:
    values, scales = quantize_rows(torch.tensor([[-254.0, 127, 1, 3, 0], [0, 0, 0, 0, 0]]))
    assert values.tolist() == [[-127, 64, 0, 2, 0], [0, 0, 0, 0, 0]]  # 63.5, 0.5 and 1.5, halves to even
    assert scales[0] == 2.0
    assert values.dtype == torch.int8


def test_a_rotation_is_its_own_inverse_times_the_length_of_a_block() -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 100)
    rotated = rotate_rows(rows)
    assert rotated.shape == (3, 128)
    torch.testing.assert_close(rotate_rows(rotated)[:, :100], 64 * rows)
    ones = torch.ones(1, 64)
    assert rotate_rows(ones).tolist() == [[64.0] + [0.0] * 63]


def test_a_weight_moves_by_half_a_step_at_most() -> None:
    """Rotated, as it is stored."""
    torch.manual_seed(0)
    weight = torch.randn(20, 128)
    error = (rotate_rows(Int8Weight.of(weight).dequantized) - rotate_rows(weight)).abs().amax(dim=1)
    assert (error <= rotate_rows(weight).abs().amax(dim=1) / 127 / 2 * 1.001).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_rounded_numbers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, states, bias = Int8Weight.of(torch.randn(48, 96)), torch.randn(5, 96), torch.randn(48)
    values, scales = quantize_rows(rotate_rows(states.to(dtype)))
    rounded, of_weight = values * scales.unsqueeze(1), weight.values * weight.scales.unsqueeze(1)
    expected = rounded.double() @ of_weight.double().T + bias.double()
    product = Int8Linear(weight, bias)(states.to(dtype))
    assert product.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(product.double(), expected, atol=tolerance, rtol=tolerance)


def test_a_weight_whose_sums_could_overflow_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="131072 inputs"):
        Int8Weight.of(torch.zeros(1, 131_073))


@needs_int8
@pytest.mark.parametrize("cpu", CPUS)
@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 110), st.integers(1, 300), st.integers(1, 100), st.booleans())
def test_native_products_have_the_bits_of_the_definition(
    cpu: Cpu, seed: int, num_tokens: int, width: int, out: int, has_bias: bool
) -> None:
    torch.manual_seed(seed)
    weight = Int8Weight.of((torch.randn(out, width) * torch.rand(out, 1).exp2()).bfloat16())
    bias = torch.randn(out).bfloat16() if has_bias else None
    states = (torch.randn(num_tokens, width) * 10 ** torch.randn(num_tokens, 1)).bfloat16()
    states[0] = 0
    product = NativeKernels(torch.bfloat16, cpu=cpu).int8_projection(weight, bias)
    assert isinstance(product, NativeLinear)
    assert torch.equal(product(states), Int8Linear(weight, bias)(states))


@needs_int8
@pytest.mark.parametrize("cpu", CPUS)
def test_the_largest_sums_are_exact(cpu: Cpu) -> None:
    """All products of a row have one sign, so that instructions that saturate would show. A single feature
    in each block is rotated to numbers of one size.
    """
    weight, states = torch.zeros(40, 4096).bfloat16(), torch.zeros(20, 4096).bfloat16()
    weight[:, ::64], states[:, ::64] = 1, 1
    weight[::2], states[::3] = -weight[::2], -states[::3]
    product = NativeKernels(torch.bfloat16, cpu=cpu).int8_projection(Int8Weight.of(weight), None)
    assert torch.equal(product(states), (states.float() @ weight.float().T).bfloat16())


@needs_int8
@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(cpu: Cpu, fault: float) -> None:
    """The engine ends the request of an answer that is not finite; other tokens keep their bits."""
    weight = Int8Weight.of(torch.randn(40, 70))
    states = torch.randn(3, 70).bfloat16()
    for product in (
        Int8Linear(weight, None),
        NativeKernels(torch.bfloat16, cpu=cpu).int8_projection(weight, None),
    ):
        expected = product(states)
        faulty = states.clone()
        faulty[1, 5] = fault
        assert not product(faulty)[1].isfinite().any()
        assert torch.equal(product(faulty)[::2], expected[::2])


@needs_int8
@pytest.mark.parametrize("cpu", CPUS)
def test_deltas_are_added_before_rounding(cpu: Cpu) -> None:
    torch.manual_seed(0)
    kernels = NativeKernels(torch.bfloat16, cpu=cpu)
    weight, bias = Int8Weight.of(torch.randn(70, 100)), torch.randn(70).bfloat16()
    shrink, expand = torch.randn(8, 100).bfloat16() / 10, torch.randn(8, 40).bfloat16()
    states = torch.randn(50, 100).bfloat16()
    segments = [Segment(3, 20, 0, slice(0, 3)), Segment(20, 45, 1, slice(3, 8))]
    batch = kernels.lora_batch(segments, len(states))
    actual = batch.project(
        kernels.int8_projection(weight, bias), states, [LoraTarget(shrink, expand, slice(10, 50))]
    )
    slots = [0 if 3 <= t < 20 else 1 if 20 <= t < 45 else -1 for t in range(50)]
    pairs = {s.slot: (shrink[s.rows].float(), expand[s.rows].float()) for s in segments}
    expected = Int8Linear(weight, bias)(states.float())
    expected[:, 10:50] += reference.lora_delta(states.float(), slots, pairs, 40)
    torch.testing.assert_close(actual.float(), expected, atol=1e-2, rtol=1e-2)


def test_without_the_instructions_the_definition_computes() -> None:
    weight = Int8Weight.of(torch.randn(4, 6))
    kernels = (NativeKernels(torch.float32), NativeKernels(torch.bfloat16, cpu=Cpu("any", {"avx512f"})))
    for each in (*kernels, PortableKernels()):
        assert isinstance(each.int8_projection(weight, None), Int8Linear)


def test_native_kernels_are_refused_by_name_where_they_lack_the_products(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(KernelBuildError, match="bfloat16 and a CPU with AVX2, or AVX-512 and VNNI"):
        select_kernels("native", torch.float32, "cpu", "int8")
    assert isinstance(select_kernels("auto", torch.float32, "cpu", "int8"), NativeKernels)
    assert "plain torch computes them" in caplog.text
