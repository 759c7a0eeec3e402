from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import InvalidInput
from backend.domain.ids import ZERO_HASH, VersionId
from backend.domain.money import PPM
from backend.domain.split import MAX_SLICES
from backend.services.answers.blend import build_blend, price
from backend.services.market.catalogue import Model
from tests.support.market import Market, some_hash

if TYPE_CHECKING:
    from backend.domain.receipt import VersionRecord

WEIGHTS = st.lists(st.floats(0.01, 1 / MAX_SLICES), min_size=1, max_size=MAX_SLICES)
RECORD: VersionRecord = next(iter(Market().records.values()))


def model(number: int, prompt_price: int = 10, completion_price: int = 20) -> Model:
    digest = some_hash(f"adapter {number}")
    record = replace(
        RECORD, adapter_digest=digest, prompt_price=prompt_price, completion_price=completion_price
    )
    return Model(VersionId(some_hash(f"version {number}")), record, f"{number}", False, 1)


@given(WEIGHTS, st.integers(0, 1000), st.integers(0, 1000))
def test_parts_are_in_proportion_and_make_one_whole(weights: list[float], prompt: int, answer: int) -> None:
    parts = build_blend([(model(number), weight) for number, weight in enumerate(weights)])
    assert sum(part.ppm for part in parts) == PPM
    for part, weight in zip(parts, weights, strict=True):
        assert part.ppm >= int(weight * PPM) > 0
        assert abs(part.ppm - weight * PPM / sum(weights)) < len(weights)
    assert price(parts, prompt, answer) <= price(parts, prompt, answer + 1) <= 10 * prompt + 20 * (answer + 1)


def test_each_adapter_is_paid_its_part_at_its_own_price() -> None:
    parts = build_blend([(model(1, 100, 1000), 0.6), (model(2, 10, 20), 0.2)])
    assert [part.ppm for part in parts] == [750_000, 250_000]
    assert price(parts, 4, 2) == (400 + 2000) * 3 // 4 + (40 + 40) // 4


def test_the_base_model_and_the_same_adapter_twice_are_no_blend() -> None:
    base = replace(model(1), record=replace(RECORD, adapter_digest=ZERO_HASH))
    again = replace(model(1), id=VersionId(some_hash("another version of the same weights")))
    for wrong in ([(base, 1.0)], [(model(1), 0.5), (again, 0.5)], []):
        with pytest.raises(InvalidInput):
            build_blend(wrong)


def test_no_adapter_is_used_for_more_than_it_is_paid() -> None:
    """One that changes nothing cannot take the pay of one that is used in full."""
    for weight in (0.9, 0.7, 0.3):
        assert len(build_blend([(model(1), weight), (model(2), 1 - weight)])) == 2
    for weights in ((1.0, 0.01), (0.9, 0.11), (1.01,)):
        with pytest.raises(InvalidInput, match="at most 1"):
            build_blend([(model(number), weight) for number, weight in enumerate(weights)])
