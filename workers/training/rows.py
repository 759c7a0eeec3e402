"""Turns rows into tokens: chat template, loss mask, packing, order of batches. No tensors."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backend.domain.dataset import messages_of
from backend.domain.errors import InvalidInput
from inference.model.families import end_token_ids
from workers.training.progress import ProgressReporter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from workers.training.progress import Emit

LossOn = Literal["completions", "all"]
GENERAL_FILE = Path(__file__).with_name("general.jsonl")
"""Questions written for this project. Losses on different sets are not comparable: a changed row needs a new
file name.
"""
GENERAL_LENGTH = 512
IGNORED = -100
"""Label of a token without loss; the `ignore_index` of torch's cross entropy."""


class UnusableRows(InvalidInput):
    """A snapshot's rows cannot be trained on; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised row. `labels[i]` is `token_ids[i]` for trained tokens, else `IGNORED`."""

    contribution: int
    group: str
    """The row's source object; without one, its first question."""
    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    question: str = ""
    """The first question, or the text, normalised in case and spacing. Empty: equal to no other."""

    @property
    def num_trained(self) -> int:
        """Tokens that carry loss; nothing predicts the first one."""
        return sum(label != IGNORED for label in self.labels[1:])


def read_examples(
    path: Path, tokenizer: Any, max_length: int, emit: Emit, loss_on: LossOn = "completions"
) -> list[Example]:
    """Tokenise lines `{"contribution": index, "row": {...}}`; omit rows without labels in `max_length`."""
    examples = []
    with path.open("rb") as file:
        progress = ProgressReporter(emit, "reading", sum(1 for _ in file))
        file.seek(0)
        for line in map(json.loads, file):
            example = encode(line["contribution"], line["row"], tokenizer, max_length, loss_on)
            if example.num_trained > 0:
                examples.append(example)
            progress.advance()
    return examples


def general_examples(tokenizer: Any) -> list[Example]:
    """The fixed set of general questions, on which forgetting is measured."""
    lines = GENERAL_FILE.read_text(encoding="utf-8").splitlines()
    return [encode(0, json.loads(line), tokenizer, GENERAL_LENGTH) for line in lines]


def encode(
    contribution: int,
    row: Mapping[str, Any],
    tokenizer: Any,
    max_length: int,
    loss_on: LossOn = "completions",
) -> Example:
    """Tokenise each segment on its own, as the engine does with a prompt and its answer. Segments beyond
    `max_length` are not rendered: the work of a conversation grows with the square of its rendered turns.
    """
    token_ids: list[int] = []
    labels: list[int] = []
    for text, is_trained in _segments(row, tokenizer):
        ids = tokenizer.encode(text, add_special_tokens=False)
        token_ids += ids
        labels += ids if is_trained or loss_on == "all" else [IGNORED] * len(ids)
        if len(token_ids) >= max_length:
            break
    question = " ".join(unicodedata.normalize("NFKC", _question(row)).casefold().split())
    return Example(
        contribution, _group(row), tuple(token_ids[:max_length]), tuple(labels[:max_length]), question
    )


def preamble_ids(tokenizer: Any, system: str = "") -> tuple[int, ...]:
    """Token ids before the user's first words in every conversation; empty without a chat template. `system`
    replaces the template's own system prompt.
    """
    if tokenizer.chat_template is None:
        return ()
    instructions = [{"role": "system", "content": system}] if system else []
    one, other = (
        encode(0, {"messages": [*instructions, *_exchange(words)]}, tokenizer, sys.maxsize).token_ids
        for words in ("a", "b")
    )
    return one[: _num_common(one, other)]


def computed_positions(example: Example, preamble: Sequence[int]) -> list[int]:
    """Positions that are computed for the row itself: its first token, and all after its common prefix with
    `preamble`. They include the token that predicts its first trained one.
    """
    trained = (index for index, label in enumerate(example.labels) if index and label != IGNORED)
    last_start = next(trained, len(example.labels)) - 1
    start = min(_num_common(example.token_ids, preamble), last_start)
    return [0, *range(max(1, start), len(example.token_ids))]


