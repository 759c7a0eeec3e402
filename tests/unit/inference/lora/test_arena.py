"""Every kind of kernel against the reference, on ragged batches."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.kernels import portable
from inference.kernels.interface import Segment
from inference.kernels.reference import lora_delta, scaled_outputs
from inference.kernels.select import select_kernels
from inference.lora.adapter import Adapter
from inference.lora.arena import AdapterArena, StepAdapters
from inference.lora.blend import Blend, build_blend, single_blend
from inference.lora.block import DoraScale, LoraBlock
from inference.lora.dora import DoraScales
from inference.lora.segments import BASE_SLOT, find_segments
from inference.model.architecture import PROJECTIONS, LayerSpec
from inference.model.families import read_architecture
from tests.fixtures_engine import ALL_LINEAR
from tests.support.adapters import pairs

if TYPE_CHECKING:
    from pathlib import Path

    from inference.config import KernelBackend
    from inference.model.architecture import Architecture


def random_adapter(architecture: Architecture, name: str, ranks: dict[str, int]) -> Adapter:
    return Adapter(
        name, [random_block(architecture, linear, range(1), rank) for linear, rank in ranks.items()], 0, 1.0
    )


def random_block(architecture: Architecture, linear: str, layers: range, rank: int) -> LoraBlock:
    shrink, expand = (torch.randn(len(layers), rank, width) for width in architecture.linear_shape(linear))
    return LoraBlock(linear, layers, shrink, expand)


@pytest.mark.parametrize(("kernels", "max_stacked"), [("portable", 0), ("portable", 1000), ("native", 0)])
@pytest.mark.parametrize(
    "spans",
    [
        [(0, 5)],
        [(BASE_SLOT, 3), (0, 1), (2, 4), (BASE_SLOT, 1), (1, 2)],
        [(1, 1), (0, 1), (1, 1), (2, 1)],
        [(2, 7), (BASE_SLOT, 1)],
    ],
)
def test_deltas_equal_the_reference(
    kernels: KernelBackend,
    max_stacked: int,
    spans: list[tuple[int, int]],
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portable, "_MAX_STACKED_TOKENS", max_stacked)
    torch.manual_seed(0)
    architecture = read_architecture(tiny_llama)
    adapters = [
        random_adapter(architecture, "a", {"q_proj": 4, "v_proj": 2, "gate_proj": 1}),
        random_adapter(architecture, "b", {"v_proj": 6, "up_proj": 3, "down_proj": 2}),
        random_adapter(architecture, "c", {"o_proj": 1}),
    ]
    arena = AdapterArena(architecture, 16, 3, torch.float32, "cpu")
    old = random_adapter(architecture, "old", dict.fromkeys(("q_proj", "o_proj"), 16))
    arena.write(single_blend(old), 0, slice(0, 16))
    rows: list[slice | None] = [slice(9, 13), slice(1, 7), slice(13, 14)]
    for slot, (adapter, place) in enumerate(zip(adapters, rows, strict=True)):
        arena.write(single_blend(adapter), slot, place)
    segments = find_segments(spans, rows)
    slots = [slot for slot, count in spans for _ in range(count)]
    keys = frozenset(key for segment in segments for key in pairs(adapters[segment.slot]))
    batch = select_kernels(kernels, torch.float32, "cpu").lora_batch(segments, len(slots))
    step = StepAdapters(arena, batch, keys)
    for projection, linears in PROJECTIONS.items():
        states = torch.randn(len(slots), architecture.linear_shape(linears[0])[0])
        output = torch.randn(len(slots), sum(architecture.linear_shape(name)[1] for name in linears))
        expected = output + torch.cat(
            [reference(architecture, adapters, states, slots, linear) for linear in linears], dim=1
        )
        output = step.project(0, projection, lambda _, base=output: base, states)
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernels", ["portable", "native"])
def test_scales_that_lay_in_an_adapters_rows_change_nothing_that_it_lacks(
    kernels: KernelBackend, tiny_llama: Path
) -> None:
    """In int8, where 0 times a stale scale of infinity would be NaN."""
    torch.manual_seed(0)
    architecture = read_architecture(tiny_llama)
    arena = AdapterArena(architecture, 16, 1, torch.int8, "cpu")
    stale = [int8_block(architecture, linear, 16, torch.inf) for linear in ALL_LINEAR]
    arena.write(single_blend(Adapter("stale", stale, 0, 1.0)), 0, slice(0, 16))
    block = int8_block(architecture, "q_proj", 2, 1e-3)
    shrink, expand = block.factors(0)
    exact = LoraBlock("q_proj", range(1), shrink.unsqueeze(0), expand.unsqueeze(0))
    arena.write(single_blend(Adapter("a", [block], 0, 1.0)), 0, slice(3, 5))
    batch = select_kernels(kernels, torch.float32, "cpu").lora_batch([Segment(0, 3, 0, slice(3, 5))], 3)
    states = torch.randn(3, architecture.hidden_size)
    output = torch.randn(3, sum(architecture.linear_shape(name)[1] for name in PROJECTIONS["qkv"]))
    deltas = [
        reference(architecture, [Adapter("a", [exact], 0, 1.0)], states, [0] * 3, linear)
        for linear in PROJECTIONS["qkv"]
    ]
    expected = output + torch.cat(deltas, dim=1)
    step = StepAdapters(arena, batch, frozenset((0, linear) for linear in PROJECTIONS["qkv"]))
    torch.testing.assert_close(
        step.project(0, "qkv", lambda _: output, states), expected, atol=1e-4, rtol=1e-4
    )


def int8_block(architecture: Architecture, linear: str, rank: int, scale: float) -> LoraBlock:
    sides = (torch.randint(-127, 128, (1, rank, width)) for width in architecture.linear_shape(linear))
    shrink, expand = (side.to(torch.int8) for side in sides)
    return LoraBlock(linear, range(1), shrink, expand, torch.full((1, rank), scale))


def reference(
    architecture: Architecture, adapters: list[Adapter], states: torch.Tensor, slots: list[int], linear: str
) -> torch.Tensor:
    found = {slot: pairs(adapter).get((0, linear)) for slot, adapter in enumerate(adapters)}
    held = {slot: (pair.shrink, pair.expand) for slot, pair in found.items() if pair is not None}
    return lora_delta(states, slots, held, architecture.linear_shape(linear)[1])


def test_neighbouring_spans_of_one_slot_are_one_segment() -> None:
    rows: list[slice | None] = [slice(0, 2), slice(2, 3)]
    found = find_segments([(BASE_SLOT, 2), (0, 1), (0, 3), (BASE_SLOT, 1), (0, 1), (1, 1)], rows)
    assert found == [
        Segment(2, 6, 0, slice(0, 2)),
        Segment(7, 8, 0, slice(0, 2)),
        Segment(8, 9, 1, slice(2, 3)),
    ]


def test_dora_scales_affect_their_own_tokens_and_no_others(tiny_llama: Path) -> None:
    """Slot 0 scales with offsets, slot 1 only adds, slot 2 scales without; the rest is the base model's."""
    torch.manual_seed(0)
    architecture = read_architecture(tiny_llama)
    width = architecture.linear_shape("q_proj")[1]
    scales = {
        0: DoraScale(torch.randn(width), torch.randn(width)),
        2: DoraScale(torch.randn(width), None),
    }
    arena = AdapterArena(architecture, 16, 3, torch.float32, "cpu")
    adapters, rows = [], [slice(2 * slot, 2 * slot + 2) for slot in range(3)]
    for slot in range(3):
        plain = random_adapter(architecture, str(slot), {"q_proj": 2})
        scale = scales.get(slot)
        of_block = scale and DoraScale(
            scale.factor.unsqueeze(0), None if scale.offset is None else scale.offset.unsqueeze(0)
        )
        adapters.append(replace(plain, blocks=[replace(plain.blocks[0], dora=of_block)]))
        arena.write(single_blend(adapters[-1]), slot, rows[slot])
    spans = [(0, 3), (BASE_SLOT, 2), (1, 2), (2, 1)]
    slots = [slot for slot, count in spans for _ in range(count)]
    segments = find_segments(spans, rows)
    batch = select_kernels("portable", torch.float32, "cpu").lora_batch(segments, len(slots))
    keys = frozenset({(0, "q_proj")})
    step = StepAdapters(arena, batch, keys, segments, arena.dora.for_step(segments, len(slots)))
    states = torch.randn(len(slots), architecture.hidden_size)
    output = torch.randn(len(slots), sum(architecture.linear_shape(name)[1] for name in PROJECTIONS["qkv"]))
    expected = output.clone()
    expected[:, :width] = scaled_outputs(
        output[:, :width] + reference(architecture, adapters, states, slots, "q_proj"),
        slots,
        {
            slot: (scale.factor, torch.zeros(width) if scale.offset is None else scale.offset)
            for slot, scale in scales.items()
        },
    )
    output = step.project(0, "qkv", lambda _: output, states)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


