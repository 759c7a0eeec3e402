"""Error rates of re-execution, for honest and for substituted answers."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from backend.services.receipts.reexecution import first_difference
from tools import markdown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.services.receipts.reexecution import Reexecution

    Answers = Mapping[tuple[int, int], Reexecution]
    """Answers by the numbers of adapter (-1: none) and prompt."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of the compared answers that are the same to the last token, open (a near tie), and wrong.

    `median_gap` and `largest_gap` are over the first differing tokens that have a gap; None without any.
    """

    num_answers: int
    same: float
    is_open: float
    wrong: float
    median_gap: float | None
    largest_gap: float | None


def rates(pairs: Sequence[tuple[Reexecution, Reexecution]]) -> Rates:
    """Rates over pairs of claimed and re-executed answers; at least one pair."""
    found = [first_difference(claimed.text, again) for claimed, again in pairs]
    differences = [each for each in found if each is not None]
    gaps = [each.gap for each in differences if each.gap is not None]
    count, num_open = len(pairs), sum(each.is_rounding for each in differences)
    return Rates(
        num_answers=count,
        same=(count - len(differences)) / count,
        is_open=num_open / count,
        wrong=(len(differences) - num_open) / count,
        median_gap=median(gaps) if gaps else None,
        largest_gap=max(gaps, default=None),
    )


def honest(served: Answers, again: Answers) -> Rates:
    """Compare each answer with a re-execution on its own adapter."""
    return rates([(claimed, again[key]) for key, claimed in served.items() if key[0] >= 0])


def swapped(served: Answers, again: Answers, num_adapters: int) -> Rates:
    """Compare each answer with a re-execution on the next adapter."""
    return rates(
        [
            (claimed, again[(adapter + 1) % num_adapters, prompt])
            for (adapter, prompt), claimed in served.items()
            if adapter >= 0
        ]
    )


def base_model(served: Answers, again: Answers) -> Rates:
    """Compare the base model's answers with a re-execution on each adapter."""
    return rates([(served[-1, prompt], found) for (adapter, prompt), found in again.items() if adapter >= 0])


def table(rows: Mapping[str, dict[str, Any]]) -> str:
    """The rates as a Markdown table."""
    lines = []
    for name, row in rows.items():
        parts = [f"{row[share]:.1%}" for share in ("same", "is_open", "wrong")]
        gaps = ["" if row[gap] is None else f"{row[gap]:.3f}" for gap in ("median_gap", "largest_gap")]
        lines.append([name, str(row["num_answers"]), *parts, *gaps])
    head = ["answers", "number", "same", "open", "`WRONG`", "median gap", "largest gap"]
    return "\n".join(markdown.table(head, lines))
