from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoTokenizer

from backend.services.train.estimate import CHARACTERS_PER_TOKEN, beginning_of
from tests.fixtures_engine import EOS
from workers.training.rows import encode
from workers.training.tokenise import tokenise_rows

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    [7, {"prompt": "Hi?", "completion": "Yes."}],
    [8, {"prompt": "x" * 60, "completion": "beyond"}],
    [9, {"prompt": "x", "completion": "y" * 60}],
]


def asked(base: Path, **options: Any) -> dict[str, Any]:
    given = {"max_length": 32, "loss_on": "completions", "packing": False, "num_examples": 2, "rows": ROWS}
    return tokenise_rows({**given, **options}, AutoTokenizer.from_pretrained(base))


def test_rows_are_counted_as_training_takes_them(tiny_base: Path) -> None:
    found = asked(tiny_base)
    assert (found["num_usable"], found["num_cut"], found["num_sequences"]) == (2, 2, 2)
    first = 1 + 3 + 1 + 1 + 4 + 1  # the user's turn and its end, the assistant's and its end
    assert (found["num_tokens"], found["num_trained"]) == (first + 32, 5 + 28)
    assert asked(tiny_base, packing=True, max_length=100)["num_sequences"] == 2


def test_a_row_is_shown_token_by_token_with_what_is_learnt(tiny_base: Path) -> None:
    (row, cut) = asked(tiny_base)["examples"]
    assert row["contribution"] == 7
    assert "".join(row["tokens"]) == f"<|user|>Hi?{EOS}<|assistant|>Yes.{EOS}"
    learnt = [token for token, is_trained in zip(row["tokens"], row["is_trained"], strict=True) if is_trained]
    assert "".join(learnt) == f"Yes.{EOS}"
    assert (cut["contribution"], len(cut["tokens"])) == (9, 32)


def test_no_prediction_is_made_of_a_first_token(tiny_base: Path) -> None:
    (row,) = asked(tiny_base, rows=[[0, {"text": "ab"}]])["examples"]
    assert row["is_trained"] == [False, True, True]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_no_more_rows_are_shown_than_asked_for(tiny_base: Path, count: int) -> None:
    assert len(asked(tiny_base, num_examples=count)["examples"]) == min(count, 2)


@pytest.mark.parametrize("max_length", [16, 100])
def test_the_beginning_of_a_row_has_all_tokens_that_training_reads(tiny_base: Path, max_length: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    draw = random.Random(1)
    for _ in range(200):
        roles = [*draw.choice([[], ["system"]]), *["user", "assistant"] * draw.randrange(1, 40)]
        contents = [f" {'a b' * int(draw.paretovariate(0.5) % 999)}c " for _ in roles]
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        rows: list[Any] = [{"messages": messages}, {"prompt": contents[0], "completion": contents[1]}]
        for row in [*rows, {"text": contents[0]}]:
            beginning = beginning_of(row, CHARACTERS_PER_TOKEN * max_length)
            one, other = (encode(0, each, tokenizer, max_length + 1) for each in (row, beginning))
            assert (one.token_ids, one.labels) == (other.token_ids, other.labels)
