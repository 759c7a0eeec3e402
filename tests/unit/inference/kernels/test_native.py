"""Each native kernel against its portable namesake on random, ragged input."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import KernelBuildError
from inference.kernels import native, reference
from inference.kernels.cpu import Cpu
from inference.kernels.factors import PortableFactorReader, StoredFactors, TensorSpec
from inference.kernels.interface import (
    NULL_BLOCK,
    HeadNorms,
    LoraTarget,
    Pages,
    Rotation,
    Segment,
    SequenceSpan,
)
from inference.kernels.native import NativeFactorReader, NativeKernels
from inference.kernels.portable import PortableKernels
from inference.kernels.select import select_kernels

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

PORTABLE = PortableKernels()
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
BLOCK_SIZE = 4
SEEDS = st.integers(0, 2**31)
# bfloat16 keeps eight bits; portable rounds at each operation, native once at the end.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}


def empty_pages(
    num_blocks: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, block_size: int = BLOCK_SIZE
) -> Pages:
    return Pages(
        torch.full((num_blocks, num_kv_heads, head_dim, block_size), math.nan, dtype=dtype),
        torch.full((num_blocks, num_kv_heads, block_size, head_dim), math.nan, dtype=dtype),
    )


def assert_same(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@settings(max_examples=30, deadline=None)
@given(DTYPES, SEEDS, st.integers(1, 40), st.integers(1, 70), st.booleans())
def test_sums_and_norms(dtype: torch.dtype, seed: int, num_tokens: int, width: int, has_delta: bool) -> None:
    torch.manual_seed(seed)
    hidden, delta = torch.randn(2, num_tokens, width).to(dtype)
    weight = torch.randn(width).to(dtype)
    expected_sum = hidden.clone()
    expected = PORTABLE.add_rms_norm(expected_sum, delta if has_delta else None, weight, 1e-5)
    actual = NativeKernels(dtype).add_rms_norm(hidden, delta if has_delta else None, weight, 1e-5)
    assert_same(actual, expected)
    assert torch.equal(hidden, expected_sum)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_number_of_16_bits_is_read_from_a_file(stored: torch.dtype, dtype: torch.dtype) -> None:
    """NaN, infinity and what is below the normal range among them, from an odd address on."""
    numbers = torch.arange(2**16).to(torch.int32).short().view(stored)
    file = memoryview(bytearray(b" " + numbers.view(torch.uint8).numpy().tobytes()))
    down, up = TensorSpec(stored, (1, 2**16), 1), TensorSpec(stored, (2**16, 1), 1)
    factors = StoredFactors([down], [up], 1.0)
    shrink, expand = torch.empty(2, 1, 1, 2**16, dtype=dtype)
    peaks = NativeFactorReader(dtype).read_factors(file, factors, shrink, expand)
    assert all(math.isnan(peak) for peak in peaks)
    assert torch.equal(shrink.isnan(), expand.isnan())
    tiny = 2.0**-126 if dtype == torch.bfloat16 else 0.0  # what may count as zero
    for found in (shrink, expand):
        torch.testing.assert_close(found[0, 0], numbers.to(dtype), rtol=0, atol=tiny, equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(DTYPES, SEEDS, st.integers(1, 5), st.integers(1, 40), st.sampled_from([0.0, 1.0, math.inf, math.nan]))
def test_the_largest_of_an_adapters_numbers(
    dtype: torch.dtype, seed: int, rank: int, out: int, one: float
) -> None:
    """Anywhere among others, of either sign."""
    torch.manual_seed(seed)
    numbers = torch.randn(2, rank * out).to(dtype)
    numbers[1, torch.randint(rank * out, ())] = -one
    file = memoryview(bytearray(numbers.view(torch.uint8).numpy().tobytes()))
    down, up = TensorSpec(dtype, (rank, out), 0), TensorSpec(dtype, (out, rank), numbers[0].nbytes)
    factors = StoredFactors([down], [up], 2.0)
    shrink, expand = torch.empty(2, 1, rank, out, dtype=dtype)
    found = [NativeFactorReader(dtype).read_factors(file, factors, shrink, expand) for _ in range(2)]
    expected = PortableFactorReader().read_factors(file, factors, shrink, expand)
    assert all(str(each) == str(expected) for each in found)  # NaN is not equal to itself


@settings(max_examples=30, deadline=None)
@given(DTYPES, SEEDS, st.integers(1, 40), st.integers(1, 70), st.sampled_from([1.0, 100.0]))
def test_gates(dtype: torch.dtype, seed: int, num_tokens: int, width: int, scale: float) -> None:
    torch.manual_seed(seed)
    gate_up = (torch.randn(num_tokens, 2 * width) * scale).to(dtype)
    expected = PORTABLE.silu_gate(gate_up)
    actual = NativeKernels(dtype).silu_gate(gate_up)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@settings(max_examples=30, deadline=None)
@given(DTYPES, SEEDS, st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_rotation_and_storage(
    dtype: torch.dtype, seed: int, num_tokens: int, num_kv_heads: int, share: int, has_norms: bool
) -> None:
    torch.manual_seed(seed)
    head_dim, num_heads = 2 * int(torch.randint(1, 20, ())), num_kv_heads * share
    qkv = torch.randn(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim).to(dtype)
    norms = HeadNorms(*torch.randn(2, head_dim).to(dtype), 1e-6) if has_norms else None
    angles = torch.randn(50, head_dim // 2).repeat(1, 2)
    positions = torch.randint(0, 50, (num_tokens,))
    kv_slots = torch.randperm(6 * BLOCK_SIZE)[:num_tokens]
    results = []
    for kernels in (PORTABLE, NativeKernels(dtype)):
        pages = empty_pages(6, num_kv_heads, head_dim, dtype)
        rotation = Rotation(angles.cos(), angles.sin(), positions, dtype)
        results.append((kernels.rotate_and_store(qkv, norms, rotation, kv_slots, pages), *pages))
    for expected, actual in zip(*results, strict=True):
        assert_same(actual.nan_to_num(99), expected.nan_to_num(99))


@st.composite
def attention_batches(draw: st.DrawFn) -> tuple[Tensor, Pages, list[SequenceSpan]]:
    """Decodes and chunks of prompts behind contexts of any length. Blocks are shuffled, and positions beyond
    a context are NaN, which must not be read.
    """
    dtype, block_size = draw(DTYPES), draw(st.sampled_from([1, 4, 16, 24, 100]))
    num_kv_heads, share = draw(st.integers(1, 2)), draw(st.integers(1, 9))
    head_dim = draw(st.sampled_from([2, 16, 64, 80]))
    torch.manual_seed(draw(SEEDS))
    counts = st.one_of(st.integers(1, 3), st.integers(1, 70))
    histories = st.one_of(st.just(0), st.integers(0, 200), st.sampled_from([63, 64, 128]))
    shapes = draw(st.lists(st.tuples(counts, histories), min_size=1, max_size=4))
    num_blocks = [math.ceil((count + history) / block_size) for count, history in shapes]
    free = torch.randperm(sum(num_blocks)) + 1
    pages = empty_pages(len(free) + 1, num_kv_heads, head_dim, dtype, block_size)
    pages.keys[NULL_BLOCK], pages.values[NULL_BLOCK] = 0.0, 0.0
    spans, start = [], 0
    for (count, history), blocks in zip(shapes, free.split(num_blocks), strict=True):
        positions = torch.arange(count + history)
        keys, values = torch.randn(2, len(positions), num_kv_heads, head_dim).to(dtype)
        places = blocks[positions // block_size], positions % block_size
        pages.keys[places[0], :, :, places[1]], pages.values[places[0], :, places[1]] = keys, values
        spans.append(SequenceSpan(start, count, len(positions), blocks.tolist()))
        start += count
    return (torch.randn(start, num_kv_heads * share, head_dim) * 3).to(dtype), pages, spans


@settings(max_examples=80, deadline=None)
@given(attention_batches(), st.sampled_from([0, 0, 1, 7, 64, 100]), st.booleans())
def test_attention(batch: tuple[Tensor, Pages, list[SequenceSpan]], window: int, is_invariant: bool) -> None:
    queries, pages, spans = batch
    scale = queries.shape[2] ** -0.5
    expected = reference.attention(queries, pages, spans, scale, window)
    kernels = NativeKernels(queries.dtype, batch_invariant=is_invariant)
    actual = kernels.attention_batch(spans).attend(queries, pages, scale, window)
    # The weights of a softmax are rounded to bfloat16 as well.
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 2e-2}[queries.dtype]
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)


@settings(max_examples=40, deadline=None)
@given(attention_batches(), st.sampled_from([0, 7, 64]))
def test_attention_in_plain_torch(batch: tuple[Tensor, Pages, list[SequenceSpan]], window: int) -> None:
    queries, pages, spans = batch
    # SDPA multiplies hidden positions by zero; the engine zeroes blocks before it reuses them.
    pages = Pages(pages.keys.nan_to_num(), pages.values.nan_to_num())
    expected = reference.attention(queries, pages, spans, 0.3, window)
    actual = PORTABLE.attention_batch(spans).attend(queries, pages, 0.3, window)
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 4e-2}[queries.dtype]
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)


@settings(max_examples=40, deadline=None)
@given(attention_batches(), st.sampled_from([0, 7, 64]), st.integers(1, 40))
def test_a_token_gets_the_same_attention_in_any_chunk_of_its_prompt(
    batch: tuple[Tensor, Pages, list[SequenceSpan]], window: int, chunk: int
) -> None:
    queries, pages, spans = batch
    kernels = NativeKernels(queries.dtype, batch_invariant=True)
    pieces = [
        SequenceSpan(
            span.start + first,
            min(chunk, span.num_queries - first),
            span.context_len - span.num_queries + min(first + chunk, span.num_queries),
            span.block_table,
        )
        for span in spans
        for first in range(0, span.num_queries, chunk)
    ]
    whole, divided = (
        kernels.attention_batch(each).attend(queries, pages, 0.3, window) for each in (spans, pieces)
    )
    assert torch.equal(whole, divided)


def test_what_is_not_finite_in_a_context_shows_in_the_tokens_that_attend_to_it() -> None:
    for dtype, count in itertools.product((torch.float32, torch.bfloat16), (2, 40)):
        pages = Pages(torch.zeros(3, 1, 16, 32, dtype=dtype), torch.zeros(3, 1, 32, 16, dtype=dtype))
        pages.keys[1, 0, 3, 31], pages.values[2, 0, 5, 7] = math.nan, math.inf
        spans = [SequenceSpan(0, count, 64, [1, 2]), SequenceSpan(count, count, 64, [0, 0])]
        queries = torch.ones(2 * count, 1, 16, dtype=dtype)
        result = NativeKernels(dtype).attention_batch(spans).attend(queries, pages, 1.0)
        assert not result[count - 1].isfinite().any()
        assert result[count:].isfinite().all()


@settings(max_examples=40, deadline=None)
@given(
    DTYPES,
    SEEDS,
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 80), st.integers(1, 9)), min_size=1, max_size=4),
)
def test_deltas(dtype: torch.dtype, seed: int, runs: list[tuple[int, int, int]]) -> None:
    """`runs`: tokens of the base model, tokens of an adapter, its rank."""
    torch.manual_seed(seed)
    segments, token, row = [], 0, 2
    for num_base, num_tokens, rank in runs:
        start, stop = token + num_base, token + num_base + num_tokens
        segments.append(Segment(start, stop, len(segments), slice(row, row + rank)))
        token, row = stop, row + rank
    in_features, widths = 33, (70, 5)
    states = torch.randn(token + 1, in_features).to(dtype)
    targets = [
        LoraTarget(
            torch.randn(row + 1, in_features).to(dtype),
            torch.randn(row + 1, width).to(dtype) * 0.1,
            slice(start, start + width),
        )
        for width, start in zip(widths, (0, 73), strict=True)
    ]
    expected = torch.randn(token + 1, 80).to(dtype)
    actual = expected.clone()
    PORTABLE.lora_batch(segments, token + 1).add(states, targets, expected)
    NativeKernels(dtype).lora_batch(segments, token + 1).add(states, targets, actual)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype])


@settings(max_examples=40, deadline=None)
@given(DTYPES, SEEDS, st.integers(1, 5), st.integers(1, 70), st.integers(1, 4))
def test_largest_elements(
    dtype: torch.dtype, seed: int, num_rows: int, width: int, num_distinct: int
) -> None:
    """Few distinct values: the first of the largest counts."""
    torch.manual_seed(seed)
    rows = torch.randn(num_distinct)[torch.randint(num_distinct, (num_rows, width))].to(dtype)
    values, places = NativeKernels(torch.bfloat16).argmax(rows)
    assert torch.equal(values, rows.float().amax(dim=1))
    assert places.tolist() == [row.index(max(row)) for row in rows.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 5, 33])
def test_the_maximum_with_a_nan_is_nan(dtype: torch.dtype, place: int) -> None:
    rows = torch.zeros(2, 34, dtype=dtype)
    rows[1, place], rows[0, 3] = math.nan, math.inf
    values, places = NativeKernels(dtype).argmax(rows)
    assert (float(values[0]), int(places[0])) == (math.inf, 3)
    assert math.isnan(values[1])


@settings(max_examples=60, deadline=None)
@given(DTYPES, SEEDS, st.integers(1, 4), st.integers(1, 1200), st.integers(1, 18), st.integers(0, 2))
def test_largest_probabilities(
    dtype: torch.dtype, seed: int, num_rows: int, width: int, count: int, masked: int
) -> None:
    """Equal logits, minus infinity among them, and rows apart in memory."""
    torch.manual_seed(seed)
    scale = 10.0 ** torch.randint(-1, 3, (num_rows, 1))
    rows = (torch.randn(num_rows, width + 3) * scale).to(dtype)[:, 1 : width + 1]
    rows.masked_fill_(torch.rand(num_rows, width) < masked / 3, -math.inf)
    rows[:, seed % width] = 1.0
    expected = rows.double().softmax(dim=1)
    order = rows.float().sort(dim=1, descending=True, stable=True).indices[:, :count]
    for kernels in (PORTABLE, NativeKernels(dtype)):
        values, indices = kernels.top_probabilities(rows, count)
        torch.testing.assert_close(values.double(), expected.gather(1, order), atol=1e-30, rtol=2e-5)
        has_meaning = values > 0
        assert torch.equal(indices[has_meaning], order[has_meaning])
        assert bool(((indices >= 0) & (indices < width)).all())


@pytest.mark.parametrize("place", [0, 300, 529])
def test_without_a_distribution_there_are_no_probabilities(place: int) -> None:
    rows = torch.randn(4, 530)
    rows[0, place], rows[1, place], rows[2] = math.nan, math.inf, -math.inf
    for kernels in (PORTABLE, NativeKernels(torch.float32)):
        values, indices = kernels.top_probabilities(rows, 8)
        assert torch.isnan(values[:3]).all()
        assert torch.isfinite(values[3]).all()
        assert bool(((indices >= 0) & (indices < 530)).all())


@settings(max_examples=20, deadline=None)
@given(DTYPES, SEEDS, st.integers(0, 5), st.integers(1, 9), st.integers(1, 70))
def test_sums_of_weighted_rows(dtype: torch.dtype, seed: int, num_sums: int, count: int, width: int) -> None:
    torch.manual_seed(seed)
    table, weights = torch.randn(11, width).to(dtype), torch.randn(num_sums, count)
    indices = torch.randint(11, (num_sums, count))
    expected = PORTABLE.sum_rows(weights, indices, table)
    assert_same(NativeKernels(dtype).sum_rows(weights, indices, table), expected)


def test_nan_and_infinity_stay_visible() -> None:
    poisoned = torch.tensor([[math.nan, 1.0, 2.0, 3.0], [math.inf, 1.0, 2.0, 3.0]])
    for dtype in (torch.float32, torch.bfloat16):
        states, kernels = poisoned.to(dtype), NativeKernels(dtype)
        assert not torch.isfinite(kernels.silu_gate(states)[:, 0]).any()
        assert torch.isnan(kernels.add_rms_norm(states, None, torch.ones(4, dtype=dtype), 1e-5)[:, 0]).all()


def test_a_token_gets_the_same_bits_in_any_company() -> None:
    torch.manual_seed(0)
    kernels = NativeKernels(torch.float32)
    hidden, weight = torch.randn(300, 96), torch.randn(96)
    together = kernels.add_rms_norm(hidden, None, weight, 1e-5)
    assert torch.equal(together[7:8], kernels.add_rms_norm(hidden[7:8].clone(), None, weight, 1e-5))
    assert torch.equal(kernels.silu_gate(hidden)[7:8], kernels.silu_gate(hidden[7:8].clone()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_gets_the_same_delta_in_any_company(dtype: torch.dtype) -> None:
    """However many tokens and rows the kernel takes at once."""
    torch.manual_seed(0)
    kernels = NativeKernels(dtype)
    states, base = torch.randn(13, 100).to(dtype), torch.randn(13, 90).to(dtype)
    target = LoraTarget(torch.randn(11, 100).to(dtype), torch.randn(11, 90).to(dtype), slice(0, 90))
    together = base.clone()
    kernels.lora_batch([Segment(0, 13, 0, slice(0, 11))], 13).add(states, [target], together)
    for token in range(13):
        alone = base[token : token + 1].clone()
        own = states[token : token + 1].clone()
        kernels.lora_batch([Segment(0, 1, 0, slice(0, 11))], 1).add(own, [target], alone)
        assert torch.equal(alone, together[token : token + 1])


@pytest.mark.parametrize("features", [{"amx_bf16"}, {"avx512f", "avx512_bf16"}])
def test_a_compiler_that_does_not_know_the_cpu_is_named(
    features: set[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library then lacks the functions that use its instructions."""
    monkeypatch.setattr(native, "load_library", SimpleNamespace)
    monkeypatch.setattr(native, "this_cpu", lambda: Cpu("AuthenticAMD", frozenset(features)))
    with pytest.raises(KernelBuildError, match=r"g\+\+ 11"):
        select_kernels("native", torch.bfloat16, "cpu")
    assert not isinstance(select_kernels("auto", torch.bfloat16, "cpu"), NativeKernels)
    assert "g++ 11" in caplog.text


def test_a_strided_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="strides"):
        NativeKernels(torch.float32).silu_gate(torch.randn(4, 6).T)


def test_without_a_compiler_auto_falls_back_and_native_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    assert not isinstance(select_kernels("auto", torch.float32, "cpu"), NativeKernels)
    assert "no-compiler" in caplog.text
    with pytest.raises(KernelBuildError, match="no-compiler"):
        select_kernels("native", torch.float32, "cpu")


def test_half_precision_has_no_native_kernels() -> None:
    assert not isinstance(select_kernels("auto", torch.float16, "cpu"), NativeKernels)
    with pytest.raises(KernelBuildError, match="float16"):
        select_kernels("native", torch.float16, "cpu")
