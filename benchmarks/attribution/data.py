"""Data of a study: tokenised rows of contributors with known sources, what is asked, and halves."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks.attribution.sources import SOURCES
from inference.tokenization.load import load_tokenizer
from workers.training.rows import encode, preamble_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from benchmarks.attribution.sources import Source
    from workers.training.rows import Example

MAX_CHARACTERS = 160
"""Length limit of a question and of an answer, so that a retraining takes less than a minute."""
NUM_HELD_OUT = 2
"""Held-out rows of each contributor, and rows of each that are asked about in-sample."""
NUM_PROMPTS = 5
"""Prompts of each contributor to which answers are generated."""
NUM_SPARE = 10
"""Further rows of each contributor, at most, which gaming compares rows of an attacker with."""
MAX_LENGTH = 256
PLAIN_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages if message.role != "assistant" %}
  {%- if message.role == "system" %}{{ message.content }}
{% else %}
Question: {{ message.content }}
Answer:
{% endif %}
{%- endfor %}"""
"""Chat template of base models that have none: one question after the system prompt."""


@dataclass(frozen=True, slots=True)
class Study:
    """`Example.contribution` is the contributor's index in `names`. No run is trained on `held_out` or on
    `prompts`, whose answers the models generate. The study does not use `spare`. `system` is the system
    prompt of all rows.
    """

    names: tuple[str, ...]
    licences: tuple[str, ...]
    rows: tuple[Example, ...]
    held_out: tuple[Example, ...]
    prompts: tuple[Example, ...]
    spare: tuple[Example, ...]
    system: str
    preamble: tuple[int, ...]
    digest: str
    """SHA-256 over names and texts, so that other package versions are a different study."""

    def rows_of(self, contributors: Sequence[int]) -> list[Example]:
        wanted = set(contributors)
        return [row for row in self.rows if row.contribution in wanted]


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base model, with `PLAIN_TEMPLATE` if it has no chat template."""
    tokenizer = load_tokenizer(folder)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def read_study(name: str, tokenizer: Any) -> Study:
    """Read each contributor's rows in order of their hash: contributed, then held out, prompts, and spare.

    Errors: `MissingPackage` if a package is not installed, `ValueError` if one has too few rows.
    """
    system, sources = SOURCES[name]()
    rows: list[Example] = []
    held_out: list[Example] = []
    prompts: list[Example] = []
    spare: list[Example] = []
    texts: list[Any] = [system]
    seen: set[str] = set()
    for place, source in enumerate(sources):
        chosen, others = _chosen(source, seen)
        texts.append([source.name, source.num_rows, chosen])
        examples = [encode_row(place, row, system, tokenizer) for row in chosen]
        end = source.num_rows + NUM_HELD_OUT
        rows += examples[: source.num_rows]
        held_out += examples[source.num_rows : end]
        prompts += examples[end:]
        spare += [encode_row(place, row, system, tokenizer) for row in others]
    return Study(
        tuple(source.name for source in sources),
        tuple(source.licence for source in sources),
        tuple(rows),
        tuple(held_out),
        tuple(prompts),
        tuple(spare),
        system,
        preamble_ids(tokenizer, system),
        hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest(),
    )


def contributed_rows(name: str) -> list[tuple[int, dict[str, str]]]:
    """(contributor, row with `prompt` and `completion`) of each contributed row. Errors: as `read_study`."""
    seen: set[str] = set()
    return [
        (place, row)
        for place, source in enumerate(SOURCES[name]()[1])
        for row in _chosen(source, seen)[0][: source.num_rows]
    ]


def write_rows(name: str, path: Path) -> None:
    """Write the rows that the contributors of a study give as those of a training job. Errors: as
    `read_study`.
    """
    lines = (json.dumps({"contribution": place, "row": row}) for place, row in contributed_rows(name))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _chosen(source: Source, seen: set[str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(rows that the study uses, spare rows). No question and no answer of the study occurs twice; `seen` has
    those of earlier contributors.
    """
    rows = [asdict(row) for row in source.rows if max(len(row.prompt), len(row.completion)) <= MAX_CHARACTERS]
    rows.sort(key=lambda row: hashlib.sha256(row["completion"].encode()).digest())
    chosen = list(_distinct(rows, seen))
    wanted = source.num_rows + NUM_HELD_OUT + NUM_PROMPTS
    if len(chosen) < wanted:
        raise ValueError(f"{source.name} has {len(chosen)} distinct short rows, the study needs {wanted}")
    return chosen[:wanted], chosen[wanted : wanted + NUM_SPARE]


def _distinct(rows: Sequence[dict[str, str]], seen: set[str]) -> Iterator[dict[str, str]]:
    for row in rows:
        if not seen & {row["prompt"], row["completion"]}:
            seen |= {row["prompt"], row["completion"]}
            yield row


def encode_row(contribution: int, row: Mapping[str, str], system: str, tokenizer: Any) -> Example:
    """A row with `prompt` and `completion`, under the study's system prompt. Its group is the prompt."""
    turns = (("system", system), ("user", row["prompt"]), ("assistant", row["completion"]))
    messages = [{"role": role, "content": content} for role, content in turns]
    return encode(contribution, {"messages": messages, "source": row["prompt"]}, tokenizer, MAX_LENGTH)


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
