from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backend.domain.attribution_checks import (
    AGREEMENT,
    DISTANCE,
    MEAN_MISS,
    MISS,
    MOVED_PPM,
    Draws,
    MethodDifference,
    Recomputed,
    index_checks,
)

DIFFERENCE = MethodDifference("distilled-1", DISTANCE, MOVED_PPM, 90_000, 64)
DRAWS = Draws(64, 2000, 30, MEAN_MISS, MISS, 0)
HONEST = Recomputed(
    methods=(DIFFERENCE,),
    rows={},
    num_unplanned=0,
    draws=DRAWS,
    agreements={"distilled-1": (0.5, 0.5 + AGREEMENT / 2)},
    num_kept_out=(16, 16),
)


def results(found: Recomputed) -> dict[str, bool | None]:
    return {check.name: check.is_right for check in index_checks(found)}


def test_what_differs_within_the_tolerances_is_right() -> None:
    found = results(HONEST)
    assert list(found) == [
        "rows",
        "distilled-1",
        "prompts",
        "answers",
        "agreement of distilled-1",
        "kept out",
    ]
    assert all(found.values())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"methods": (replace(DIFFERENCE, distance=DISTANCE * 1.01),)}, "distilled-1"),
        ({"methods": (replace(DIFFERENCE, moved_ppm=MOVED_PPM + 1),)}, "distilled-1"),
        ({"methods": (replace(DIFFERENCE, distance=float("nan")),)}, "distilled-1"),
        ({"rows": {3: (9, 8)}}, "rows"),
        ({"num_unplanned": 1}, "prompts"),
        ({"draws": replace(DRAWS, mean_miss=MEAN_MISS * 1.01)}, "answers"),
        ({"draws": replace(DRAWS, largest_miss=MISS * 1.01)}, "answers"),
        ({"draws": replace(DRAWS, num_cut=1)}, "answers"),
        ({"agreements": {"distilled-1": (0.9, 0.5)}}, "agreement of distilled-1"),
        ({"agreements": {"distilled-1": (None, 0.5)}}, "agreement of distilled-1"),
        ({"agreements": {"distilled-1": (0.5, None)}}, "agreement of distilled-1"),
        ({"num_kept_out": (17, 16)}, "kept out"),
    ],
)
def test_each_part_is_wrong_beyond_its_tolerance(changes: dict[str, Any], name: str) -> None:
    found = results(replace(HONEST, **changes))
    assert [each for each, is_right in found.items() if is_right is False] == [name]


def test_an_agreement_that_is_undefined_may_be_missing() -> None:
    found = results(replace(HONEST, agreements={"distilled-1": (None, None)}))
    assert found["agreement of distilled-1"]


def test_what_was_not_computed_is_open_with_its_reason() -> None:
    found = index_checks(Recomputed((), unchecked="it was computed in bf16"))
    assert [(check.name, check.is_right) for check in found] == [("index", None)]
    assert found[0].message == "cannot be checked: it was computed in bf16"


def test_messages_say_what_differs_and_how_much_may() -> None:
    messages = {check.name: check.message for check in index_checks(HONEST)}
    assert "pays 0.1 % of an answer's pool to others" in messages["distilled-1"]
    assert f"tolerance {DISTANCE:g}" in messages["distilled-1"]
    assert "30 are not drawn again" in messages["answers"]
    equal = replace(DIFFERENCE, distance=0.0, moved_ppm=0)
    assert index_checks(Recomputed((equal,)))[0].message == "equal to the recomputed one"
