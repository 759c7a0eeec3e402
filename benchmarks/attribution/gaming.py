"""Measures the gain from manipulated contributions.

Each contributor in turn is the attacker; the others do not change, and the same answers are attributed again.
Directions and distilled maps are computed from the manipulated rows; the adapter, its checkpoint and its
answers are those of the honest training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backend.domain.attribution import (
    DISTILLED_ERROR_METHOD,
    DISTILLED_METHOD,
    ERROR_METHOD,
    GRADIENT_METHOD,
    HIDDEN_METHOD,
    ROWS_METHOD,
)
from backend.domain.money import PPM
from benchmarks.attribution.attacks import NUM_WALLETS, paraphrase
from benchmarks.attribution.measure import as_paid
from benchmarks.attribution.methods import (
    cosine_scores,
    distilled_scores,
    gradient_scores,
    ridge_scores,
    rows_scores,
)
from benchmarks.attribution.signals import read_signals, read_variants
from workers.training.influence import ERROR_RIDGE
from workers.training.rows import encode, last_answer
from workers.training.sketch import NUM_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from benchmarks.attribution.measure import Floats
    from benchmarks.attribution.signals import Signals, StudySignals
    from benchmarks.attribution.study import Plan
    from workers.training.progress import Emit
    from workers.training.rows import Example

NUM_TRIVIAL = 10
PADDING = " Please see the documentation for further details, examples and notes on usage."
CITATION = " This answer was taken from the documentation of {name}, which is the best source on {name}."
TRIVIAL, PARAPHRASED = "trivial rows added", "near copy under another wallet"


@dataclass(frozen=True, slots=True)
class Method:
    """`score(row signals, contribution of each row)` returns [answers, contributions]; row signals are
    [rows, size].
    """

    score: Callable[[Tensor, Sequence[int]], Floats]
    rows: Tensor
    variants: Mapping[str, Tensor]
    """Signals of all rows after a manipulation, by name, and of `NUM_TRIVIAL` rows as `TRIVIAL`."""


def padded(rows: Sequence[Example], tokenizer: Any, names: Sequence[str], text: str) -> list[Example]:
    """Rows with `text` appended to each answer; `{name}` in it is the contributor's name."""
    found = []
    for row in rows:
        added = tokenizer.encode(text.format(name=names[row.contribution]), add_special_tokens=False)
        prompt, answer = last_answer(row)
        found.append(_with_answer(row, prompt, (*answer[:-1], *added, answer[-1])))
    return found


def paraphrased(rows: Sequence[Example], tokenizer: Any) -> list[Example]:
    """Rows with their answers paraphrased."""
    found = []
    for row in rows:
        prompt, answer = last_answer(row)
        ids = tokenizer.encode(paraphrase(tokenizer.decode(answer[:-1])), add_special_tokens=False)
        found.append(_with_answer(row, prompt, (*ids, answer[-1])))
    return found


def trivial(tokenizer: Any) -> list[Example]:
    """`NUM_TRIVIAL` rows without effort."""
    rows = [{"prompt": f"What is {i} plus {i}?", "completion": f"{2 * i}."} for i in range(NUM_TRIVIAL)]
    return [encode(0, row, tokenizer, 192) for row in rows]


def gains(method: Method, contributions: Sequence[int]) -> dict[str, dict[str, float]]:
    """By attack: the attacker's part of the pool minus its honest part, as `mean` over attackers and answers,
    and as the `worst` attacker's mean over answers. For copies the attacker's honest part is nothing, and
    that of the original counts as well: together they should earn what the original alone did.
    """
    places = np.asarray(contributions)
    honest = _shares(method, method.rows, contributions)
    found: dict[str, list[float]] = {}
    for attacker in sorted(set(contributions)):
        for name, (rows, whose) in _games(method, places, attacker).items():
            shares = _shares(method, rows, whose)
            own = [attacker, *range(places.max() + 1, shares.shape[1])]  # new wallets are the attacker's
            gain = shares[:, own].sum(1) - honest[:, attacker]
            found.setdefault(name, []).append(float(gain.mean()))
    return {name: {"mean": sum(each) / len(each), "worst": max(each)} for name, each in found.items()}


