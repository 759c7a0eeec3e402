from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.training.sketch import NUM_PARTS, CountSketch, PartSketch, part_of


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


def test_parts_are_sketched_apart() -> None:
    torch.manual_seed(0)
    modules = [f"layers.{block}.{name}" for block in (0, 9, 13, 15) for name in ("o_proj", "up_proj")]
    modules = [f"model.{module}" for module in modules]
    assert sorted(part_of(module, 16) for module in modules) == list(range(NUM_PARTS))
    gradients = {module: torch.randn(3, 5, 6) for module in modules}
    whole, alone = PartSketch(16, size=8), CountSketch(size=8)
    sums = whole.zeros(3)
    for module, each in gradients.items():
        whole.add(sums, module, each)
    for module, each in gradients.items():
        expected = alone.zeros(3)
        alone.add(expected, module, each)
        assert torch.equal(sums.view(3, NUM_PARTS, 8)[:, part_of(module, 16)], expected)


@pytest.mark.parametrize(
    ("num_blocks", "counts"),
    [(30, [4, 4, 7, 15]), (18, [3, 2, 4, 9]), (32, [4, 4, 8, 16]), (2, [1, 0, 0, 1]), (1, [1, 0, 0, 0])],
)
def test_depths_are_fractions_of_the_blocks(num_blocks: int, counts: list[int]) -> None:
    """By rising distance from the last block."""
    parts = [part_of(f"model.layers.{block}.mlp.up_proj", num_blocks) // 2 for block in range(num_blocks)]
    assert [parts.count(depth) for depth in range(4)] == counts
    assert parts == sorted(parts, reverse=True)


def test_the_attention_output_is_a_part_of_its_own() -> None:
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj")
    assert {part_of(f"base_model.model.model.layers.29.{name}", 30) for name in names} == {1}
    assert part_of("base_model.model.model.layers.29.self_attn.o_proj", 30) == 0


def test_a_module_outside_the_blocks_has_no_part() -> None:
    with pytest.raises(ValueError, match="lm_head is in no block"):
        part_of("base_model.model.lm_head", 30)