BLOCKS = st.lists(
    st.tuples(st.sampled_from(["q_proj", "down_proj"]), st.lists(st.integers(0, 3), min_size=6, max_size=6)),
    unique_by=lambda block: block[0],
)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(BLOCKS, st.sampled_from([1.0, -0.5, 3.0])), min_size=1, max_size=3))
def test_a_blend_lies_in_its_rows_as_if_copied_matrix_by_matrix(
    parts: list[tuple[list[tuple[str, list[int]]], float]], tiny_llama: Path
) -> None:
    """Each part has any rank in each of six layers, 0 for none; what lay there before is gone."""
    torch.manual_seed(0)
    architecture = replace(read_architecture(tiny_llama), layers=(LayerSpec(),) * 6)
    adapters = [
        (Adapter(str(number), ragged_blocks(architecture, ranks), 0, 1.0), weight)
        for number, (ranks, weight) in enumerate(parts)
    ]
    blend = build_blend("blend", adapters, 16, torch.float32)
    rows = slice(2, 2 + blend.rank)
    arena = AdapterArena(architecture, 16, 1, torch.float32, "cpu")
    junk = [random_block(architecture, linear, range(6), 16) for linear in ALL_LINEAR]
    arena.write(single_blend(Adapter("junk", junk, 0, 1.0)), 0, slice(0, 16))
    arena.write(blend, 0, rows)
    for layer in range(6):
        for number, linear in enumerate(ALL_LINEAR):
            target = arena.target(layer, linear)
            shrink, expand = expected_rows(architecture, blend, (layer, linear))
            assert torch.equal(target.shrink[rows], shrink)
            assert torch.equal(target.expand[rows], expand)
            outside = [*range(2), *range(rows.stop, 16)]
            assert torch.equal(target.shrink[outside], junk[number].shrink[layer][outside])


