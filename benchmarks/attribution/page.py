"""Writes `docs/attribution.md` and its charts from the report of `python -m benchmarks.attribution`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.attribution import DISTILLED_METHOD, ERROR_METHOD, GRADIENT_METHOD
from backend.domain.attribution_checks import AGREEMENT, DISTANCE, MEAN_MISS, MISS, MOVED_PPM
from backend.domain.money import PPM
from benchmarks.attribution.chart import Interval, interval_chart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Report = Mapping[str, Any]

HERE = Path(__file__).parent
PAGE, KEPT, CHART = "attribution.md", "attribution.json", "images/attribution-{}.svg"
MISSING = "Not measured yet; run `make {}`."
GAME_METHODS = (DISTILLED_METHOD, GRADIENT_METHOD, ERROR_METHOD)
"""Methods that answers are paid by, which the attacks with retraining are reported of."""
NEW_KINDS = ("generated", "held-out")
"""Kinds of answers that no run was trained on."""
TARGETS = (0.72, 0.50, 0.10, 0.90)
"""Of the project, for the first rows of `_targets`."""


def write(folder: Path, report: Report | None) -> None:
    """Write the page to `folder`, and with a report also its charts and JSON. The page follows from the
    stored JSON, whose order of keys can differ from that of `report`.
    """
    (folder / CHART).parent.mkdir(parents=True, exist_ok=True)
    if report is not None:
        (folder / KEPT).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        report = read(folder) or {}
        for study in (*report.get("studies", []), *report.get("small_studies", [])):
            (folder / CHART.format(study["name"])).write_text(chart(study), encoding="utf-8")
    (folder / PAGE).write_text(page(report), encoding="utf-8")


def read(folder: Path) -> dict[str, Any] | None:
    """The report that `write` stored; None without one."""
    path = folder / KEPT
    found: dict[str, Any] | None = json.loads(path.read_bytes()) if path.exists() else None
    return found


def add(folder: Path, key: str, study: str, part: Report) -> dict[str, Any]:
    """Add `part` to what the report in `folder` has of a study under `key`, and return all of it. The report
    is read again, since other processes may have added to it.
    """
    report = read(folder) or {}
    studies = report.get(key, {})
    found = {**studies.get(study, {}), **part}
    write(folder, {**report, key: {**studies, study: found}})
    return found


def page(report: Report | None) -> str:
    """The page as Markdown; it says which figures are missing."""
    text = (HERE / "page.md").read_text(encoding="utf-8")
    for name, (key, target, write_part) in _WRITERS.items():
        is_measured = report is not None and report.get(key)
        part = write_part(report) if report is not None and is_measured else f"{MISSING.format(target)}\n"
        text = text.replace(f"<!-- {name} -->\n", part)
    return text


def chart(study: Report) -> str:
    """LDS of all methods on generated answers, and the ceiling, as SVG."""
    rows = [
        Interval(name, each["by_kind"]["generated"]["lds"], *each["by_kind"]["generated"]["interval"])
        for name, each in _ranked(study)
    ]
    title = f"{study['name']}: LDS on generated answers (95 % interval)"
    return interval_chart(title, rows, study["ceiling"].get("generated"))


def _figures(report: Report) -> str:
    return "\n".join([_costs(report), "", *(line for study in report["studies"] for line in _study(study))])


def _costs(report: Report) -> str:
    if "serving_cost_paid" not in report:
        return "What serving loses to attribution has not been measured yet; run `make bench-attribution`."
    return (
        f"Serving loses {report['serving_cost_paid']:.1%} of its throughput to the vectors that "
        f"`{report['paid_method']}` reads. The gradients of `{report['stage_method']}` on the same processor "
        f"would take {report['serving_cost_stage']:.0%} of it. {report['machine']['cpu']}, "
        f"{report['machine']['system']}."
    )


def _targets(report: Report) -> str:
    """What was reached of each target: by study, the median that the target is set for, and the target."""
    studies, paid, stage = report["studies"], report["paid_method"], report["stage_method"]
    if not all(study["ceiling"] for study in studies):
        return "The ceiling has not been measured.\n"
    found = {
        f"`{paid}` as paid, generated, of the ceiling": [_part_paid(s, paid, "generated") for s in studies],
        f"`{paid}` as paid, held-out, of the ceiling": [_part_paid(s, paid, "held-out") for s in studies],
        f"`{paid}` as paid, generated: lead over counting rows": [
            study["methods"][paid]["as_paid_detail"]["generated"]["lead"] for study in studies
        ],
        f"`{stage}`, generated, of the ceiling": [_part(s, stage, "generated") for s in studies],
    }
    variants = [each["method"] for each in studies[0].get("differences", ()) if each["over"] == stage]
    for name in variants:
        found[f"{name}, generated, of the ceiling"] = [_part(s, name, "generated") for s in studies]
    targets = [*(f"{target:.2f}" for target in TARGETS), *("" for _ in variants)]
    rows = [
        [text, *(f"{each:.2f}" for each in values), f"**{statistics.median(values):.3f}**", target]
        for (text, values), target in zip(found.items(), targets, strict=True)
    ]
    return "\n".join([*_table(["", *(s["name"] for s in studies), "median", "target"], rows), ""])


def _differences(report: Report) -> str:
    """Paired differences between methods on answers that no run was trained on, by study."""
    studies = report["studies"]
    if not all("differences" in study for study in studies):
        return f"{MISSING.format('bench-attribution')}\n"
    rows = []
    for place, pair in enumerate(studies[0]["differences"]):
        names = [_name(studies[0], pair[part]) for part in ("method", "over")]
        for kind in NEW_KINDS:
            found = [study["differences"][place]["by_kind"][kind] for study in studies]
            cells = (f"{each['lds']:+.2f} ({_interval(each['interval'])})" for each in found)
            rows.append([f"{' over '.join(names)}, {kind}", *cells])
    return "\n".join([*_table(["", *(study["name"] for study in studies)], rows), ""])


def _name(study: Report, method: str) -> str:
    """As code if receipts name the method."""
    return method if study["methods"][method]["is_variant"] else f"`{method}`"


def _part_paid(study: Report, method: str, kind: str) -> float:
    """Of the ceiling, as paid."""
    return float(study["methods"][method]["as_paid"][kind] / study["ceiling"][kind])


def _part(study: Report, method: str, kind: str) -> float:
    """Of the ceiling, by the scores."""
    return float(study["methods"][method]["by_kind"][kind]["lds"] / study["ceiling"][kind])


def _small(report: Report) -> str:
    lines = []
    for study in report["small_studies"]:
        lines += _study(study)[2:]
        if study["ceiling"]:
            lines += [_of_ceiling(study), ""]
    return "\n".join(lines)


def _of_ceiling(study: Report) -> str:
    parts = {
        f"`{DISTILLED_METHOD}` as paid": (_part_paid, DISTILLED_METHOD),
        f"`{GRADIENT_METHOD}`": (_part, GRADIENT_METHOD),
    }
    found = []
    for name, (of, method) in parts.items():
        reached = (f"{of(study, method, kind):.2f} on {kind} answers" for kind in NEW_KINDS)
        found.append(f"{name} reaches {' and '.join(reached)}")
    return f"Of the ceiling, {', '.join(found)}."


def _study(study: Report) -> list[str]:
    """The first two lines are its heading."""
    config, counts = study["config"], study["num_by_kind"]
    licences = ", ".join(sorted(set(study["contributors"].values())))
    setup = (
        f"{study['base_model']}, rank {config['rank']}, {config['epochs']:g} epochs; "
        f"{study['num_rows']} rows of "
        f"{len(study['contributors'])} contributors ({', '.join(study['contributors'])}; {licences}); "
        f"{study['num_halves']} retrainings on random halves and {study['num_repeats']} repeats; "
        f"{counts['generated']} generated answers, {study['num_sampled']} of them sampled, and "
        f"{counts['held-out']} held-out rows."
    )
    return [
        f"### Study: {study['name']}",
        "",
        setup,
        "",
        f"![LDS of each method]({CHART.format(study['name'])})",
        "",
        *_table(
            [
                "method",
                "LDS, generated",
                "lead over counting rows",
                "as paid",
                "lead as paid",
                "LDS, held-out",
                "as paid, held-out",
                "throughput lost",
                "about",
            ],
            [_row(study, name) for name, _ in _ranked(study)],
        ),
        "",
        _ceiling(study),
        "",
    ]


def _row(study: Report, name: str) -> list[str]:
    each = study["methods"][name]
    generated, paid = each["by_kind"]["generated"], each["as_paid_detail"]["generated"]
    return [
        _name(study, name),
        f"**{generated['lds']:.2f}** ({_interval(generated['interval'])})",
        f"{generated['lead']:+.2f} ({_interval(generated['lead_interval'])})",
        f"{paid['lds']:.2f}",
        f"{paid['lead']:+.2f} ({_interval(paid['lead_interval'])})",
        f"{each['by_kind']['held-out']['lds']:.2f} ({_interval(each['by_kind']['held-out']['interval'])})",
        f"{each['as_paid']['held-out']:.2f}",
        "" if each.get("cost") is None else f"{each['cost']:.0%}",
        f"{each['aboutness']:.0%}",
    ]


def _ceiling(study: Report) -> str:
    if not study["ceiling"]:
        return "The ceiling has not been measured."
    parts = [
        f"**{study['ceiling'][kind]:.2f}** ({_interval(study['ceiling_interval'][kind])}) on {kind} answers"
        for kind in NEW_KINDS
    ]
    return f"Ceiling: two seeds agree at {' and '.join(parts)}, over {study['num_repeats']} halves."


def _in_sample(report: Report) -> str:
    studies = report["studies"]
    names = [name for name, each in _ranked(studies[0]) if not each["is_variant"]]
    rows = [
        [f"`{name}`", *(f"{s['methods'][name]['by_kind']['in-sample']['lds']:.2f}" for s in studies)]
        for name in names
    ]
    tops = [s["ceiling"].get("in-sample") for s in studies]
    rows.append(["ceiling", *("" if top is None else f"{top:.2f}" for top in tops)])
    return "\n".join([*_table(["method", *(s["name"] for s in studies)], rows), ""])


def _packages(report: Report) -> str:
    """Methods of packages next to the product's, by study."""
    lines = []
    ours = {study["name"]: study for study in report["studies"]}
    for name, methods in report["packages"].items():
        rows = [
            [
                method,
                *(f"{each['by_kind'][kind]['scored']['lds']:.2f}" for kind in NEW_KINDS),
                *(f"{each['by_kind'][kind]['paid']['lds']:.2f}" for kind in NEW_KINDS),
                f"{each['seconds_per_answer']:.2f} s",
                str(each["num_halves"]),
            ]
            for method, each in methods.items()
        ]
        for method in (GRADIENT_METHOD, DISTILLED_METHOD):
            each = ours[name]["methods"][method]
            figures = (each["by_kind"][kind]["lds"] for kind in NEW_KINDS)
            paid = (each["as_paid"][kind] for kind in NEW_KINDS)
            cells = (f"{value:.2f}" for value in (*figures, *paid))
            rows.append([f"`{method}`", *cells, "", str(ours[name]["num_halves"])])
        head = [
            name,
            "generated",
            "held-out",
            "as paid, generated",
            "as paid, held-out",
            "processor time",
            "halves",
        ]
        lines += [*_table(head, rows), ""]
    return "\n".join(lines)


