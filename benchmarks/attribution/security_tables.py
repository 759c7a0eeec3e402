"""Tables of `docs/attribution.md` on attacks, and on indices that are computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.attribution import DISTILLED_METHOD, ERROR_METHOD, GRADIENT_METHOD
from backend.domain.attribution_checks import (
    AGREEMENT,
    MEAN_MISS,
    MISS,
    MOVED_PPM,
    distance_tolerance,
)
from backend.domain.money import PPM
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    Report = Mapping[str, Any]

GAME_METHODS = (DISTILLED_METHOD, GRADIENT_METHOD, ERROR_METHOD)
"""Methods that answers are paid by, which the attacks with retraining are reported of."""


def gaming(report: Report) -> str:
    gaming = report["gaming"]
    methods = list(gaming)
    games = sorted(gaming[methods[-1]], key=lambda game: -gaming[methods[-1]][game]["mean"])
    rows = [[game, *(_gain(gaming[name][game]) for name in methods)] for game in games]
    return "\n".join([*table(["attack", *(f"`{name}`" for name in methods)], rows), ""])


def games(report: Report) -> str:
    games = report["games"]
    attackers = ", ".join(f"{name} ({count} rows)" for name, count in games["attackers"].items())
    num_seeds = games["num_seeds"]
    noise = ", ".join(
        f"{100 * games['noise'][name]:.1f} points with `{name}`" for name in GAME_METHODS if games["noise"]
    )
    setup = (
        f"The study is {games['study']}. These contributors attack, or have their rows copied: {attackers}. "
        f"Adapters are trained with {num_seeds} {'seed' if num_seeds == 1 else 'seeds'}, and each gives "
        f"{games['num_answers']} answers."
    )
    if noise:
        setup += (
            " Added rows change the batches of training, which alone moves the share of a contributor that "
            f"does nothing: on average by {noise}. Smaller gains are noise."
        )
    rows = [
        [
            attack,
            str(each["num_games"]),
            "" if each["influence"] is None else f"{each['influence']:.1%}",
            *(_gain(each["gain"][name]) for name in GAME_METHODS),
            _admitted(each),
        ]
        for attack, each in sorted(games["attacks"].items(), key=_gain_of_paid)
    ]
    head = [
        "attack",
        "games",
        "influence",
        *(f"`{name}`" for name in GAME_METHODS),
        "added rows: refused, reported, passed",
    ]
    return "\n".join([setup, "", *table(head, rows), ""])


def uploads(report: Report) -> str:
    """How the check of uploads judges rows made of published answers, by study."""
    studies = report["uploads"]
    lengths = (f"{s['num_copied']} of {s['num_answers']}" for s in studies)
    rows = [
        ["answers long enough to be compared", *lengths],
        *(
            [f"refused: {change}", *(f"{s['found'][place][1] / s['num_copied']:.0%}" for s in studies)]
            for place, (change, _) in enumerate(studies[0]["found"])
        ),
        ["honest new rows refused", *(f"{s['num_honest_refused']} of {s['num_honest']}" for s in studies)],
        ["trained rows refused", *(f"{s['num_trained_refused']} of {s['num_trained']}" for s in studies)],
    ]
    return "\n".join([*table(["rows", *(s["study"] for s in studies)], rows), ""])


def _gain_of_paid(item: tuple[str, Report]) -> float:
    return -float(item[1]["gain"][DISTILLED_METHOD]["mean"])


def _admitted(each: Report) -> str:
    if not each["num_added"]:
        return ""
    rest = each["num_added"] - each["num_refused"] - each["num_near"]
    return f"{each['num_refused']}, {each['num_near']}, {rest}"


def _gain(each: Mapping[str, float]) -> str:
    mean, worst = (f"{100 * each[part]:+.1f}" for part in ("mean", "worst"))
    return mean if each["mean"] == each["worst"] else f"{mean} ({worst})"


def rounding(report: Report) -> str:
    """What another processor changes in an index, by study, and what a forger can move within tolerances."""
    studies = report["rounding"]
    first = next(iter(studies.values()))
    rows = []
    for place, each in enumerate(first["methods"]):
        found = [study["methods"][place] for study in studies.values()]
        moved = (f"{_percent(one['moved_ppm'])} ({_percent(one['most_moved_ppm'])})" for one in found)
        rows.append([f"`{each['method']}`: of the pool", *moved, _percent(MOVED_PPM)])
        distances = (f"{one['distance']:.2g}" for one in found)
        rows.append(
            [f"`{each['method']}`: of a vector's norm", *distances, f"{distance_tolerance(each['method']):g}"]
        )
    for method in first["agreements"]:
        pairs = (study["agreements"][method] for study in studies.values())
        rows.append([f"agreement of `{method}`", *(f"{a:.3f}, {b:.3f}" for a, b in pairs), f"{AGREEMENT:g}"])
    draws = [study["draws"] for study in studies.values()]
    rows += [
        ["tokens not drawn again", *(f"{each['num_missed']} of {each['num_tokens']}" for each in draws), ""],
        [
            "missed by a probability of",
            *(f"{each['mean_miss']:.2g} ({each['largest_miss']:.2g})" for each in draws),
            f"{MEAN_MISS:g} ({MISS:g})",
        ],
    ]
    for method in (DISTILLED_METHOD, GRADIENT_METHOD):
        forged = (_percent(study["forged"][method]) for study in studies.values())
        rows.append([f"`{method}`: a forger moves of another kind", *forged, ""])
    cpus = " and ".join(sorted({study["cpu"] for study in studies.values()}))
    return "\n".join([*table(["", *studies, "tolerance"], rows), "", f"{cpus}.", ""])


def _percent(ppm: int) -> str:
    return f"{100 * ppm / PPM:.2g} %"
