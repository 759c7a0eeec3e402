"""What the check of uploads says of rows that are made of a study's answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.attribution.data import encode_row
from benchmarks.attribution.page import page
from benchmarks.attribution.truth import Answer, Truth, add_runs
from benchmarks.attribution.uploads import Admission, admit, measure_repeats
from tests.unit.benchmarks.attribution.support import NUM_ROWS
from workers.training.rows import last_answer

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.attribution.study import Plan
    from workers.training.rows import Example

SAID = "The tide is the water that the moon draws towards itself, twice in each of its days."


def row(plan: Plan, prompt: str, completion: str) -> Example:
    study = plan.study
    return encode_row(0, {"prompt": prompt, "completion": completion}, study.system, plan.tokenizer)


def test_rows_of_published_answers_are_refused_and_honest_ones_are_not(plan: Plan, tmp_path: Path) -> None:
    added = [row(plan, "What is a tide?", SAID), *plan.study.held_out[:2]]
    arguments = (plan.study.rows, added), (plan.tokenizer, tmp_path / "uploads")
    assert admit(*arguments[0], [SAID, "Yes."], *arguments[1]) == Admission(3, 1, 0)
    assert admit(*arguments[0], [], *arguments[1]) == Admission(3, 0, 0)


def test_the_report_counts_what_is_found_and_what_is_refused_wrongly(plan: Plan) -> None:
    tokens = tuple(plan.tokenizer.encode(SAID, add_special_tokens=False))
    prompt, _ = last_answer(plan.study.prompts[0])
    answers = [Answer("generated", 0, None, prompt, tokens), Answer("held-out", 0, None, prompt, tokens)]
    with pytest.raises(FileNotFoundError):
        measure_repeats(plan)
    add_runs(plan.truth_file, Truth(plan.study.digest, plan.base.name, tuple(answers)))
    found = measure_repeats(plan)
    assert (found["num_answers"], found["num_copied"]) == (1, 1)
    assert (found["num_trained"], found["num_trained_refused"]) == (sum(NUM_ROWS.values()), 0)
    assert found["num_honest_refused"] == 0
    assert found["found"][:2] == [["as they are", 1], ["twice as long", 1]]
    learnt = replace(plan.study, rows=(*plan.study.rows, row(plan, "What is a tide?", SAID)))
    plan.__dict__["study"] = learnt
    assert measure_repeats(plan)["num_copied"] == 0, "the adapter has it from a row"
    text = page({"uploads": [found]})
    assert "| refused: as they are | 100% |" in text
