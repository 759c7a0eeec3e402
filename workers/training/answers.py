"""Generated answers of a trained adapter, on which the distilled maps of its index are fitted.

Prompts, seeds and split depend on the rows only, so that a verifier can check that the answers were
not chosen.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.domain.attribution import MAX_ANSWER_TOKENS, MAX_ANSWERS
from backend.services.contribute.answers_file import parse_answers
from inference import offline
from inference.protocol import Sampling
from workers.training.progress import ProgressReporter
from workers.training.rows import IGNORED, Example, last_answer
from workers.training.tensors import canonical_safetensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import AdapterRef
    from workers.training.progress import Emit

ANSWERS_PER_ROW = 2
MIN_PROMPT_TOKENS = 8
"""Rows of plain text have no prompt. Their first tokens serve as one."""
TEMPERATURE = 0.8
SEED = 20_260_102
"""Seed of the first answer; each later answer has the next one."""
KEPT_OUT = 4
"""Every fourth prompt is kept out of the fit, with all its answers."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to answer, and the seed that its answer is sampled with. An answer that `is_kept_out` measures
    the maps and does not fit them.
    """

    token_ids: tuple[int, ...]
    seed: int
    is_kept_out: bool


@dataclass(frozen=True, slots=True)
class Answer:
    prompt: Prompt
    token_ids: tuple[int, ...]

    @property
    def example(self) -> Example:
        """A row with this answer; it belongs to no contribution."""
        prompt, answer = self.prompt.token_ids, self.token_ids
        return Example(-1, "", prompt + answer, (IGNORED,) * len(prompt) + answer)


def plan_prompts(rows: Sequence[Example], untrained: Sequence[Example]) -> list[Prompt]:
    """Prompts of the rows that were not trained on, held out or unused, then of the trained `rows`, and again
    from the start until there are enough.

    Each contribution has the part of them that it has of the rows, however many there are:
    `workers.training.split` leaves the same part of each untrained.
    """
    distinct = list(dict.fromkeys(prompt for part in (untrained, rows) for prompt in _interleaved(part)))
    count = min(MAX_ANSWERS, ANSWERS_PER_ROW * len(rows))
    places = [number % len(distinct) for number in range(count)]
    return [
        Prompt(distinct[place], SEED + number, is_kept_out=place % KEPT_OUT == KEPT_OUT - 1)
        for number, place in enumerate(places)
    ]


def sample_answers(
    engine: Engine, adapter: AdapterRef, prompts: Sequence[Prompt], emit: Emit
) -> list[Answer]:
    """The adapter's answer to each prompt. The engine must be idle."""
    progress = ProgressReporter(emit, "answers", len(prompts))
    requests = [
        (
            prompt.token_ids,
            Sampling(max_tokens=MAX_ANSWER_TOKENS, temperature=TEMPERATURE, seed=prompt.seed),
        )
        for prompt in prompts
    ]
    found = offline.generate(engine, requests, adapter, progress.advance)
    return [Answer(prompt, tuple(ids)) for prompt, ids in zip(prompts, found, strict=True)]


def answer_tensors(answers: Sequence[Answer]) -> dict[str, torch.Tensor]:
    """Tensors that `parse_answers` reads: `token_ids` int64 [tokens], the prompt and the answer of each in
    turn; `prompt_ends` and `ends` int64 [answers], where each ends in them; `seeds` int64 and `is_kept_out`
    bool [answers].
    """
    prompts = [answer.prompt for answer in answers]
    tokens = [token for a in answers for token in (*a.prompt.token_ids, *a.token_ids)]
    answer_lengths = torch.tensor([len(answer.token_ids) for answer in answers], dtype=torch.int64)
    prompt_lengths = torch.tensor([len(prompt.token_ids) for prompt in prompts], dtype=torch.int64)
    ends = (prompt_lengths + answer_lengths).cumsum(0)
    return {
        "token_ids": torch.tensor(tokens, dtype=torch.int64),
        "prompt_ends": ends - answer_lengths,
        "ends": ends,
        "seeds": torch.tensor([prompt.seed for prompt in prompts], dtype=torch.int64),
        "is_kept_out": torch.tensor([prompt.is_kept_out for prompt in prompts], dtype=torch.bool),
    }


def serialise_answers(answers: Sequence[Answer]) -> bytes:
    """Content of the file that `parse_answers` reads."""
    metadata = {"temperature": str(TEMPERATURE), "max_tokens": str(MAX_ANSWER_TOKENS)}
    return canonical_safetensors(answer_tensors(answers), metadata)


def read_answers(path: Path) -> list[Answer]:
    """Read a file that anyone may have published. Errors: `OSError`, and those of `parse_answers`."""
    return [
        Answer(Prompt(found.prompt, found.seed, found.is_kept_out), found.answer)
        for found in parse_answers(path.read_bytes())
    ]


def _interleaved(rows: Sequence[Example]) -> list[tuple[int, ...]]:
    """The distinct prompts: those of a contribution in the order of their hashes, and those of all mixed as
    evenly as their numbers allow. By their hashes alone, who writes many questions until some have low ones
    would have all of the first.
    """
    of_contribution: dict[int, set[tuple[int, ...]]] = defaultdict(set)
    for row in rows:
        of_contribution[row.contribution].add(_prompt(row))
    placed = [
        ((rank + 0.5) / len(prompts), _draw(prompt), prompt)
        for prompts in of_contribution.values()
        for rank, prompt in enumerate(sorted(prompts, key=_draw))
    ]
    return [prompt for _, _, prompt in sorted(placed)]


def _prompt(row: Example) -> tuple[int, ...]:
    prompt, answer = last_answer(row)
    return prompt + answer[: max(0, MIN_PROMPT_TOKENS - len(prompt))]


def _draw(prompt: tuple[int, ...]) -> bytes:
    return hashlib.sha256(repr(prompt).encode()).digest()
