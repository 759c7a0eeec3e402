from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.training.influence import (
    GRADIENT_RIDGE,
    directions,
    gradient_directions,
    stream_gradient_directions,
)
from workers.training.sketch import NUM_PARTS, PART_SIZE, SKETCH_SIZE


def plain(gradients: torch.Tensor, contributions: list[int], ridge: float) -> torch.Tensor:
    """The formula with an explicit inverse, for any shape."""
    rows = gradients.double()
    kernel = rows @ rows.T
    kernel += ridge * kernel.diagonal().mean() * torch.eye(len(rows), dtype=torch.float64)
    marks = torch.tensor([[float(c == each) for c in sorted(set(contributions))] for each in contributions])
    return (rows.T @ kernel.inverse() @ marks.double()).T


@given(
    num_rows=st.integers(1, 20), size=st.integers(1, 20), ridge=st.floats(0.1, 10), seed=st.integers(0, 99)
)
def test_both_ways_of_solving_give_the_formula(num_rows: int, size: int, ridge: float, seed: int) -> None:
    torch.manual_seed(seed)
    gradients = torch.randn(num_rows, size) + 0.1
    contributions = torch.randint(0, 4, (num_rows,)).tolist()
    named, found = directions(gradients, contributions, ridge)
    assert named == sorted(set(contributions))
    expected = plain(gradients, contributions, ridge)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_a_copy_shares_what_the_original_alone_would_score() -> None:
    torch.manual_seed(0)
    rows = torch.randn(6, 64)
    answer = rows[0] + rows[1]
    _, alone = directions(rows, [0, 0, 1, 1, 2, 2], 1.0)
    _, copied = directions(torch.cat([rows, rows[:2]]), [0, 0, 1, 1, 2, 2, 3, 3], 1.0)
    before, after = alone @ answer, copied @ answer
    assert after[3].item() == pytest.approx(after[0].item(), rel=1e-5)
    assert after[0] < 0.7 * before[0]


def test_the_size_of_the_gradients_does_not_change_who_gets_what() -> None:
    torch.manual_seed(0)
    rows, answer = torch.randn(8, 16), torch.randn(16)
    _, small = directions(rows, [0, 1] * 4, 1.0)
    _, large = directions(1000 * rows, [0, 1] * 4, 1.0)
    assert torch.allclose(small @ answer, 1000 * (large @ answer), rtol=1e-4)


def test_rows_without_gradients_point_nowhere() -> None:
    named, found = directions(torch.zeros(3, 4), [2, 0, 2], 1.0)
    assert named == [0, 2]
    assert found.tolist() == [[0.0] * 4] * 2


def test_each_part_of_a_gradient_has_a_direction_of_its_own() -> None:
    """A part without gradients, such as of modules that an adapter does not have, scores nothing."""
    torch.manual_seed(0)
    parts = torch.randn(4, NUM_PARTS, PART_SIZE)
    parts[:, 1] *= 1000
    parts[:, 2] = 0
    found = gradient_directions(parts.flatten(1), [5, 0, 5, 0])
    assert found.shape == (2, SKETCH_SIZE)
    for number, part in enumerate(found.view(2, NUM_PARTS, PART_SIZE).unbind(1)):
        assert torch.equal(part, directions(parts[:, number], [5, 0, 5, 0], GRADIENT_RIDGE)[1])
    assert not found.view(2, NUM_PARTS, PART_SIZE)[:, 2].any()


def test_rows_in_batches_give_the_directions_of_all_at_once() -> None:
    torch.manual_seed(0)
    sketches, contributions = torch.randn(9, SKETCH_SIZE) + 0.1, [3, 1, 3, 8, 1, 1, 3, 8, 8]
    places = torch.tensor([1, 0, 1, 2, 0, 0, 1, 2, 2])
    batches = zip(torch.split(sketches, 4), torch.split(places, 4), strict=True)
    streamed = stream_gradient_directions(batches, 3)
    torch.testing.assert_close(streamed, gradient_directions(sketches, contributions))
