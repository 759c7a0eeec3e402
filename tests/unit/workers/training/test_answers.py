from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from backend.domain.attribution import MAX_ANSWERS
from backend.domain.errors import InvalidInput
from workers.training.answers import (
    MIN_PROMPT_TOKENS,
    Answer,
    Prompt,
    _draw,
    answer_tensors,
    plan_prompts,
    read_answers,
    serialise_answers,
)
from workers.training.rows import IGNORED, Example
from workers.training.split import hold_out

if TYPE_CHECKING:
    from pathlib import Path


def row(number: int, num_prompt: int = 10, num_answer: int = 3) -> Example:
    prompt = (number,) * num_prompt
    answer = (7,) * num_answer
    return Example(0, str(number), prompt + answer, (IGNORED,) * num_prompt + answer)


@given(num_rows=st.integers(1, 200), num_held_out=st.integers(0, 20))
def test_prompts_kept_out_fit_nothing_and_are_a_quarter(num_rows: int, num_held_out: int) -> None:
    rows, held_out = [row(n) for n in range(num_rows)], [row(-1 - n) for n in range(num_held_out)]
    prompts = plan_prompts(rows, held_out)
    assert len(prompts) == min(MAX_ANSWERS, 2 * num_rows)
    assert len({prompt.seed for prompt in prompts}) == len(prompts)
    kept_out, fitted = (
        {prompt.token_ids for prompt in prompts if prompt.is_kept_out is wanted} for wanted in (True, False)
    )
    assert not kept_out & fitted
    assert fitted
    assert len(kept_out) == (len(kept_out) + len(fitted)) // 4


def test_held_out_rows_are_asked_first_and_the_order_of_rows_does_not_matter() -> None:
    rows, held_out = [row(n) for n in range(300)], [row(-1 - n) for n in range(20)]
    prompts = plan_prompts(rows, held_out)
    assert {prompt.token_ids for prompt in prompts[:20]} == {each.token_ids[:10] for each in held_out}
    assert plan_prompts(rows[::-1], held_out[::-1]) == prompts


def test_no_contribution_has_more_of_the_prompts_than_of_the_rows() -> None:
    """Also if one repeats the questions of all others, so that only its own rows are held out."""
    honest = [replace(row(n), contribution=n % 4, question=f"{n}") for n in range(2_000)]
    bridges = [replace(row(10_000 + n), contribution=4, question=f"{n}") for n in range(2_000)]
    own = [replace(row(20_000 + n), contribution=4) for n in range(1_000)]
    split = hold_out([*honest, *bridges, *own], 0.1, seed=0)
    assert {each.contribution for each in split.held_out} == {4}
    asked = {prompt.token_ids[0] for prompt in plan_prompts(split.train, [*split.held_out, *split.unused])}
    assert len(asked) == MAX_ANSWERS
    assert sum(number < 2_000 for number in asked) == pytest.approx(0.4 * MAX_ANSWERS, rel=0.2)


def test_a_contribution_whose_prompts_have_the_lowest_hashes_has_no_more_of_them() -> None:
    """Its author can write each question again until it has one."""
    numbers = sorted(range(10_000), key=lambda number: _draw((number,) * 10))
    ground, others = numbers[:1_000], numbers[1_000:]
    rows = [replace(row(n), contribution=1) for n in ground] + [row(n) for n in others]
    asked = {prompt.token_ids[0] for prompt in plan_prompts([row(-1)] * 200, rows)}
    assert len(asked & set(ground)) == pytest.approx(0.1 * MAX_ANSWERS, abs=1)


def test_plain_text_is_continued_from_its_first_words() -> None:
    (prompt, *_) = plan_prompts([row(1, num_prompt=1, num_answer=20)], [])
    assert prompt.token_ids == (1, *[7] * (MIN_PROMPT_TOKENS - 1))


ANSWERS = [
    Answer(Prompt((1, 2, 3), 5, is_kept_out=False), (4,)),
    Answer(Prompt((1,), 6, is_kept_out=True), (2, 3)),
]


def test_a_file_of_answers_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "answers.safetensors"
    path.write_bytes(serialise_answers(ANSWERS))
    assert read_answers(path) == ANSWERS
    assert ANSWERS[0].example.labels == (IGNORED, IGNORED, IGNORED, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": torch.zeros(2)}, "of other types"),
        ({"more": torch.zeros(2)}, "other tensors"),
        ({"seeds": torch.zeros(3, dtype=torch.int64)}, "different lengths"),
        ({"ends": torch.tensor([4, 6])}, "tokens of neither"),
        ({"ends": torch.tensor([-4, 7])}, "without tokens"),
        ({"prompt_ends": torch.tensor([4, 5])}, "without tokens"),
        ({"prompt_ends": torch.tensor([3, 4])}, "without tokens"),
    ],
)
def test_a_malformed_file_of_answers_is_refused(
    tmp_path: Path, change: dict[str, torch.Tensor], message: str
) -> None:
    path = tmp_path / "answers.safetensors"
    save_file(answer_tensors(ANSWERS) | change, path)
    with pytest.raises(InvalidInput, match=message):
        read_answers(path)


def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_answers(path)
