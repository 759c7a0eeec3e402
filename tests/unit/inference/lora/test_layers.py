"""Every kind of kernel against the reference, on ragged batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from inference.kernels import portable
from inference.kernels.choice import choose_kernels
from inference.kernels.reference import lora_delta
from inference.lora.adapter import Adapter, LoraPair
from inference.lora.layers import AdapterArena, StepAdapters
from inference.lora.segments import BASE_SLOT, Segment, find_segments
from inference.model.architecture import PROJECTIONS, read_architecture

if TYPE_CHECKING:
    from pathlib import Path

    from inference.config import KernelChoice
    from inference.model.architecture import Architecture


def random_adapter(architecture: Architecture, name: str, ranks: dict[str, int]) -> Adapter:
    pairs = {}
    for linear, rank in ranks.items():
        in_features, out_features = architecture.linear_shape(linear)
        pairs[0, linear] = LoraPair(torch.randn(rank, in_features), torch.randn(rank, out_features))
    return Adapter(name, max(ranks.values()), 0, pairs)


@pytest.mark.parametrize(("kernels", "max_stacked"), [("portable", 0), ("portable", 1000), ("native", 0)])
@pytest.mark.parametrize(
    "runs",
    [
        [(0, 5)],
        [(BASE_SLOT, 3), (0, 1), (2, 4), (BASE_SLOT, 1), (1, 2)],
        [(1, 1), (0, 1), (1, 1), (2, 1)],
        [(2, 7), (BASE_SLOT, 1)],
    ],
)
def test_deltas_equal_the_reference(
    kernels: KernelChoice,
    max_stacked: int,
    runs: list[tuple[int, int]],
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
    arena = AdapterArena(architecture, 16, torch.float32, "cpu")
    arena.write(random_adapter(architecture, "old", dict.fromkeys(("q_proj", "o_proj"), 16)), slice(0, 16))
    rows: list[slice | None] = [slice(9, 13), slice(1, 7), slice(13, 14)]
    for adapter, place in zip(adapters, rows, strict=True):
        arena.write(adapter, place)
    segments = find_segments(runs, rows)
    slots = [slot for slot, count in runs for _ in range(count)]
    targets = frozenset(key for segment in segments for key in adapters[segment.slot].pairs)
    batch = choose_kernels(kernels, torch.float32, "cpu").lora_batch(segments, len(slots))
    step = StepAdapters(arena, batch, targets)
    for projection, linears in PROJECTIONS.items():
        states = torch.randn(len(slots), architecture.linear_shape(linears[0])[0])
        output = torch.randn(len(slots), sum(architecture.linear_shape(name)[1] for name in linears))
        expected = output + torch.cat(
            [reference(architecture, adapters, states, slots, linear) for linear in linears], dim=1
        )
        step.add(0, projection, states, output)
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


def reference(
    architecture: Architecture, adapters: list[Adapter], states: torch.Tensor, slots: list[int], linear: str
) -> torch.Tensor:
    pairs = {slot: adapter.pairs.get((0, linear)) for slot, adapter in enumerate(adapters)}
    held = {slot: (pair.shrink, pair.expand) for slot, pair in pairs.items() if pair is not None}
    return lora_delta(states, slots, held, architecture.linear_shape(linear)[1])


def test_neighbouring_runs_of_one_slot_are_one_segment() -> None:
    rows: list[slice | None] = [slice(0, 2), slice(2, 3)]
    found = find_segments([(BASE_SLOT, 2), (0, 1), (0, 3), (BASE_SLOT, 1), (0, 1), (1, 1)], rows)
    assert found == [
        Segment(2, 6, 0, slice(0, 2)),
        Segment(7, 8, 0, slice(0, 2)),
        Segment(8, 9, 1, slice(2, 3)),
    ]
