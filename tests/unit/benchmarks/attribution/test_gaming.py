from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.attribution.gaming import PARAPHRASED, TRIVIAL, Method, gains, padded, paraphrased
from benchmarks.attribution.methods import ridge_scores, rows_scores
from workers.training.rows import IGNORED, Example

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NUM_CONTRIBUTORS, ROWS_OF_EACH = 4, 5
CONTRIBUTIONS = [c for c in range(NUM_CONTRIBUTORS) for _ in range(ROWS_OF_EACH)]


class Tokenizer:
    """Words of three letters are one token each."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [int.from_bytes(word.encode()) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(each.to_bytes(4).lstrip(b"\0").decode() for each in ids)


def signals(num_rows: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, 64, generator=torch.Generator().manual_seed(seed))


def rows() -> torch.Tensor:
    """Each contributor's rows point its own way, more or less."""
    ways = signals(NUM_CONTRIBUTORS, 1)
    return ways[CONTRIBUTIONS] + 0.5 * signals(len(CONTRIBUTIONS), 2)


def by_rows(variants: Mapping[str, torch.Tensor]) -> Method:
    return Method(lambda _, whose: rows_scores(whose, 3), rows(), variants)


def by_ridge(variants: Mapping[str, torch.Tensor]) -> Method:
    answers = rows()[::2] + 0.3 * signals(10, 5)
    return Method(lambda own, whose: ridge_scores(own, whose, answers, 1.0), rows(), variants)


def test_counting_rows_pays_whoever_has_more() -> None:
    found = gains(by_rows({TRIVIAL: signals(5, 4), PARAPHRASED: rows()}), CONTRIBUTIONS)
    # 5 of 20 rows are a quarter of the pool; 5 more make 10 of 25.
    for attack in (TRIVIAL, PARAPHRASED, "rows given twice", "copy under another wallet"):
        assert found[attack]["mean"] == pytest.approx(10 / 25 - 1 / 4, abs=1e-5)
    assert found["ten wallets"]["mean"] == pytest.approx(0, abs=1e-5)


def test_preconditioning_leaves_little_to_copies_and_wallets() -> None:
    found = gains(by_ridge({}), CONTRIBUTIONS)
    assert found["copy under another wallet"]["mean"] < 0.05
    assert found["ten wallets"]["mean"] < 0  # the square of a sum exceeds the sum of the squares


def test_rows_written_otherwise_are_those_of_the_attacker_alone() -> None:
    found = gains(by_ridge({"as they are": rows(), "louder": 3 * rows()}), CONTRIBUTIONS)
    assert found["as they are"] == {"mean": 0.0, "worst": 0.0}
    assert found["louder"]["mean"] != 0
    assert found["louder"]["worst"] >= found["louder"]["mean"]


def test_a_changed_answer_is_learnt_and_keeps_its_last_token() -> None:
    one, the, end = Tokenizer().encode("one the end", add_special_tokens=False)
    row = Example(0, "g", (7, the, end), (IGNORED, the, end))
    (longer,) = padded([row], Tokenizer(), ["one"], "{name}")
    assert (longer.token_ids, longer.labels) == ((7, the, one, end), (IGNORED, the, one, end))
    (copy,) = paraphrased([row], Tokenizer())
    assert copy.token_ids == (7, *Tokenizer().encode("this", add_special_tokens=False), end)
    assert copy.labels == (IGNORED, *copy.token_ids[1:])
