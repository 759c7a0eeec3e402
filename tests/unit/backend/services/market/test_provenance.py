from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.hashing import licence_word
from backend.domain.ids import DatanetId, SnapshotId
from backend.domain.registries import Contribution
from backend.services.market.provenance import Provenance, ProvenanceLookup
from tests.support.fakes import NOW
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    return ScriptedInstallation(tmp_path, sqlite_database)


def record(installation: ScriptedInstallation, *licences: str) -> None:
    """The contributions of the snapshot's datanet; it accepts the first, the second and the fourth."""
    for index, licence in enumerate(licences):
        content, folder, word = some_hash(f"{index}"), some_hash("folder"), licence_word(licence)
        made = Contribution(
            DatanetId(7), index, some_account("x"), content, folder, word, 1, True, 0, 1, index
        )
        installation.view.recorded.append(made)


def provenances(installation: ScriptedInstallation) -> dict[str, Provenance]:
    """Provenance by adapter name."""
    models = installation.catalogue.models()
    found = ProvenanceLookup(installation.db).of(models)
    return {model.name.partition("@")[0].rpartition("/")[2]: found[model.id] for model in models}


def test_a_version_is_there_since_its_registration_and_the_base_model_was_before(
    installation: ScriptedInstallation,
) -> None:
    found = provenances(installation)
    assert found["tiny"] == Provenance(0, None)
    assert found["docs"].registered_at == int(NOW.timestamp()) + 1  # the second that was registered


@pytest.mark.parametrize(
    ("licences", "together"),
    [
        (["MIT", "MIT", "GPL-3.0-only", "MIT"], "MIT"),
        (["MIT", "Apache-2.0 OR MIT", "0BSD", "CC-BY-4.0"], "(Apache-2.0 OR MIT) AND CC-BY-4.0 AND MIT"),
        (["MIT", "MIT", "MIT", "Apache-2.0 WITH LLVM-exception AND MIT"], None),  # the chain has its hash
        (["MIT", "MIT", "MIT", "MIT) OR (0BSD"], None),
        (["MIT", "MIT", "MIT", "my own"], None),
        (["MIT", "MIT", "MIT", "\x01"], None),
        (["MIT", "MIT", "MIT", ""], None),
        ([], None),
    ],
)
def test_it_has_the_licences_of_its_accepted_contributions(
    installation: ScriptedInstallation, licences: list[str], together: str | None
) -> None:
    record(installation, *licences)
    assert provenances(installation)["docs"].licence == together


def test_several_snapshots_stand_together_and_are_looked_at_once(installation: ScriptedInstallation) -> None:
    record(installation, "MIT", "MIT", "MIT", "MIT")
    other = SnapshotId(some_hash("other snapshot"))
    snapshot = installation.view.snapshots[SnapshotId(some_hash("snapshot"))]
    installation.view.snapshots[other] = replace(snapshot, datanet=DatanetId(8), accepted=(0,))
    installation.view.recorded.append(
        replace(installation.view.recorded[0], datanet=DatanetId(8), licence=licence_word("0BSD"))
    )
    docs = installation.catalogue.resolve(installation.version).record
    version = installation.view.register(replace(docs, snapshots=(snapshot.id, other)))
    models = [installation.catalogue.resolve(version)]
    found = ProvenanceLookup(installation.db)
    assert found.of(models)[version].licence == "0BSD AND MIT"
    installation.view.recorded.clear()
    assert found.of(models)[version].licence == "0BSD AND MIT"
