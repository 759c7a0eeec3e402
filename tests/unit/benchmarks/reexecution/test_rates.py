from __future__ import annotations

import pytest

from backend.services.receipts.reexecution import Reexecution
from benchmarks.reexecution.rates import Rates, base_model, honest, swapped, table
from inference.protocol import TokenLogprob, TokenLogprobs


def answer(text: str, other: str = "?", gap: float = 0.1) -> Reexecution:
    """One token, and another one that is `gap` less likely."""
    ranked = [TokenLogprob(1, text.encode(), -1.0), TokenLogprob(2, other.encode(), -1.0 - gap)]
    return Reexecution(text, (TokenLogprobs(ranked[0], ranked),), None)


AGAIN = {
    (0, 0): answer("a", "b", 0.1),
    (1, 0): answer("b", "a", 3.0),
    (-1, 0): answer("z"),
}


def test_honest_answers_are_the_same_open_or_wrong() -> None:
    served = {(0, 0): answer("b"), (1, 0): answer("b"), (-1, 0): answer("z")}
    found = honest(served, AGAIN)
    assert (found.num_answers, found.same, found.is_open, found.wrong) == (2, 0.5, 0.5, 0)
    assert (found.median_gap, found.largest_gap) == (pytest.approx(0.1), pytest.approx(0.1))


def test_swapped_answers_are_caught_or_missed() -> None:
    found = swapped(AGAIN, AGAIN, 2)
    assert (found.num_answers, found.same, found.is_open, found.wrong) == (2, 0, 0.5, 0.5)
    assert found.largest_gap == pytest.approx(3.0)
    assert base_model(AGAIN, AGAIN) == Rates(2, 0, 0, 1, None, None)


def test_the_table_has_a_row_for_each_comparison() -> None:
    from dataclasses import asdict

    lines = table({"honest": asdict(honest(AGAIN, AGAIN))}).splitlines()
    assert lines[2:] == ["| honest | 2 | 100.0% | 0.0% | 0.0% |  |  |"]
