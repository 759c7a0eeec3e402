"""The attributed answers of a study, and their losses under a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from benchmarks.attribution.data import NUM_HELD_OUT
from benchmarks.attribution.truth import Answer
from workers.training.evaluate import batches_by_length, predict
from workers.training.packing import mixed_precision
from workers.training.rows import last_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.attribution.data import Study
    from benchmarks.attribution.truth import Kind
    from workers.training.rows import Example

ANSWER_TOKENS = 40
"""Length limit of a generated answer."""
TEMPERATURE = 0.8
BATCH_TOKENS = 1024


def make_answers(study: Study, model: Any, pad_token_id: int) -> tuple[Answer, ...]:
    """Answers that `model` generates to the study's prompts, held-out and in-sample rows; longest first.

    Every other prompt is answered greedily, the others by sampling with the prompt's number as seed.
    """
    answers = [
        *(_generated(model, row, number, pad_token_id) for number, row in enumerate(study.prompts)),
        *(_written("held-out", row) for row in study.held_out),
        *(_written("in-sample", row) for row in _first_of_each(study.rows)),
    ]
    return tuple(sorted(answers, key=lambda answer: -len(answer.prompt) - len(answer.answer)))


def answer_losses(model: Any, examples: Sequence[Example]) -> list[float]:
    """Loss of each example in nats, summed over its answer, under the adapter of `model`."""
    losses: dict[Example, float] = {}
    model.eval()
    for batch in batches_by_length(examples, BATCH_TOKENS):
        with torch.inference_mode(), mixed_precision(model):
            found = predict(model, batch)
            logits = model.get_output_embeddings()(found.states)
        by_token = functional.cross_entropy(logits.float(), found.labels, reduction="none")
        sums = torch.zeros(len(batch)).index_add_(0, found.rows, by_token)
        losses.update(zip(batch, sums.tolist(), strict=True))
    return [losses[example] for example in examples]


@torch.inference_mode()
def _generated(model: Any, row: Example, number: int, pad_token_id: int) -> Answer:
    model.eval()
    prompt, _ = last_answer(row)
    seed = number if number % 2 else None
    sampling = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0} if seed else {"do_sample": False}
    torch.manual_seed(number)
    ids = torch.tensor([prompt])
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=ANSWER_TOKENS,
        pad_token_id=pad_token_id,
        use_cache=True,
        **sampling,
    )
    return Answer("generated", row.contribution, seed, prompt, tuple(found[0, len(prompt) :].tolist()))


def _written(kind: Kind, row: Example) -> Answer:
    return Answer(kind, row.contribution, None, *last_answer(row))


def _first_of_each(rows: Sequence[Example]) -> list[Example]:
    chosen: list[Example] = []
    for row in rows:
        if sum(each.contribution == row.contribution for each in chosen) < NUM_HELD_OUT:
            chosen.append(row)
    return chosen
