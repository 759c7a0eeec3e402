from __future__ import annotations

import pytest

from backend.domain.ids import Account, Hash32, VersionId
from backend.domain.screening import (
    COPY_COSINE,
    COPY_SHARE,
    MIN_KNOWN,
    Likeness,
    Risk,
    ScreeningReport,
    risk_of,
)

USUAL = [{"norm": 1.0 + 0.01 * i, "entropy": 0.7 - 0.01 * i} for i in range(MIN_KNOWN)]
VERSION, CREATOR = VersionId(Hash32("0x" + "0e" * 32)), Account("0x" + "c1" * 20)


def test_too_few_known_adapters_give_no_score() -> None:
    assert risk_of(USUAL[0], USUAL[1:]) is None


def test_an_unusual_adapter_scores_high_by_its_statistic() -> None:
    usual = risk_of({"norm": 1.03, "entropy": 0.67}, USUAL)
    assert usual is not None
    assert usual.score < 10
    odd = risk_of({"norm": 1.03, "entropy": 0.1}, USUAL)
    assert odd is not None
    assert (odd.score, odd.by) == (100, "entropy")


def test_one_known_outlier_does_not_hide_another() -> None:
    poisoned = [*USUAL, {"norm": 50.0, "entropy": 0.0}]
    odd = risk_of({"norm": 50.0, "entropy": 0.0}, poisoned)
    assert odd is not None
    assert odd.score == 100


def test_equal_known_adapters_do_not_make_a_rounding_error_unusual() -> None:
    alike = [{"norm": 1.0}] * MIN_KNOWN
    found = risk_of({"norm": 1.0001}, alike)
    assert found == Risk(0, "norm")


@pytest.mark.parametrize(
    ("cosine", "shared", "is_copy"),
    [
        (COPY_COSINE, 0.0, True),
        (COPY_COSINE - 0.01, 0.0, False),
        (0.3, COPY_SHARE, True),  # some layers of another adapter unchanged
        (0.3, COPY_SHARE - 0.01, False),
    ],
)
def test_a_copy_is_detected_by_cosine_or_by_its_layers(
    cosine: float, shared: float, *, is_copy: bool
) -> None:
    assert Likeness(VERSION, CREATOR, cosine, round(shared * 1_000_000)).is_copy is is_copy


def test_the_message_of_a_report() -> None:
    likeness = Likeness(VERSION, CREATOR, 0.97, 0)
    assert ScreeningReport(Risk(31, "norm"), likeness, 9, 2).message == (
        f"Risk score 31/100, by norm; a copy of {VERSION} (cosine 0.97); 9 compared, 2 unavailable."
    )
    assert "No risk score; no other creator's version is known" in ScreeningReport(None, None, 0, 0).message