def _games(method: Method, places: Any, attacker: int) -> dict[str, tuple[Tensor, list[int]]]:
    """By attack: (row signals, contribution of each row)."""
    own = torch.from_numpy(np.flatnonzero(places == attacker))
    new, whose = int(places.max()) + 1, places.tolist()
    split = list(whose)
    for number, place in enumerate(own.tolist()):
        wallet = number % NUM_WALLETS
        split[place] = new + wallet - 1 if wallet else attacker
    twice = torch.cat([method.rows, method.rows[own]])
    games = {
        "copy under another wallet": (twice, [*whose, *[new] * len(own)]),
        "rows given twice": (twice, [*whose, *[attacker] * len(own)]),
        "ten wallets": (method.rows, split),
    }
    for name, signals in method.variants.items():
        if name == TRIVIAL:
            games[name] = (torch.cat([method.rows, signals]), [*whose, *[attacker] * len(signals)])
        elif name == PARAPHRASED:
            games[name] = (torch.cat([method.rows, signals[own]]), [*whose, *[new] * len(own)])
        else:
            rows = method.rows.clone()
            rows[own] = signals[own]
            games[name] = (rows, whose)
    return games


def _shares(method: Method, rows: Tensor, contributions: Sequence[int]) -> Floats:
    """Shares [answers, contributions] as in a receipt, as fractions of one."""
    shares: Floats = as_paid(method.score(rows, contributions)) / PPM
    return shares


def _with_answer(row: Example, prompt: Sequence[int], answer: Sequence[int]) -> Example:
    ignored = row.labels[: len(prompt)]
    return replace(row, token_ids=(*prompt, *answer), labels=(*ignored, *answer))


def methods(signals: StudySignals, variants: Mapping[str, Signals]) -> dict[str, Method]:
    """Each method, with the signal of rows that it is computed from."""
    answers = signals.answers
    num_answers, size = answers.error.shape

    def of(read: Callable[[Signals], Tensor], score: Callable[[Tensor, Sequence[int]], Floats]) -> Method:
        return Method(score, read(signals.rows), {name: read(each) for name, each in variants.items()})

    def by_gradient(rows: Tensor, whose: Sequence[int], of_answers: Signals) -> Floats:
        """`rows` [rows, parts * part size]."""
        return gradient_scores(rows.view(len(rows), NUM_PARTS, -1), whose, of_answers.gradients)

    def distilled(name: str) -> Method:
        def score(rows: Tensor, whose: Sequence[int]) -> Floats:
            errors, gradients = rows[:, :size], rows[:, size:]
            targets = by_gradient(gradients, whose, signals.sampled)
            return distilled_scores(signals, targets, errors, whose)[name]

        return of(lambda each: torch.cat([each.error, each.gradients.flatten(1)], dim=1), score)

    def error_scores(rows: Tensor, whose: Sequence[int]) -> Floats:
        return ridge_scores(rows, whose, answers.error, ERROR_RIDGE)

    return {
        ROWS_METHOD: of(lambda each: each.hidden, lambda _, whose: rows_scores(whose, num_answers)),
        HIDDEN_METHOD: of(
            lambda each: each.hidden, lambda rows, whose: cosine_scores(rows, whose, answers.hidden)
        ),
        ERROR_METHOD: of(lambda each: each.error, error_scores),
        DISTILLED_ERROR_METHOD: distilled(DISTILLED_ERROR_METHOD),
        DISTILLED_METHOD: distilled(DISTILLED_METHOD),
        GRADIENT_METHOD: of(
            lambda each: each.gradients.flatten(1), lambda rows, whose: by_gradient(rows, whose, answers)
        ),
    }


def report_gaming(plan: Plan, emit: Emit) -> dict[str, Any]:
    """By method and attack, over the study's generated answers. Errors: as `read_signals`."""
    tokenizer = plan.tokenizer
    rows, names = plan.study.rows, plan.study.names
    variants = {
        "answers padded": padded(rows, tokenizer, names, PADDING),
        "answers that cite themselves": padded(rows, tokenizer, names, CITATION),
        PARAPHRASED: paraphrased(rows, tokenizer),
        TRIVIAL: trivial(tokenizer),
    }
    contributions = [row.contribution for row in rows]
    answers = plan.require_truth().answers
    signals = read_signals(plan.reference, [each.example for each in answers], emit)
    is_generated = torch.tensor([each.kind == "generated" for each in answers])
    found = methods(
        replace(signals, answers=signals.answers.select(is_generated)),
        read_variants(plan.reference, variants, emit),
    )
    return {name: gains(method, contributions) for name, method in found.items()}
