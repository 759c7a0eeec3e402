"""Measures the gain from manipulated contributions, by attributing the same answers again.

Each contributor in turn is the attacker; the others do not change. Only the index is manipulated: the
adapter and its checkpoint are those of the honest training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backend.domain.money import PPM
from benchmarks.attribution.measure import as_paid
from workers.training.rows import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from workers.training.rows import Example

NUM_TRIVIAL = 10
PADDING = " Please see the documentation for further details, examples and notes on usage."
CITATION = " This answer was taken from the documentation of {name}, which is the best source on {name}."


@dataclass(frozen=True, slots=True)
class Method:
    """`score(row signals, contribution of each row, answer signals)` returns [answers, contributions]."""

    score: Callable[[Tensor, Sequence[int], Tensor], Tensor]
    rows: Tensor
    answers: Tensor


def padded(rows: Sequence[Example], tokenizer: Any, names: Sequence[str], text: str) -> list[Example]:
    """Rows with `text` appended to each answer; `{name}` in it is the contributor's name."""
    return [_append(row, tokenizer, text.format(name=names[row.contribution])) for row in rows]


def trivial(tokenizer: Any) -> list[Example]:
    """`NUM_TRIVIAL` rows without effort."""
    rows = [{"prompt": f"What is {i} plus {i}?", "completion": f"{2 * i}."} for i in range(NUM_TRIVIAL)]
    return [encode(0, row, tokenizer, 192) for row in rows]


def gains(
    method: Method, contributions: Sequence[int], variants: Mapping[str, Tensor], extra: Tensor
) -> dict[str, dict[str, float]]:
    """By attack: the attacker's part of the pool minus its honest part, as `mean` over attackers and answers,
    and as the `worst` attacker's mean over answers.

    `variants` are the signals [rows, size] of all rows after a manipulation, by name; `extra` those of
    trivial rows.
    """
    places = np.asarray(contributions)
    honest = _shares(method, method.rows, contributions)
    found: dict[str, list[float]] = {}
    for attacker in sorted(set(contributions)):
        own = torch.from_numpy(np.flatnonzero(places == attacker))
        games = _games(method.rows, places, attacker, own, extra)
        for name, signals in variants.items():
            rows = method.rows.clone()
            rows[own] = signals[own]
            games[name] = (rows, list(contributions))
        for name, (rows, whose) in games.items():
            shares = _shares(method, rows, whose)
            own_wallets = [
                attacker,
                *range(places.max() + 1, shares.shape[1]),
            ]  # new wallets are the attacker's
            gain = shares[:, own_wallets].sum(1) - honest[:, attacker]
            found.setdefault(name, []).append(float(gain.mean()))
    return {name: {"mean": sum(each) / len(each), "worst": max(each)} for name, each in found.items()}


def _games(
    rows: Tensor, places: Any, attacker: int, own: Tensor, extra: Tensor
) -> dict[str, tuple[Tensor, list[int]]]:
    """By attack: (row signals, contribution of each row). New contributions are the attacker's other
    wallets.
    """
    new = int(places.max()) + 1
    whose = places.tolist()
    split = list(whose)
    for number, place in enumerate(own.tolist()[1:]):
        split[place] = new + number
    twice = torch.cat([rows, rows[own]])
    return {
        "copy under another wallet": (twice, [*whose, *[new] * len(own)]),
        "rows given twice": (twice, [*whose, *[attacker] * len(own)]),
        "a wallet for each row": (rows, split),
        "trivial rows added": (torch.cat([rows, extra]), [*whose, *[attacker] * len(extra)]),
    }


def _shares(method: Method, rows: Tensor, contributions: Sequence[int]) -> Any:
    """Shares [answers, contributions] as in a receipt, as fractions of one."""
    scores = method.score(rows, contributions, method.answers)
    return as_paid(np.asarray(scores, dtype=np.float64)) / PPM


def _append(row: Example, tokenizer: Any, text: str) -> Example:
    """`row` with `text` inserted before the end-of-text token."""
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    return replace(
        row,
        token_ids=(*row.token_ids[:-1], *ids, row.token_ids[-1]),
        labels=(*row.labels[:-1], *ids, row.labels[-1]),
    )
