"""Rows that an attacker adds to a study.

Attackers know what is published: all rows, and the answers of an earlier version, on which its distilled maps
were fitted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from backend.services.answers.distilled import distilled_features
from benchmarks.attribution.data import encode_row
from workers.training.rows import last_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.attribution.data import Study
    from benchmarks.attribution.signals import StudySignals
    from workers.training.rows import Example

NUM_ADDED = 10
"""Rows that an attacker adds, unless it copies those of another contributor."""
NUM_WALLETS = 10
NUM_RANDOM_TOKENS = 24
VAGUE = "It is one of the things that are used for this, and it is what it is for."
SYNONYMS = {
    "a": "one",
    "all": "every one of the",
    "always": "at all times",
    "are": "will be",
    "can": "could",
    "check": "verify",
    "checks": "verifies",
    "create": "make",
    "creates": "makes",
    "get": "obtain",
    "gets": "obtains",
    "given": "specified",
    "is": "will be",
    "may": "might",
    "new": "fresh",
    "return": "give back",
    "returns": "gives back",
    "set": "assign",
    "sets": "assigns",
    "the": "this",
    "use": "employ",
    "used": "employed",
    "very": "quite",
    "whether": "if",
}
"""Words that a paraphrase replaces."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What attackers know. `published` are the signals of an earlier version, trained on honest rows."""

    study: Study
    tokenizer: Any
    published: StudySignals


def paraphrase(text: str) -> str:
    return " ".join(SYNONYMS.get(word.lower(), word) for word in text.split(" "))


def replace_words(text: str, share: float, words: Sequence[str], rng: random.Random) -> str:
    """The text with this share of its words, at least one, replaced by others of `words`."""
    found = text.split(" ")
    for place in rng.sample(range(len(found)), max(1, round(share * len(found)))):
        found[place] = rng.choice(words)
    return " ".join(found)


def completion(row: Example, tokenizer: Any) -> str:
    """The text of a row's answer, without the token that ends it."""
    text: str = tokenizer.decode(last_answer(row)[1], skip_special_tokens=True)
    return text


def copied(setting: Setting, victim: int) -> list[Example]:
    return setting.study.rows_of([victim])


def near_copied(setting: Setting, victim: int) -> list[Example]:
    rows = setting.study.rows_of([victim])
    texts = [(row.group, paraphrase(completion(row, setting.tokenizer))) for row in rows]
    return _encode(setting, victim, texts)


def honest(setting: Setting, attacker: int) -> list[Example]:
    """As many further rows of its own kind as it has, at most `NUM_ADDED`: no attack."""
    return [row for row in setting.study.spare if row.contribution == attacker][:NUM_ADDED]


def trivial(setting: Setting, attacker: int) -> list[Example]:
    texts = [(f"What is {number} plus {number}?", f"{2 * number}.") for number in range(NUM_ADDED)]
    return _encode(setting, attacker, texts)


def vague(setting: Setting, attacker: int) -> list[Example]:
    """One answer that says nothing, to questions of others."""
    return _encode(setting, attacker, [(question, VAGUE) for question in _questions(setting, attacker)])


def noise(setting: Setting, attacker: int) -> list[Example]:
    """Random tokens, on which loss and gradient are large, as answers to questions of others."""
    rng = random.Random(attacker)  # noqa: S311 - rows of a benchmark
    size = setting.tokenizer.vocab_size
    texts = [
        (question, setting.tokenizer.decode(rng.sample(range(size), NUM_RANDOM_TOKENS)))
        for question in _questions(setting, attacker)
    ]
    return _encode(setting, attacker, texts)


def along_gradients(setting: Setting, attacker: int) -> list[Example]:
    """The published answers whose gradients are most like the mean of all, parts in units of their root mean
    square, so that each counts: a row like that should be paid by every answer.
    """
    gradients = setting.published.sampled.gradients
    sizes = gradients.square().mean((0, 2), keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return _most_typical(setting, attacker, (gradients / sizes).flatten(1))


def paraphrased(setting: Setting, attacker: int) -> list[Example]:
    """The answers along the mean gradient in other words, which the check of uploads may not recognise."""
    rows = along_gradients(setting, attacker)
    texts = [(row.group, paraphrase(completion(row, setting.tokenizer))) for row in rows]
    return _encode(setting, attacker, texts)


def published_texts(setting: Setting) -> list[str]:
    answers = (answer.token_ids for answer in setting.published.distillation)
    return [setting.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]


def along_probes(setting: Setting, attacker: int) -> list[Example]:
    """The same by the vectors that the distilled map reads."""
    sampled = setting.published.sampled
    features = distilled_features(sampled.hidden.numpy(), sampled.error.numpy())
    return _most_typical(setting, attacker, torch.from_numpy(features))


@dataclass(frozen=True, slots=True)
class Attack:
    """`added` makes the rows that one contributor adds, or that are made from its rows. `is_copy`: by another
    contributor, whom all rows of this game's new wallet belong to.
    """

    added: Callable[[Setting, int], list[Example]]
    is_copy: bool = False


ATTACKS: Mapping[str, Attack] = {
    "copy": Attack(copied, is_copy=True),
    "near copy": Attack(near_copied, is_copy=True),
    "trivial rows": Attack(trivial),
    "vague answers": Attack(vague),
    "random tokens": Attack(noise),
    "answers along the mean gradient": Attack(along_gradients),
    "answers along the mean gradient, paraphrased": Attack(paraphrased),
    "answers along the mean probe": Attack(along_probes),
    "further honest rows": Attack(honest),
}
"""By name. The last is what honest behaviour gains by as many rows."""


def split(rows: Sequence[Example], attacker: int, num_contributors: int) -> list[Example]:
    """The rows with those of the attacker dealt out to `NUM_WALLETS` wallets, of which one is its own."""
    wallets = [attacker, *range(num_contributors, num_contributors + NUM_WALLETS - 1)]
    found, dealt = [], 0
    for row in rows:
        if row.contribution == attacker:
            row = replace(row, contribution=wallets[dealt % NUM_WALLETS])  # noqa: PLW2901
            dealt += 1
        found.append(row)
    return found


def _most_typical(setting: Setting, attacker: int, vectors: torch.Tensor) -> list[Example]:
    """Rows of the published answers whose `vectors` [answers, size] have the largest cosine to the mean
    direction, each to another prompt.
    """
    directions = functional.normalize(vectors, dim=1)
    order = (directions @ directions.mean(0)).argsort(descending=True).tolist()
    questions = {last_answer(row)[0]: row.group for row in setting.study.rows}
    published = published_texts(setting)
    texts: dict[str, str] = {}
    for number in order:
        question = questions[setting.published.distillation[number].prompt.token_ids]
        text = published[number]
        if text and question not in texts and len(texts) < NUM_ADDED:
            texts[question] = text
    return _encode(setting, attacker, list(texts.items()))


def _questions(setting: Setting, attacker: int) -> list[str]:
    others = [row.group for row in setting.study.rows if row.contribution != attacker]
    return random.Random(attacker).sample(others, NUM_ADDED)  # noqa: S311 - rows of a benchmark


def _encode(setting: Setting, contribution: int, texts: Sequence[tuple[str, str]]) -> list[Example]:
    system, tokenizer = setting.study.system, setting.tokenizer
    return [
        encode_row(contribution, {"prompt": question, "completion": text}, system, tokenizer)
        for question, text in texts
    ]
