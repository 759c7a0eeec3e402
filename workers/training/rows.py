"""Rows to tokens: chat template, loss mask, held-out split and the order of batches. No tensors here."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import unicodedata
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LossOn = Literal["completions", "all"]
GENERAL_FILE = Path(__file__).with_name("general.jsonl")
"""Written for this project. Losses on another set cannot be compared: changing a row needs another name."""
GENERAL_LENGTH = 512
IGNORED = -100
"""Label of a token that carries no loss; the value that torch's cross entropy skips."""


class UnusableRows(InvalidInput):
    """What is left of a snapshot cannot be trained on; the message says why."""


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised row. `labels[i]` is `token_ids[i]` where the model is to learn it, else `IGNORED`."""

    contribution: int
    group: str
    """The source object that the row speaks of; without one, its first question."""
    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    question: str = ""
    """The first question, or the text, less its case and spacing. Empty: like no other."""

    @property
    def num_trained(self) -> int:
        """Tokens that carry loss; nothing predicts the first one."""
        return sum(label != IGNORED for label in self.labels[1:])


def read_examples(
    path: Path, tokenizer: Any, max_length: int, loss_on: LossOn = "completions"
) -> list[Example]:
    """Tokenise lines `{"contribution": index, "row": {...}}`, less rows with no label within `max_length`."""
    with path.open(encoding="utf-8") as file:
        lines = (json.loads(line) for line in file)
        examples = [
            encode(line["contribution"], line["row"], tokenizer, max_length, loss_on) for line in lines
        ]
    return [example for example in examples if example.num_trained > 0]


def general_examples(tokenizer: Any) -> list[Example]:
    """The fixed set of questions about nothing in particular: there it shows what a model forgets."""
    lines = GENERAL_FILE.read_text(encoding="utf-8").splitlines()
    return [encode(0, json.loads(line), tokenizer, GENERAL_LENGTH) for line in lines]


def encode(
    contribution: int,
    row: Mapping[str, Any],
    tokenizer: Any,
    max_length: int,
    loss_on: LossOn = "completions",
) -> Example:
    """Segment by segment, each tokenised alone, as the engine does with a prompt and its answer."""
    token_ids: list[int] = []
    labels: list[int] = []
    for text, is_trained in _segments(row, tokenizer):
        ids = tokenizer.encode(text, add_special_tokens=False)
        token_ids += ids
        labels += ids if is_trained or loss_on == "all" else [IGNORED] * len(ids)
    question = " ".join(unicodedata.normalize("NFKC", _question(row)).casefold().split())
    return Example(
        contribution, _group(row), tuple(token_ids[:max_length]), tuple(labels[:max_length]), question
    )


def preamble_ids(tokenizer: Any, system: str = "") -> tuple[int, ...]:
    """What conversations begin with before the user's first words; with `system` in the place of the
    template's own prompt, if it has one. Nothing where there is no template.
    """
    if tokenizer.chat_template is None:
        return ()
    told = [{"role": "system", "content": system}] if system else []
    one, other = (
        encode(0, {"messages": [*told, *_asked_and_answered(words)]}, tokenizer, sys.maxsize).token_ids
        for words in ("a", "b")
    )
    return one[: _num_common(one, other)]


def own_positions(example: Example, preamble: Sequence[int]) -> list[int]:
    """Those of the row's first token, and of all from where it departs from `preamble`: never later than the
    token that its first trained one is predicted from.
    """
    trained = (place for place, label in enumerate(example.labels) if place and label != IGNORED)
    latest = next(trained, len(example.labels)) - 1
    departs = min(_num_common(example.token_ids, preamble), latest)
    return [0, *range(max(1, departs), len(example.token_ids))]


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a chat or instruct row; none for plain text. Templates strip contents, so we do."""
    if "messages" in row:
        return [{"role": m["role"], "content": m["content"].strip()} for m in row["messages"]]
    if "prompt" in row:
        return _asked_and_answered(row["prompt"].strip(), row["completion"].strip())
    return []


def hold_out(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, held out). Rows that share a group or a question are held out together or not at all; which
    ones depends on the seed and the groups' names alone.

    Errors: `UnusableRows` when nothing can be held out.
    """
    group_of = joined_groups(examples)

    def draw(group: str) -> bytes:
        return hashlib.sha256(f"{seed}:{group}".encode()).digest()

    groups = sorted(set(group_of.values()), key=draw)
    if len(groups) < 2:
        raise UnusableRows(
            "all rows share a source object or a question: none can be held out to measure the adapter"
        )
    wanted = max(1, round(fraction * len(groups)))
    held = set(groups[:wanted])
    return (
        [example for example in examples if group_of[example.group] not in held],
        [example for example in examples if group_of[example.group] in held],
    )


def joined_groups(examples: Sequence[Example]) -> dict[str, str]:
    """To each group the least name of those that it is linked with by equal questions, itself included."""
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        parents.setdefault(node, node)
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for example in examples:
        # Groups sort before questions, so that a root is always a group.
        group = root(("group", example.group))
        question = root(("question", example.question)) if example.question else group
        parents[max(group, question)] = min(group, question)
    return {example.group: root(("group", example.group))[1] for example in examples}


def packs(examples: Sequence[Example], max_length: int) -> list[tuple[Example, ...]]:
    """Sequences of at most `max_length` tokens, each of whole rows: the longest first, each into the first
    sequence that it fits into.
    """
    room: list[int] = []
    filled: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: len(example.token_ids), reverse=True):
        length = len(example.token_ids)
        place = next((i for i, free in enumerate(room) if free >= length), len(room))
        if place == len(room):
            room.append(max_length)
            filled.append([])
        room[place] -= length
        filled[place].append(example)
    return [tuple(sequence) for sequence in filled]


def plan_batches(
    num_rows: int, batch_size: int, epochs: float, seed: int, steps: int = 0
) -> list[tuple[int, ...]]:
    """Row numbers of every optimizer step of the whole run: of so many epochs, or steps if not 0.

    The plan depends on nothing but its arguments, so a resumed run goes on exactly where the killed one was.
    """
    num_steps = steps or max(1, round(epochs * -(-num_rows // batch_size)))
    batches: list[tuple[int, ...]] = []
    epoch = 0
    while len(batches) < num_steps:
        rows = list(range(num_rows))
        random.Random(f"{seed}:{epoch}").shuffle(rows)  # noqa: S311
        batches += [tuple(rows[start : start + batch_size]) for start in range(0, num_rows, batch_size)]
        epoch += 1
    return batches[:num_steps]


def _segments(row: Mapping[str, Any], tokenizer: Any) -> Iterator[tuple[str, bool]]:
    """(text, whether it is learnt): the assistant's turns with their closing token are, nothing else."""
    messages = conversation(row)
    if not messages:
        yield row["text"] + tokenizer.eos_token, True
        return
    done = ""
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prefix = tokenizer.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True)
        yield prefix.removeprefix(done), False
        answer = message["content"] + tokenizer.eos_token
        yield answer, True
        done = prefix + answer


def _asked_and_answered(prompt: str, completion: str = "") -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _group(row: Mapping[str, Any]) -> str:
    return str(row["source"]) if "source" in row else _question(row)


def _question(row: Mapping[str, Any]) -> str:
    """What the user asks first; of other rows, all that is in them."""
    asked = [m["content"] for m in conversation(row) if m["role"] == "user"]
    content = {name: value for name, value in row.items() if name != "source"}
    return asked[0] if asked else json.dumps(content, sort_keys=True)