def last_answer(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(prompt, answer): the last run of trained tokens, and everything before it, at least one token."""
    labels = example.labels
    end = max(i for i, label in enumerate(labels) if label != IGNORED) + 1
    start = end - 1
    while start > 1 and labels[start - 1] != IGNORED:
        start -= 1
    return example.token_ids[:start], example.token_ids[start:end]


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a chat or instruct row; none for plain text. Contents are stripped, as templates do."""
    return [{"role": m["role"], "content": m["content"].strip()} for m in messages_of(row)]


def pack_rows(examples: Sequence[Example], max_length: int) -> list[tuple[Example, ...]]:
    """Pack whole rows into sequences of at most `max_length` tokens, by first-fit decreasing."""
    filled: list[list[Example]] = [[] for _ in examples]
    room = _Room(len(examples), max_length)
    for example in sorted(examples, key=lambda example: len(example.token_ids), reverse=True):
        filled[room.take(len(example.token_ids))].append(example)
    return [tuple(sequence) for sequence in filled if sequence]


class _Room:
    """The free tokens of sequences, in a tree whose inner nodes have the maximum of their two children: a
    search through all sequences, for each of a million rows, would take hours.
    """

    def __init__(self, num_sequences: int, max_length: int) -> None:
        self._num_leaves = 1 << max(0, num_sequences - 1).bit_length()
        self._most = [max_length] * (2 * self._num_leaves)

    def take(self, length: int) -> int:
        """Take `length` tokens of the first sequence that has them; returns its number."""
        most, node = self._most, 1
        while node < self._num_leaves:
            node = 2 * node if most[2 * node] >= length else 2 * node + 1
        sequence = node - self._num_leaves
        most[node] -= length
        while node > 1:
            node //= 2
            most[node] = max(most[2 * node], most[2 * node + 1])
        return sequence


def plan_batches(
    num_rows: int, batch_size: int, epochs: float, seed: int, steps: int = 0
) -> list[tuple[int, ...]]:
    """Row numbers of every optimizer step of the run, which has `epochs`, or `steps` if not 0.

    The plan is a function of its arguments, so a resumed run continues exactly where the killed one was.
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
    """(text, whether it is trained): only the assistant's turns with the token that ends them are."""
    messages = conversation(row)
    if not messages:
        yield row["text"] + tokenizer.eos_token, True
        return
    rendered, answer, end = "", "", _end_of_turn(tokenizer)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prefix = tokenizer.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True)
        yield _continuation(prefix, rendered, answer, end), False
        answer = message["content"]
        yield answer + end, True
        rendered = prefix + answer + end


def _continuation(prefix: str, rendered: str, answer: str, end: str) -> str:
    """What follows `rendered`, which closes with an answer and `end`, in a prompt of more turns. A template
    may write that answer in another way when it repeats it, with blanks around it for example.
    """
    if prefix.startswith(rendered):
        return prefix[len(rendered) :]
    place = _num_common(prefix, rendered)
    start = prefix.find(answer, min(place, len(rendered) - len(answer + end)))
    if start < 0:
        return prefix[place:]
    rest = prefix[start + len(answer) :]
    return rest.lstrip().removeprefix(end) if rest.lstrip().startswith(end) else rest


@lru_cache(maxsize=1)
def _end_of_turn(tokenizer: Any) -> str:
    """The token with which the chat template ends an answer, such as Gemma's `<end_of_turn>`, if the engine
    ends answers there too; else the tokenizer's end of text.
    """
    answer, ends = "an answer", end_token_ids(Path(tokenizer.name_or_path))
    rendered = tokenizer.apply_chat_template(_exchange("a question", answer), tokenize=False)
    _, is_found, tail = rendered.rpartition(answer)
    tokens = (str(token) for number, token in tokenizer.added_tokens_decoder.items() if number in ends)
    begun = (token for token in tokens if is_found and tail.lstrip().startswith(token))
    return max(begun, key=len, default=str(tokenizer.eos_token))


def _exchange(prompt: str, completion: str = "") -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def _num_common(one: Sequence[int] | str, other: Sequence[int] | str) -> int:
    """Length of the common prefix."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _group(row: Mapping[str, Any]) -> str:
    return str(row["source"]) if "source" in row else _question(row)


def _question(row: Mapping[str, Any]) -> str:
    """The user's first message; for plain text, the whole row."""
    questions = [m["content"] for m in conversation(row) if m["role"] == "user"]
    content = {name: value for name, value in row.items() if name != "source"}
    return questions[0] if questions else json.dumps(content, sort_keys=True)
