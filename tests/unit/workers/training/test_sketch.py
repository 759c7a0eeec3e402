from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.training.sketch import CountSketch


def sketched(sketch: CountSketch, gradients: torch.Tensor, module: str = "layer") -> torch.Tensor:
    """[rows, size] of `gradients` [rows, coordinates], those of a module with one input."""
    sums = sketch.zeros(len(gradients))
    sketch.add(sums, module, gradients.unsqueeze(1))
    return sums


def test_each_coordinate_goes_to_one_sum_with_a_sign() -> None:
    unit = torch.eye(50)
    sketch = sketched(CountSketch(size=16), unit)
    assert (sketch != 0).sum(dim=1).tolist() == [1] * 50
    assert sketch.abs().sum(dim=1).tolist() == [1.0] * 50
    assert set(sketch.sum(dim=1).tolist()) == {-1.0, 1.0}


def test_the_published_seed_gives_these_sums_for_ever() -> None:
    """Verifiers of an index recompute them, possibly years later."""
    sketch = sketched(CountSketch(size=4), torch.arange(1.0, 9.0).unsqueeze(0), "q_proj")
    assert sketch.tolist() == [[5.0, 4.0, 4.0, 3.0]]


def test_coordinates_are_counted_as_those_of_the_weight() -> None:
    weight = torch.arange(1.0, 9.0).view(4, 2)  # of four outputs and two inputs
    sketch = CountSketch(size=4)
    sums = sketch.zeros(1)
    sketch.add(sums, "q_proj", weight.T.unsqueeze(0))
    assert torch.equal(sums, sketched(sketch, weight.view(1, 8), "q_proj"))


@given(seed=st.integers(0, 100))
def test_it_is_linear_and_independent_of_the_order_of_modules(seed: int) -> None:
    torch.manual_seed(seed)
    parts = {name: torch.randint(-9, 9, (3, 5, 6)).float() for name in ("a", "b")}
    sketch = CountSketch(size=8)
    forth, back = sketch.zeros(3), sketch.zeros(3)
    for name in ("a", "b"):
        sketch.add(forth, name, parts[name])
    for name in ("b", "a"):
        sketch.add(back, name, parts[name])
    assert torch.equal(forth, back)
    part = parts["a"].flatten(1)
    assert torch.equal(sketched(sketch, 3 * part), 3 * sketched(sketch, part))


def test_dot_products_survive_on_average() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 400)
    other = one + 0.5 * other
    both = torch.stack([one, other])
    found = [torch.dot(*sketched(CountSketch(seed, 256), both)).item() for seed in range(200)]
    assert sum(found) / len(found) == pytest.approx(torch.dot(one, other).item(), rel=0.03)


@pytest.mark.parametrize("size", [0, 3, 4095])
def test_a_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        CountSketch(size=size)
