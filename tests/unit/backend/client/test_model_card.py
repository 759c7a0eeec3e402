"""Cards of exported adapters, read by the hub's own library."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from backend.client.model_card import render_card
from backend.domain.hashing import version_id
from backend.domain.ids import SnapshotId
from backend.domain.receipt import VersionRecord
from tests.support.market import some_account, some_hash

RECORD = VersionRecord(
    creator=some_account("creator"),
    name="poems",
    adapter_digest=some_hash("adapter"),
    cid_digest=some_hash("folder"),
    base_model=some_hash("base"),
    snapshots=(SnapshotId(some_hash("snapshot")),),
    prompt_price=1,
    completion_price=2,
    operator_ppm=0,
    creator_ppm=0,
)
MODEL: dict[str, Any] = {
    "licence": "MIT",
    "card": {"title": "Sonnets", "summary": "s", "tags": ["verse", "lora"], "text": "# Sonnets\n\nFourteen."},
    "metrics": {"eval_loss_base": 3.0, "eval_loss_adapter": 1.25},
    "live_agreement": {"mean": 0.625, "num_answers": 40, "num_missing": 2},
    "lineage": {"parents": [some_hash("parent")], "num_contributions": 3, "licences": ["0BSD", "MIT"]},
}
BASE = "owner/tiny"


def card(record: VersionRecord = RECORD, base: str = BASE, **changes: Any) -> ModelCard:
    text = render_card(record, version_id(record), MODEL | changes, base)
    return ModelCard(text)


def test_hubs_read_the_front_matter() -> None:
    data = card().data
    assert (data.base_model, data.license, data.library_name) == (BASE, "mit", "peft")
    assert data.tags == ["lora", "loraledger", "verse"]


def test_the_text_has_ids_lineage_licences_and_measurements() -> None:
    text = card().text
    for expected in (
        version_id(RECORD),
        RECORD.adapter_digest,
        "bafybei",
        RECORD.snapshots[0],
        some_hash("parent"),
        "3 contributions, under the licences `0BSD`, `MIT`",
        "| `eval_loss_adapter` | 1.25 |",
        "agree by 0.62 (Spearman),\nthe mean over 40 answers",
        "Fourteen.",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("licence", "name"),
    [
        ("MIT AND Apache-2.0", "MIT AND Apache-2.0"),
        ("GPL-3.0-only", "GPL-3.0-only"),
        (None, "unknown"),
    ],
)
def test_a_licence_that_hubs_do_not_list_is_named(licence: str | None, name: str) -> None:
    data = card(licence=licence).data
    assert (data.license, data.license_name) == ("other", name)


def test_an_adapter_without_snapshot_and_card_says_so() -> None:
    imported = replace(RECORD, snapshots=())
    lineage = {"parents": [], "num_contributions": 0, "licences": []}
    text = card(imported, card=None, metrics={}, lineage=lineage).text
    assert f"# {RECORD.creator}/poems" in text
    assert "trained elsewhere" in text
    assert "Measured" not in text


def test_hostile_texts_stay_values() -> None:
    hostile = 'x"\n---\nlicense: mit\n`| \x1b[2J\u202e'
    changed = {
        "card": {"title": "t", "summary": "", "tags": [hostile], "text": hostile},
        "lineage": {"parents": [hostile], "num_contributions": 1, "licences": [hostile]},
    }
    found = card(base=hostile, licence=hostile, **changed)
    assert found.data.license == "other"
    assert found.data.license_name == found.data.base_model == found.data.tags[-1]
    assert "\n---\n" not in found.data.base_model
    assert "\x1b" not in found.text
