"""The attributed answers of a study, and their losses under a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from benchmarks.attribution.data import NUM_HELD_OUT
from benchmarks.attribution.signals import published_adapter
from benchmarks.attribution.truth import Answer
from inference import offline
from inference.protocol import Sampling
from workers.training.evaluate import batches_by_length, predict
from workers.training.index import open_engine
from workers.training.packing import mixed_precision
from workers.training.rows import last_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.attribution.data import Study
    from benchmarks.attribution.signals import Trained
    from benchmarks.attribution.truth import Kind
    from workers.training.rows import Example

ANSWER_TOKENS = 40
"""Length limit of a generated answer."""
TEMPERATURE = 0.8
BATCH_TOKENS = 1024


def make_answers(study: Study, trained: Trained) -> tuple[Answer, ...]:
    """What an adapter answers to the study's prompts, its held-out rows, and some in-sample ones; longest
    first.
    """
    prompts = [(row.contribution, last_answer(row)[0]) for row in study.prompts]
    generated = generate_answers(trained, [prompt for _, prompt in prompts])
    answers = [
        *(
            Answer("generated", contribution, _seed(number), prompt, tuple(answer))
            for number, ((contribution, prompt), answer) in enumerate(zip(prompts, generated, strict=True))
        ),
        *(_written("held-out", row) for row in study.held_out),
        *(_written("in-sample", row) for row in _first_of_each(study.rows)),
    ]
    return tuple(sorted(answers, key=lambda answer: -len(answer.prompt) - len(answer.answer)))


def generate_answers(trained: Trained, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """What an adapter answers. Every other prompt is answered greedily, the others by sampling with the
    prompt's number as seed.
    """
    requests = [
        (
            prompt,
            Sampling(
                max_tokens=ANSWER_TOKENS, temperature=TEMPERATURE if _seed(number) else 0, seed=_seed(number)
            ),
        )
        for number, prompt in enumerate(prompts)
    ]
    adapter = published_adapter(trained)
    with open_engine(trained.base.folder, trained.num_threads) as engine:
        return offline.generate(engine, requests, adapter)


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


def _seed(number: int) -> int | None:
    return number if number % 2 else None


def _written(kind: Kind, row: Example) -> Answer:
    return Answer(kind, row.contribution, None, *last_answer(row))


def _first_of_each(rows: Sequence[Example]) -> list[Example]:
    chosen: list[Example] = []
    for row in rows:
        if sum(each.contribution == row.contribution for each in chosen) < NUM_HELD_OUT:
            chosen.append(row)
    return chosen