def _gaming(report: Report) -> str:
    gaming = report["gaming"]
    methods = list(gaming)
    games = sorted(gaming[methods[-1]], key=lambda game: -gaming[methods[-1]][game]["mean"])
    rows = [[game, *(_gain(gaming[name][game]) for name in methods)] for game in games]
    return "\n".join([*_table(["attack", *(f"`{name}`" for name in methods)], rows), ""])


def _games(report: Report) -> str:
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
    return "\n".join([setup, "", *_table(head, rows), ""])


def _uploads(report: Report) -> str:
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
    return "\n".join([*_table(["rows", *(s["study"] for s in studies)], rows), ""])


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


def _rounding(report: Report) -> str:
    """What fp32 instead of bf16 changes in an index, by study, next to the tolerances."""
    studies = report["rounding"]
    first = next(iter(studies.values()))
    rows = []
    for place, each in enumerate(first["methods"]):
        found = [study["methods"][place] for study in studies.values()]
        moved = (f"{_percent(one['moved_ppm'])} ({_percent(one['most_moved_ppm'])})" for one in found)
        rows.append([f"`{each['method']}`: of the pool", *moved, _percent(MOVED_PPM)])
        distances = (f"{one['distance']:.3f}" for one in found)
        rows.append([f"`{each['method']}`: of a vector's norm", *distances, f"{DISTANCE:g}"])
    for method in first["agreements"]:
        pairs = (study["agreements"][method] for study in studies.values())
        rows.append([f"agreement of `{method}`", *(f"{a:.3f}, {b:.3f}" for a, b in pairs), f"{AGREEMENT:g}"])
    draws = [study["draws"] for study in studies.values()]
    rows += [
        ["tokens not drawn again", *(f"{each['num_missed']} of {each['num_tokens']}" for each in draws), ""],
        [
            "missed by a probability of",
            *(f"{each['mean_miss']:.4f} ({each['largest_miss']:.3f})" for each in draws),
            f"{MEAN_MISS:g} ({MISS:g})",
        ],
    ]
    cpus = " and ".join(sorted({study["cpu"] for study in studies.values()}))
    return "\n".join([*_table(["", *studies, "tolerance"], rows), "", f"{cpus}.", ""])


def _percent(ppm: int) -> str:
    return f"{100 * ppm / PPM:.1f} %"


_WRITERS: Mapping[str, tuple[str, str, Callable[[Report], str]]] = {
    "figures": ("studies", "bench-attribution", _figures),
    "targets": ("studies", "bench-attribution", _targets),
    "differences": ("studies", "bench-attribution", _differences),
    "small": ("small_studies", "bench-attribution-gemma", _small),
    "in-sample": ("studies", "bench-attribution", _in_sample),
    "packages": ("packages", "bench-attribution-packages", _packages),
    "gaming": ("gaming", "bench-attribution", _gaming),
    "games": ("games", "bench-attribution-games", _games),
    "uploads": ("uploads", "bench-attribution-games", _uploads),
    "rounding": ("rounding", "bench-attribution-rounding", _rounding),
}
"""By the mark in the template: (key of the report, target of make that measures it, writer)."""


def _ranked(study: Report) -> list[tuple[str, Report]]:
    """The methods by rising LDS on generated answers."""
    return sorted(study["methods"].items(), key=lambda item: float(item[1]["by_kind"]["generated"]["lds"]))


def _interval(bounds: Sequence[float]) -> str:
    low, high = bounds
    return f"{low:.2f} to {high:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