def ragged_blocks(architecture: Architecture, ranks: list[tuple[str, list[int]]]) -> list[LoraBlock]:
    blocks = []
    for linear, by_layer in ranks:
        for rank, run in itertools.groupby(range(6), by_layer.__getitem__):
            layers = list(run)
            if rank:
                blocks.append(random_block(architecture, linear, range(layers[0], layers[-1] + 1), rank))
    return blocks


def expected_rows(
    architecture: Architecture, blend: Blend, key: tuple[int, str]
) -> tuple[torch.Tensor, torch.Tensor]:
    sides = []
    for side, width in enumerate(architecture.linear_shape(key[1])):
        found = [(pairs(adapter).get(key), weight) for adapter, weight in blend.parts]
        rows = [pair[side] * (weight if side else 1.0) for pair, weight in found if pair is not None]
        missing = blend.rank - sum(map(len, rows))
        sides.append(torch.cat([*rows, torch.zeros(missing, width)]))
    return sides[0], sides[1]


def test_a_slots_scales_end_with_it_and_the_last_ones_free_the_memory(tiny_llama: Path) -> None:
    architecture = read_architecture(tiny_llama)
    table = DoraScales(architecture, 2, "cpu")
    ones = torch.ones(architecture.linear_shape("o_proj")[1])
    for slot in range(2):
        table.write(slot, {(1, "o_proj"): DoraScale(2 * ones, 3 * ones)})
    table.erase(0)
    factors, offsets = table.rows(1, "o")
    assert [table.keys(slot) for slot in range(2)] == [frozenset(), {(1, "o")}]
    assert factors[:, 0].tolist() == [1, 2, 1]
    assert offsets[:, 0].tolist() == [0, 3, 0]
    table.write(1, {})
    assert table.num_bytes == 0
