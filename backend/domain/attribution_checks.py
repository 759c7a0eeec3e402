"""Judges a published attribution index by what was computed again from base model, checkpoint and rows.

Another processor rounds differently, so an honest index differs a little from a recomputed one. The
tolerances are at least ten times what a processor with other instructions changes (docs/adr/0061).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.attribution import ERROR_METHOD
from backend.domain.money import PPM
from backend.domain.receipt_checks import Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOVED_PPM = 1_000
"""Most of the pool that a published method may move away from the recomputed one, the mean over answers."""
DISTANCE = 0.002
"""Largest distance of a contribution's vector from the recomputed one, relative to that one's norm. It bounds
what a forger moves in answers that verification does not measure.
"""
ERROR_DISTANCE = 0.02
"""The same of `ERROR_METHOD`. Its vectors contain the eight most likely tokens of each place, and where the
eighth and the ninth are as likely, another processor takes the other one. That moved a vector of a
contribution of one short row by 0.0075 (docs/adr/0061). Maps start from the recomputed vectors, if the rows
are there, so this bounds nothing that the maps pay.
"""
MEAN_MISS = 0.00001
"""Largest mean probability by which the random numbers may miss their published tokens."""
MISS = 0.001
"""Largest probability by which one random number may."""
AGREEMENT = 0.05
"""Largest difference of a published agreement from the recomputed one."""


@dataclass(frozen=True, slots=True)
class MethodDifference:
    """How far a method of the published index is from the recomputed one.

    `distance`: the largest over the contributions of the norm of the difference of their vectors, relative to
    the recomputed one. `moved_ppm`: the part of an answer's pool that the published method pays to others
    than the recomputed one does, the mean over `num_answers`; `most_moved_ppm` the largest.
    """

    method: str
    distance: float
    moved_ppm: int
    most_moved_ppm: int
    num_answers: int


@dataclass(frozen=True, slots=True)
class Draws:
    """Whether the adapter generates the published answers with their seeds.

    Each token is drawn by inverting the cumulative distribution at a random number that seed and place
    determine. `num_missed`: tokens for which another one would be drawn here; `mean_miss` and `largest_miss`:
    the probability between a token's number and the token, zero if the number draws it. `num_cut`: answers
    that neither end nor reach the limit.
    """

    num_answers: int
    num_tokens: int
    num_missed: int
    mean_miss: float
    largest_miss: float
    num_cut: int


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What a child process measured. `unchecked`: why nothing could be, if so.

    `rows`: (published, recomputed) number of rows by position, where they differ. `num_unplanned`: published
    answers with another prompt, seed or split than the rows determine. `agreements`: (published, recomputed)
    by method. `num_kept_out`: (published, recomputed).
    """

    methods: tuple[MethodDifference, ...]
    rows: Mapping[int, tuple[int, int]] | None = None
    num_unplanned: int | None = None
    draws: Draws | None = None
    agreements: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    num_kept_out: tuple[int, int] | None = None
    unchecked: str | None = None


def distance_tolerance(method: str) -> float:
    """Largest distance of a contribution's vector from the recomputed one by `method`."""
    return ERROR_DISTANCE if method == ERROR_METHOD else DISTANCE


def index_checks(found: Recomputed) -> list[Check]:
    """One check for each part of the index and of the answers that its maps are fitted on."""
    return [
        *_rows(found),
        *map(_method, found.methods),
        *_answers(found),
        *_agreements(found),
        *_unchecked(found),
    ]


def _rows(found: Recomputed) -> Iterator[Check]:
    if found.rows is None:
        return
    if not found.rows:
        yield Check("rows", is_right=True, message="contributions and numbers of trained rows are equal")
        return
    position, (published, ours) = next(iter(found.rows.items()))
    text = f"position {position} has {ours} trained rows, the index states {published}"
    yield Check("rows", is_right=False, message=f"{text} ({len(found.rows)} positions differ)")


def _method(each: MethodDifference) -> Check:
    tolerance = distance_tolerance(each.method)
    is_right = each.distance <= tolerance and each.moved_ppm <= MOVED_PPM
    if not each.distance:
        return Check(each.method, is_right=True, message="equal to the recomputed one")
    text = (
        f"pays {_percent(each.moved_ppm)} of an answer's pool to others than the recomputed one (tolerance "
        f"{_percent(MOVED_PPM)}; at most {_percent(each.most_moved_ppm)}, {each.num_answers} answers); its "
        f"vectors differ by up to {each.distance:.2g} of their norm (tolerance {tolerance:g})"
    )
    return Check(each.method, is_right, text)


def _answers(found: Recomputed) -> Iterator[Check]:
    if found.num_unplanned is not None:
        text = "prompts, seeds and split are those that the rows determine"
        if found.num_unplanned:
            text = f"{found.num_unplanned} answers have another prompt, seed or split than the rows determine"
        yield Check("prompts", not found.num_unplanned, text)
    if found.draws is not None:
        yield _draws(found.draws)


def _draws(draws: Draws) -> Check:
    is_right = draws.mean_miss <= MEAN_MISS and draws.largest_miss <= MISS and not draws.num_cut
    text = (
        f"of {draws.num_tokens} tokens of {draws.num_answers} answers, {draws.num_missed} are not drawn "
        f"again, missed by a probability of {draws.mean_miss:.2g} on average (tolerance {MEAN_MISS:g}) and "
        f"at most {draws.largest_miss:.2g} (tolerance {MISS:g})"
    )
    if draws.num_cut:
        text += f"; {draws.num_cut} answers neither end nor reach the limit"
    return Check("answers", is_right, text)


def _agreements(found: Recomputed) -> Iterator[Check]:
    for method, (published, ours) in found.agreements.items():
        name = f"agreement of {method}"
        text = f"the index states {_figure(published)}, recomputed it is {_figure(ours)}"
        is_right = published == ours
        if published is not None and ours is not None:
            is_right = abs(published - ours) <= AGREEMENT
            text += f" (tolerance {AGREEMENT:g})"
        yield Check(name, is_right, text)
    if found.num_kept_out is not None:
        published_count, count = found.num_kept_out
        text = f"the index states {published_count} answers that were kept out, there are {count}"
        yield Check("kept out", published_count == count, text)


def _unchecked(found: Recomputed) -> Iterator[Check]:
    if found.unchecked is not None:
        yield Check("index", is_right=None, message=f"cannot be checked: {found.unchecked}")


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _percent(ppm: int) -> str:
    return f"{100 * ppm / PPM:.2g} %"
