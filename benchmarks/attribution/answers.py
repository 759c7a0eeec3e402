"""The attributed answers and their losses under each retrained model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.attribution.data import NUM_QUERIES
from benchmarks.attribution.retrain import load_weights, weights_file
from benchmarks.attribution.signals import forward_signals
from workers.training.rows import IGNORED, Example, last_answer
from workers.training.spec import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.attribution.data import Study
    from benchmarks.attribution.retrain import Base, Run

Kind = Literal["in-sample", "held-out", "generated"]
ANSWER_TOKENS = 40
"""Length limit of a generated answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`example.contribution` is the contributor whose package the answer is about."""

    kind: Kind
    example: Example


def read_answers(study: Study, model: Any, base: Base, file: Path) -> list[Answer]:
    """In-sample rows, held-out rows, and answers that `model` generates to the first held-out question of
    each contributor; longest first. Generated answers are stored in `file`.
    """
    questions = study.held_out[::NUM_QUERIES]
    if not file.exists():
        write_json(file, [_generate(model, example, base.pad_token_id) for example in questions])
    generated = [
        _with_answer(row, ids) for row, ids in zip(questions, json.loads(file.read_bytes()), strict=True)
    ]
    answers = [
        *(Answer("in-sample", row) for row in _first_of_each(study.rows)),
        *(Answer("held-out", row) for row in study.held_out),
        *(Answer("generated", row) for row in generated),
    ]
    return sorted(answers, key=lambda answer: -len(answer.example.token_ids))


def losses(model: Any, answers: Sequence[Answer], run: Run, work: Path) -> list[float]:
    """Loss of each answer in nats, summed over its tokens, under the adapter of `run`. Stored in a file."""
    file = work / "losses" / f"{run.name}.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        load_weights(model, weights_file(run, work))
        found = forward_signals(model, [answer.example for answer in answers])
        write_json(file, found.loss.tolist())
    stored: list[float] = json.loads(file.read_bytes())
    return stored


@torch.inference_mode()
def _generate(model: Any, example: Example, pad_token_id: int) -> list[int]:
    model.eval()
    prompt, _ = last_answer(example)
    ids = torch.tensor([prompt])
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=ANSWER_TOKENS,
        pad_token_id=pad_token_id,
    )
    token_ids: list[int] = found[0, len(prompt) :].tolist()
    return token_ids


def _with_answer(row: Example, answer: Sequence[int]) -> Example:
    prompt, _ = last_answer(row)
    labels = (*(IGNORED for _ in prompt), *answer)
    return Example(row.contribution, row.group, (*prompt, *answer), labels, row.question)


def _first_of_each(rows: Sequence[Example]) -> list[Example]:
    chosen: list[Example] = []
    for row in rows:
        if sum(each.contribution == row.contribution for each in chosen) < NUM_QUERIES:
            chosen.append(row)
    return chosen
