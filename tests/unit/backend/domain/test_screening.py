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


def test_an_adapter_like_the_others_has_a_low_score_and_an_odd_one_names_its_statistic() -> None:
    usual = risk_of({"norm": 1.03, "entropy": 0.67}, USUAL)
    assert usual is not None
    assert usual.score < 10
    odd = risk_of({"norm": 1.03, "entropy": 0.1}, USUAL)
    assert odd is not None
    assert (odd.score, odd.by) == (100, "entropy")


def test_one_odd_adapter_among_the_known_does_not_make_another_usual() -> None:
    poisoned = [*USUAL, {"norm": 50.0, "entropy": 0.0}]
    odd = risk_of({"norm": 50.0, "entropy": 0.0}, poisoned)
    assert odd is not None
    assert odd.score == 100


def test_known_adapters_that_are_all_alike_do_not_make_a_rounding_error_odd() -> None:
    alike = [{"norm": 1.0}] * MIN_KNOWN
    found = risk_of({"norm": 1.0001}, alike)
    assert found == Risk(0, "norm")


@pytest.mark.parametrize(
    ("cosine", "shared", "is_copy"),
    [
        (COPY_COSINE, 0.0, True),
        (COPY_COSINE - 0.01, 0.0, False),
        (0.3, COPY_SHARE, True),  # a part of somebody else's layers as they were
        (0.3, COPY_SHARE - 0.01, False),
    ],
)
def test_a_copy_is_told_by_the_whole_or_by_its_layers(cosine: float, shared: float, *, is_copy: bool) -> None:
    assert Likeness(VERSION, CREATOR, cosine, round(shared * 1_000_000)).is_copy is is_copy


def test_a_report_says_in_words_what_it_knows_and_what_it_does_not() -> None:
    likeness = Likeness(VERSION, CREATOR, 0.97, 0)
    assert ScreeningReport(Risk(31, "norm"), likeness, 9, 2).message == (
        f"Risk score 31/100, by norm; a copy of {VERSION} (cosine 0.97); 9 compared, 2 not within reach."
    )
    assert "No risk score; no version of others is known" in ScreeningReport(None, None, 0, 0).message
