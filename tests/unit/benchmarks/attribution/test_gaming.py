from __future__ import annotations

import pytest
import torch

from benchmarks.attribution.gaming import Method, gains, padded
from benchmarks.attribution.signals import ridge_scores, uniform_scores
from workers.training.rows import IGNORED, Example

NUM_CONTRIBUTORS, ROWS_OF_EACH = 4, 5
CONTRIBUTIONS = [c for c in range(NUM_CONTRIBUTORS) for _ in range(ROWS_OF_EACH)]


def signals(num_rows: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, 64, generator=torch.Generator().manual_seed(seed))


def rows() -> torch.Tensor:
    """Each contributor's rows point its own way, more or less."""
    ways = signals(NUM_CONTRIBUTORS, 1)
    return ways[CONTRIBUTIONS] + 0.5 * signals(len(CONTRIBUTIONS), 2)


def test_under_uniform_shares_what_counts_is_rows_by_the_square() -> None:
    method = Method(uniform_scores, rows(), signals(3, 3))
    found = gains(method, CONTRIBUTIONS, {}, signals(5, 4))
    # 5 of 20 rows, squared, are a quarter of the pool; 10 together with 5, 5 and 5 are 4 of 7 quarters.
    assert found["trivial rows added"]["mean"] == pytest.approx(4 / 7 - 1 / 4, abs=1e-5)
    assert found["rows given twice"]["mean"] == pytest.approx(4 / 7 - 1 / 4, abs=1e-5)
    assert found["copy under another wallet"]["mean"] == pytest.approx(2 / 5 - 1 / 4, abs=1e-5)
    assert found["a wallet for each row"]["mean"] == pytest.approx(5 / (75 + 5) - 1 / 4, abs=1e-5)


def test_preconditioning_leaves_little_to_copies() -> None:
    answers = rows()[::2] + 0.3 * signals(10, 5)
    found = gains(Method(ridge_scores, rows(), answers), CONTRIBUTIONS, {}, 0.1 * signals(5, 6))
    uniform = gains(Method(uniform_scores, rows(), answers), CONTRIBUTIONS, {}, 0.1 * signals(5, 6))
    copy = "copy under another wallet"
    assert found[copy]["mean"] < uniform[copy]["mean"] / 2


def test_rows_written_otherwise_are_those_of_the_attacker_alone() -> None:
    honest = rows()
    method = Method(ridge_scores, honest, honest[::3])
    assert gains(method, CONTRIBUTIONS, {"as they are": honest}, honest[:1])["as they are"] == {
        "mean": 0.0,
        "worst": 0.0,
    }
    loud = gains(method, CONTRIBUTIONS, {"louder": 3 * honest}, honest[:1])["louder"]
    assert loud["mean"] != 0
    assert loud["worst"] >= loud["mean"]


def test_padding_is_learnt_and_ends_before_the_last_token() -> None:
    class Tokenizer:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            assert text == "by me"
            return [8, 9]

    row = Example(0, "g", (1, 2, 3), (IGNORED, 2, 3))
    (found,) = padded([row], Tokenizer(), ["me"], "by {name}")
    assert (found.token_ids, found.labels) == ((1, 2, 8, 9, 3), (IGNORED, 2, 8, 9, 3))
