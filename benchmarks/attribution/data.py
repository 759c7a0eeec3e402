"""Data of the study: contributors with known sources, held-out questions, and random halves."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.services.contribute.docstrings import build_dataset
from workers.training.rows import encode, preamble_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from workers.training.rows import Example

CONTRIBUTORS = {
    "alembic": 4,
    "celery": 10,
    "fastapi": 6,
    "huggingface_hub": 5,
    "jinja2": 7,
    "numpy": 10,
    "peft": 5,
    "pydantic": 9,
    "rich": 6,
    "sqlalchemy": 7,
    "torch": 8,
    "web3": 7,
}
"""Installed packages and the number of docstrings that each contributes. The numbers are unequal, because
with equal ones the control, uniform by rows, would predict nothing.
"""
MAX_CHARACTERS = 160
"""Length limit of an answer, so that a retraining takes a minute."""
SYSTEM = "Python."
"""Replaces the chat template's own system prompt, which is longer than most of these answers."""
NUM_QUERIES = 2
"""Questions of each kind per contributor."""
MAX_LENGTH = 192


@dataclass(frozen=True, slots=True)
class Study:
    """`Example.contribution` is the contributor's index in `names`. `held_out` rows are never trained on."""

    names: tuple[str, ...]
    rows: tuple[Example, ...]
    held_out: tuple[Example, ...]
    preamble: tuple[int, ...]
    digest: str
    """SHA-256 over names and texts, so that other package versions are a different study."""

    def rows_of(self, contributors: Sequence[int]) -> list[Example]:
        wanted = set(contributors)
        return [row for row in self.rows if row.contribution in wanted]


def read_study(tokenizer: Any) -> Study:
    """Read the rows of each package in order of their hash; the rows after the contributed ones are held
    out.
    """
    rows: list[Example] = []
    held_out: list[Example] = []
    texts: list[Any] = []
    for place, (name, count) in enumerate(CONTRIBUTORS.items()):
        short = [row for row in build_dataset(name).rows if len(row["completion"]) <= MAX_CHARACTERS]
        chosen = sorted(short, key=lambda row: hashlib.sha256(row["completion"].encode()).digest())
        chosen = chosen[: count + NUM_QUERIES]
        texts.append([name, count, chosen])
        examples = [encode(place, _chat(row), tokenizer, MAX_LENGTH) for row in chosen]
        rows += examples[:count]
        held_out += examples[count:]
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    return Study(tuple(CONTRIBUTORS), tuple(rows), tuple(held_out), preamble_ids(tokenizer, SYSTEM), digest)


def _chat(row: Mapping[str, str]) -> dict[str, Any]:
    turns = (("system", SYSTEM), ("user", row["prompt"]), ("assistant", row["completion"]))
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "source": row["source"]}


def half_subsets(num_contributors: int, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """`count` distinct random halves of the contributors, each sorted. A larger count extends the same
    list.
    """
    rng = random.Random(seed)  # noqa: S311 - a fixed seed, so that a resumed run has the same halves
    subsets: list[tuple[int, ...]] = []
    while len(subsets) < count:
        half = tuple(sorted(rng.sample(range(num_contributors), num_contributors // 2)))
        if half not in subsets:
            subsets.append(half)
    return subsets
