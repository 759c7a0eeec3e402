from __future__ import annotations

import pytest

from backend.deployment.quorum import TOKEN, Quorum, in_tokens


def quorum(percent: int, *votes: int, supply: int = 10_000_000, threshold: int = 100_000) -> Quorum:
    return Quorum(
        supply * TOKEN, percent, threshold * TOKEN, {f"h{n}": v * TOKEN for n, v in enumerate(votes)}
    )


@pytest.mark.parametrize(
    ("percent", "needed", "min_accounts"),
    [(4, 400_000, 1), (10, 1_000_000, 2), (45, 4_500_000, 5), (54, 5_400_000, 6), (55, 5_500_000, None)],
)
def test_the_figures_of_the_guide(percent: int, needed: int, min_accounts: int | None) -> None:
    found = quorum(percent, *[900_000] * 6)
    assert (found.needed, found.min_accounts) == (needed * TOKEN, min_accounts)


def test_the_quorum_is_rounded_down_as_the_governor_does() -> None:
    assert Quorum(supply=199, percent=1, threshold=0, votes={}).needed == 1


def test_a_quorum_that_makes_governance_impossible_is_an_error() -> None:
    assert list(quorum(10, *[900_000] * 6).errors()) == []
    (too_few,) = quorum(10, 900_000).errors()
    assert "900,000 votes are delegated and the quorum is 1,000,000" in too_few
    (no_proposer,) = quorum(10, *[99_999] * 20).errors()
    assert "no account can propose" in no_proposer
    assert len(list(quorum(10).errors())) == 2
    (zero,) = quorum(0, 900_000).errors()
    assert "quorum is zero" in zero


def test_a_single_account_that_decides_is_a_warning() -> None:
    assert list(quorum(10, *[900_000] * 6).warnings()) == []
    alone, outvotes = quorum(10, 1_000_000, 900_000).warnings()
    assert "h0 reaches the quorum of 1,000,000 alone" in alone
    assert "h0 outvotes all others" in outvotes


def test_token_amounts_are_formatted_without_trailing_zeros() -> None:
    assert in_tokens(1_234_567 * TOKEN) == "1,234,567"
    assert in_tokens(TOKEN // 2) == "0.5"
    assert in_tokens(1) == "0.000000000000000001"
