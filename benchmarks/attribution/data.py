"""Contributors with known sources, questions about them, and the random halves to retrain on."""

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
"""Packages that are installed wherever this runs, and how many of their docstrings each contributes: unequal
numbers, else uniform by rows would predict nothing at all.
"""
MAX_CHARACTERS = 160
"""Of an answer: short rows, so that a retraining takes a minute."""
SYSTEM = "Python."
"""In place of the chat template's own system prompt, which is longer than most of these answers."""
NUM_QUERIES = 2
"""Of each kind for each contributor."""
MAX_LENGTH = 192


@dataclass(frozen=True, slots=True)
class Study:
    """`Example.contribution` is the contributor's place in `names`. `held_out` are never trained on."""

    names: tuple[str, ...]
    rows: tuple[Example, ...]
    held_out: tuple[Example, ...]
    preamble: tuple[int, ...]
    digest: str
    """sha-256 over names and texts: other package versions make another study."""

    def rows_of(self, contributors: Sequence[int]) -> list[Example]:
        wanted = set(contributors)
        return [row for row in self.rows if row.contribution in wanted]


def read_study(tokenizer: Any) -> Study:
    """Of each package the rows that come first by their hash; those that come next are held out."""
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
    """`count` different random halves of the contributors, each rising. More only appends to fewer."""
    dice = random.Random(seed)  # noqa: S311 - a fixed choice, so that a killed run goes on with the same ones
    subsets: list[tuple[int, ...]] = []
    while len(subsets) < count:
        half = tuple(sorted(dice.sample(range(num_contributors), num_contributors // 2)))
        if half not in subsets:
            subsets.append(half)
    return subsets
