from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.attribution.measure import as_paid, predict
from benchmarks.attribution.methods import (
    FOLDED_SIZE,
    Scored,
    fold,
    gradient_scores,
    ridge_scores,
    rows_scores,
)
from workers.training.influence import GRADIENT_RIDGE, gradient_directions
from workers.training.sketch import NUM_PARTS, PART_SIZE, PartSketch

NUM_BLOCKS = 16
MODULES = [
    f"model.layers.{block}.{module}"
    for block in (0, 9, 13, 15)
    for module in ("self_attn.o_proj", "mlp.up_proj")
]
CONTRIBUTIONS = [0, 0, 1, 1, 2, 2]


def drawn(num_rows: int, seed: int = 0) -> torch.Tensor:
    """Sketches [rows, parts, part size], of a module in each part."""
    source = torch.Generator().manual_seed(seed)
    sketch = PartSketch(NUM_BLOCKS)
    sums = sketch.zeros(num_rows)
    for module in MODULES:
        sketch.add(sums, module, torch.randn(num_rows, 8, 700, generator=source))
    return sums.view(num_rows, NUM_PARTS, PART_SIZE)


def test_counting_rows_adds_numbers_of_rows_and_pays_by_them() -> None:
    counts = Scored(rows_scores([0, 0, 0, 0, 1, 1, 2], 2), adds_squares=True)
    assert predict(counts.addends, [(0, 2), (1, 2)])[0].tolist() == pytest.approx([5, 3])
    assert as_paid(counts.scores)[0].tolist() == pytest.approx([4e6 / 7, 2e6 / 7, 1e6 / 7], abs=1)


def test_folded_sketches_are_those_of_the_smaller_size() -> None:
    source = torch.Generator().manual_seed(0)
    small = PartSketch(NUM_BLOCKS, FOLDED_SIZE)
    sums = small.zeros(3)
    for module in MODULES:
        small.add(sums, module, torch.randn(3, 8, 700, generator=source))
    torch.testing.assert_close(fold(drawn(3)).flatten(1), sums)


def test_scores_are_those_of_an_index() -> None:
    rows, answers = drawn(6), drawn(3, seed=1)
    vectors = gradient_directions(rows.flatten(1), CONTRIBUTIONS)
    expected = answers.flatten(1).double() @ vectors.double().T
    assert gradient_scores(rows, CONTRIBUTIONS, answers) == pytest.approx(
        expected.numpy(), rel=1e-4, abs=1e-6
    )


def test_the_size_of_a_part_changes_the_damping_of_no_other() -> None:
    source = torch.Generator().manual_seed(0)
    rows, answers = (torch.randn(n, 2, 64, generator=source) for n in (6, 3))
    alone = [ridge_scores(rows[:, at], CONTRIBUTIONS, answers[:, at], GRADIENT_RIDGE) for at in range(2)]
    assert gradient_scores(rows, CONTRIBUTIONS, answers) == pytest.approx(alone[0] + alone[1])
    scale = torch.tensor([1.0, 1000.0])[:, None]
    scaled = gradient_scores(rows * scale, CONTRIBUTIONS, answers)
    assert scaled == pytest.approx(alone[0] + alone[1] / 1000, rel=1e-4)
    together = ridge_scores((rows * scale).flatten(1), CONTRIBUTIONS, answers.flatten(1), GRADIENT_RIDGE)
    assert not np.allclose(together, scaled, rtol=0.1)
