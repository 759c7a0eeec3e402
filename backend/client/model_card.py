"""Renders the model card of an exported adapter, with the front matter that model hubs read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from backend.domain.content import cid_of
from backend.domain.texts import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backend.domain.ids import VersionId
    from backend.domain.receipt import VersionRecord

OWN_TAGS = ("lora", "loraledger")
HUB_LICENCES = frozenset(
    {
        *("afl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear"),
        *("bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0"),
        *("cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0"),
        *("cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "ecl-2.0", "epl-1.0"),
        *(
            "epl-2.0",
            "eupl-1.1",
            "eupl-1.2",
            "isc",
            "lppl-1.3c",
            "mit",
            "mpl-2.0",
            "ms-pl",
            "ncsa",
            "ofl-1.1",
        ),
        *("osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl", "zlib"),
    }
)
"""Identifiers of hubs that are SPDX's in lower case."""


def render_card(record: VersionRecord, version: VersionId, model: Mapping[str, Any], base: str) -> str:
    """Markdown. `model`: of the API, whose texts are untrusted; `base`: name of the base model."""
    name, card = f"{record.creator}/{record.name}", model["card"] or {"title": "", "tags": [], "text": ""}
    facts = (
        ("version", version),
        ("adapter digest", record.adapter_digest),
        ("published folder", cid_of(record.cid_digest)),
        ("base model", f"{_code(base)}, sha-256 `{record.base_model}`"),
        ("creator", record.creator),
    )
    lines = [
        *_front_matter(base, model["licence"], [*OWN_TAGS, *card["tags"]]),
        f"# {card['title'] or name}",
        "",
        f"A LoRA adapter, registered as `{name}`. The digest is over `adapter_config.json` and",
        "`adapter_model.safetensors`; the version is the hash of its record on the chain.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {label} | {value if '`' in value else _code(value)} |" for label, value in facts),
        "",
        *_lineage(record, model),
        *_metrics(model["metrics"]),
        *_live_agreement(model["live_agreement"]),
        *(["## The card of the published folder", "", card["text"], ""] if card["text"] else []),
    ]
    return "\n".join(printable(line) for line in lines)


def _front_matter(base: str, licence: str | None, tags: list[str]) -> Iterator[str]:
    """YAML, of which JSON's strings are a part."""
    yield "---"
    yield f"base_model: {_quoted(base)}"
    yield "library_name: peft"
    known = (licence or "").lower()
    if known in HUB_LICENCES:
        yield f"license: {known}"
    else:
        yield "license: other"
        yield f"license_name: {_quoted(licence or 'unknown')}"
    yield "tags:"
    yield from (f"- {_quoted(tag)}" for tag in dict.fromkeys(tags))
    yield "---"
    yield ""


def _lineage(record: VersionRecord, model: Mapping[str, Any]) -> Iterator[str]:
    lineage = model["lineage"]
    yield "## Made from"
    yield ""
    if not record.snapshots:
        yield "- no snapshot: it was trained elsewhere, on rows that cannot be proved"
    yield from (f"- snapshot `{snapshot}`" for snapshot in record.snapshots)
    yield from (f"- adapter {_code(parent)}" for parent in lineage["parents"] or ())
    if record.snapshots:
        licences = ", ".join(map(_code, lineage["licences"])) or "not stated"
        yield f"- {int(lineage['num_contributions'])} contributions, under the licences {licences}"
    yield f"- licence of the adapter: {_code(model['licence'] or 'unknown')}"
    yield ""


def _metrics(metrics: Mapping[str, Any]) -> Iterator[str]:
    if metrics:
        yield "## Measured by the operator"
        yield ""
        yield "Losses are means in nats per answer token."
        yield ""
        yield "| | |"
        yield "| --- | --- |"
        yield from (f"| {_code(name)} | {float(value):.6g} |" for name, value in sorted(metrics.items()))
        yield ""


def _live_agreement(live: Mapping[str, Any] | None) -> Iterator[str]:
    if live and live["mean"] is not None:
        yield "## Attribution of served answers"
        yield ""
        yield f"The operator states that attribution and gradient agree by {live['mean']:.2f} (Spearman),"
        yield f"the mean over {int(live['num_answers'])} answers that later blocks of the chain chose;"
        yield f"{int(live['num_missing'])} of those chosen are missing."
        yield ""


def _code(text: object) -> str:
    """Text that is not read as Markdown."""
    return "`" + str(text).replace("`", "'").replace("|", "/").replace("\n", " ") + "`"


def _quoted(text: str) -> str:
    return json.dumps(printable(text).replace("\n", " "), ensure_ascii=False)
