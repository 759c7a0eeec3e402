"""Tables of `docs/attribution.md` that compare methods with retrainings."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from backend.domain.attribution import DISTILLED_METHOD, GRADIENT_METHOD, ROWS_METHOD
from benchmarks.attribution.measure import CONSTANT
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Report = Mapping[str, Any]

CHART = "images/attribution-{}.svg"
"""Of a study, by its name."""
NEW_KINDS = ("generated", "held-out")
"""Kinds of answers that no run was trained on."""
TARGETS = (0.72, 0.50, 0.10, 0.90)
"""Of the project, for the rows of `targets`."""


def figures(report: Report) -> str:
    return "\n".join([_costs(report), "", *(line for study in report["studies"] for line in _study(study))])


def _costs(report: Report) -> str:
    if "serving_cost_paid" not in report:
        return "What serving loses to attribution has not been measured yet; run `make bench-attribution`."
    return (
        f"Serving loses {report['serving_cost_paid']:.1%} of its throughput to the vectors that "
        f"`{report['paid_method']}` reads. The gradients of `{report['stage_method']}` on the same processor "
        f"would take {report['serving_cost_stage']:.0%} of it. Both count the engine's processor time alone; "
        "[benchmarks.md](benchmarks.md#cost-of-receipts) has what attribution costs with the API and its "
        "receipts. "
        f"{report['machine']['cpu']}, "
        f"{report['machine']['system']}."
    )


def targets(report: Report) -> str:
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
    rows = [
        [text, *(f"{each:.2f}" for each in values), f"**{statistics.median(values):.3f}**", f"{target:.2f}"]
        for (text, values), target in zip(found.items(), TARGETS, strict=True)
    ]
    return "\n".join([*table(["", *(s["name"] for s in studies), "median", "target"], rows), ""])


def control(report: Report) -> str:
    """What is paid by a control that ignores the answer, next to the paid method, and where it is as good."""
    studies, paid = report["studies"], report["paid_method"]
    rows, reached = [], []
    for kind in NEW_KINDS:
        for method in (paid, CONSTANT, ROWS_METHOD):
            cells = (f"{study['methods'][method]['as_paid'][kind]:.2f}" for study in studies)
            rows.append([f"{_name(studies[0], method)} as paid, {kind}", *cells])
        reached += [
            f"{study['name']} ({kind})"
            for study in studies
            if study["methods"][CONSTANT]["as_paid"][kind] >= study["methods"][paid]["as_paid"][kind]
        ]
    text = (
        f"**The control is as good as `{paid}` or better on {', '.join(reached)}**: there the method is not "
        "shown to tell one answer from another."
        if reached
        else f"The control is worse than `{paid}` on all of them."
    )
    return "\n".join([*table(["", *(study["name"] for study in studies)], rows), "", text, ""])


def differences(report: Report) -> str:
    """Paired differences between methods on answers that no run was trained on, by study."""
    studies = report["studies"]
    rows = []
    for place, pair in enumerate(studies[0]["differences"]):
        names = [_name(studies[0], pair[part]) for part in ("method", "over")]
        for kind in NEW_KINDS:
            found = [study["differences"][place]["by_kind"][kind] for study in studies]
            cells = (f"{each['lds']:+.2f} ({_interval(each['interval'])})" for each in found)
            rows.append([f"{' over '.join(names)}, {kind}", *cells])
    return "\n".join([*table(["", *(study["name"] for study in studies)], rows), ""])


def _name(study: Report, method: str) -> str:
    """As code if receipts name the method."""
    return method if study["methods"][method]["is_variant"] else f"`{method}`"


def _part_paid(study: Report, method: str, kind: str) -> float:
    """Of the ceiling, as paid."""
    return float(study["methods"][method]["as_paid"][kind] / study["ceiling"][kind])


def _part(study: Report, method: str, kind: str) -> float:
    """Of the ceiling, by the scores."""
    return float(study["methods"][method]["by_kind"][kind]["lds"] / study["ceiling"][kind])


def small(report: Report) -> str:
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
        *table(
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
            [_row(study, name) for name, _ in ranked(study)],
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


def in_sample(report: Report) -> str:
    studies = report["studies"]
    names = [name for name, each in ranked(studies[0]) if not each["is_variant"]]
    rows = [
        [f"`{name}`", *(f"{s['methods'][name]['by_kind']['in-sample']['lds']:.2f}" for s in studies)]
        for name in names
    ]
    tops = [s["ceiling"].get("in-sample") for s in studies]
    rows.append(["ceiling", *("" if top is None else f"{top:.2f}" for top in tops)])
    return "\n".join([*table(["method", *(s["name"] for s in studies)], rows), ""])


def packages(report: Report) -> str:
    """Methods of a package next to the product's, by study."""
    lines = []
    ours = {study["name"]: study for study in report["studies"]}
    for name, methods in report["packages"].items():
        rows = [
            [
                method,
                *(_with_interval(each["by_kind"][kind]["scored"]) for kind in NEW_KINDS),
                *(f"{each['by_kind'][kind]['paid']['lds']:.2f}" for kind in NEW_KINDS),
                f"{each['seconds_per_answer']:.2f} s",
                str(each["num_halves"]),
            ]
            for method, each in methods.items()
        ]
        for method in (GRADIENT_METHOD, DISTILLED_METHOD):
            each = ours[name]["methods"][method]
            figures = (_with_interval(each["by_kind"][kind]) for kind in NEW_KINDS)
            paid = (f"{each['as_paid'][kind]:.2f}" for kind in NEW_KINDS)
            rows.append([f"`{method}`", *figures, *paid, "", str(ours[name]["num_halves"])])
        head = [
            name,
            "generated",
            "held-out",
            "as paid, generated",
            "as paid, held-out",
            "processor time",
            "halves",
        ]
        lines += [*table(head, rows), ""]
    return "\n".join(lines)


def _with_interval(figure: Report) -> str:
    return f"{figure['lds']:.2f} ({_interval(figure['interval'])})"


def ranked(study: Report) -> list[tuple[str, Report]]:
    """The methods by rising LDS on generated answers."""
    return sorted(study["methods"].items(), key=lambda item: float(item[1]["by_kind"]["generated"]["lds"]))


def _interval(bounds: Sequence[float]) -> str:
    low, high = bounds
    return f"{low:.2f} to {high:.2f}"
