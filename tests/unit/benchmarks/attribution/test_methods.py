from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.attribution.methods import by_part_scores, fold, ridge_scores
from benchmarks.attribution.signals import NUM_PARTS, PartSketch, part_of
from workers.training.influence import GRADIENT_RIDGE
from workers.training.sketch import SKETCH_SIZE, CountSketch

NUM_BLOCKS = 20
MODULES = [
    f"model.layers.{block}.{module}"
    for block in (0, 5, 13, 19)
    for module in ("self_attn.o_proj", "mlp.up_proj")
]


def test_folded_sketches_are_those_of_the_smaller_size() -> None:
    """Each part has one module here, so that its sketch can be computed directly."""
    assert sorted(part_of(module, NUM_BLOCKS) for module in MODULES) == list(range(NUM_PARTS))
    source = torch.Generator().manual_seed(0)
    whole, small = PartSketch(NUM_BLOCKS), CountSketch(size=SKETCH_SIZE // NUM_PARTS)
    sums = whole.zeros(3)
    expected = torch.zeros(3, NUM_PARTS, SKETCH_SIZE // NUM_PARTS)
    for module in MODULES:
        gradients = torch.randn(3, 8, 700, generator=source)
        whole.add(sums, module, gradients)
        small.add(expected[:, part_of(module, NUM_BLOCKS)], module, gradients)
    torch.testing.assert_close(fold(sums.view(3, NUM_PARTS, SKETCH_SIZE)), expected)


def test_each_part_has_a_preconditioner_of_its_own() -> None:
    """One part's scale changes the damping of no other part."""
    source = torch.Generator().manual_seed(0)
    rows, answers = (torch.randn(n, 2, 64, generator=source) for n in (6, 3))
    contributions = [0, 0, 1, 1, 2, 2]
    alone = [ridge_scores(rows[:, at], contributions, answers[:, at], GRADIENT_RIDGE) for at in range(2)]
    assert by_part_scores(rows, contributions, answers) == pytest.approx(alone[0] + alone[1])
    scale = torch.tensor([1.0, 1000.0])[:, None]
    scaled = by_part_scores(rows * scale, contributions, answers)
    assert scaled == pytest.approx(alone[0] + alone[1] / 1000, rel=1e-4)
    together = ridge_scores((rows * scale).flatten(1), contributions, answers.flatten(1), GRADIENT_RIDGE)
    assert not np.allclose(together, scaled, rtol=0.1)
