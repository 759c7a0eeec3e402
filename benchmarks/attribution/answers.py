"""The answers that are attributed, and how likely each retrained model finds them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.attribution.data import NUM_QUERIES
from benchmarks.attribution.retrain import load_weights, weights_file
from benchmarks.attribution.signals import forward_signals
from workers.training.index import last_answer
from workers.training.rows import IGNORED, Example
from workers.training.spec import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.attribution.data import Study
    from benchmarks.attribution.retrain import Base, Run

Kind = Literal["in-sample", "held-out", "generated"]
ANSWER_TOKENS = 40
"""Of an answer that the model gives itself, at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`example.contribution` is the contributor whose package it is about."""

    kind: Kind
    example: Example


def read_answers(study: Study, model: Any, base: Base, file: Path) -> list[Answer]:
    """Rows trained on, rows never trained on, and what the adapter in `model` itself answers to the first
    question of each contributor that it was not trained on: kept in `file`, longest answers first.
    """
    if not file.exists():
        asked = study.held_out[::NUM_QUERIES]
        write_json(file, [_generate(model, example, base.pad_token_id) for example in asked])
    asked = study.held_out[::NUM_QUERIES]
    generated = [_given(row, ids) for row, ids in zip(asked, json.loads(file.read_bytes()), strict=True)]
    answers = [
        *(Answer("in-sample", row) for row in _first_of_each(study.rows)),
        *(Answer("held-out", row) for row in study.held_out),
        *(Answer("generated", row) for row in generated),
    ]
    return sorted(answers, key=lambda answer: -len(answer.example.token_ids))


def losses(model: Any, answers: Sequence[Answer], run: Run, work: Path) -> list[float]:
    """In nats, summed over each answer, under the adapter of `run`; kept in a file."""
    file = work / "losses" / f"{run.name}.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        load_weights(model, weights_file(run, work))
        found = forward_signals(model, [answer.example for answer in answers])
        write_json(file, found.loss.tolist())
    kept: list[float] = json.loads(file.read_bytes())
    return kept


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
    written: list[int] = found[0, len(prompt) :].tolist()
    return written


def _given(row: Example, answer: Sequence[int]) -> Example:
    prompt, _ = last_answer(row)
    labels = (*(IGNORED for _ in prompt), *answer)
    return Example(row.contribution, row.group, (*prompt, *answer), labels, row.question)


def _first_of_each(rows: Sequence[Example]) -> list[Example]:
    chosen: list[Example] = []
    for row in rows:
        if sum(each.contribution == row.contribution for each in chosen) < NUM_QUERIES:
            chosen.append(row)
    return chosen
