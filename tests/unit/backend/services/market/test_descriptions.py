"""What passes describe, on the services of a scripted installation."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save

from backend.domain.attribution import INDEX_FILE
from backend.domain.catalogue import Agreement
from backend.domain.content import ContentCorrupt, cid_digest
from backend.domain.days import DAY_SECONDS
from backend.domain.errors import Unavailable
from backend.domain.hashing import licence_word, receipt_id
from backend.domain.ids import DatanetId, SnapshotId
from backend.domain.registries import Contribution, Datanet
from backend.domain.serving import NewReceipt
from backend.domain.training import (
    ImportedAdapter,
    JobState,
    Lease,
    TrainingConfig,
    TrainingJob,
    TrainingResult,
)
from backend.services.market.catalogue import Search
from backend.services.market.descriptions import CARD_RETRY, COUNT_AFTER_SECONDS
from tests.support.fakes import NOW
from tests.support.market import Market, some_account, some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import VersionId
    from backend.services.market.catalogue import ListedModel

METRICS = {"eval_loss_base": 3.0, "eval_loss_adapter": 1.75, "general_loss_base": 2.0}


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


def described(installation: ScriptedInstallation, version: VersionId | None = None) -> ListedModel:
    installation.descriptions.refresh()
    return installation.catalogue.describe(installation.catalogue.resolve(version or installation.version))


def succeeded(installation: ScriptedInstallation, **changes: Any) -> TrainingJob:
    """A job that made the scripted adapter."""
    docs = installation.catalogue.record(installation.version)
    job = TrainingJob(
        id="job",
        creator=docs.creator,
        snapshot_id=docs.snapshots[0],
        config=TrainingConfig(),
        state=JobState.SUCCEEDED,
        created_at=NOW,
        lease=Lease(None, NOW),
        result=TrainingResult(docs.adapter_digest, docs.base_model, METRICS),
    )
    job = replace(job, **changes)
    with installation.begin() as tx:
        tx.training.add(job)
    return job


def test_registration_times_are_known_before_a_description(installation: ScriptedInstallation) -> None:
    docs = installation.catalogue.describe(installation.catalogue.resolve(installation.version))
    assert docs.registered_at == int(NOW.timestamp()) + 1
    assert (docs.description.licence, docs.description.parents) == (None, None)


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
def test_the_licence_is_that_of_the_accepted_contributions_together(
    installation: ScriptedInstallation, licences: list[str], together: str | None
) -> None:
    record(installation, *licences)
    assert described(installation).description.licence == together


def test_the_lineage_counts_accepted_contributions_of_all_snapshots(
    installation: ScriptedInstallation,
) -> None:
    record(installation, "MIT", "MIT", "MIT", "Apache-2.0")
    other = SnapshotId(some_hash("other snapshot"))
    snapshot = installation.view.snapshots[SnapshotId(some_hash("snapshot"))]
    installation.view.snapshots[other] = replace(snapshot, id=other, datanet=DatanetId(8), accepted=(0,))
    installation.view.recorded.append(
        replace(installation.view.recorded[0], datanet=DatanetId(8), licence=licence_word("0BSD"))
    )
    docs = installation.catalogue.record(installation.version)
    both = installation.view.register(replace(docs, snapshots=(snapshot.id, other)))
    found = described(installation, both).description
    assert (found.num_contributions, found.licences) == (4, ("0BSD", "Apache-2.0", "MIT"))
    assert found.licence == "0BSD AND Apache-2.0 AND MIT"


def test_measurements_and_parents_are_those_of_the_job_with_these_weights(
    installation: ScriptedInstallation,
) -> None:
    parent: Any = some_hash("parent")
    succeeded(installation, config=TrainingConfig(parent=parent))
    docs = installation.catalogue.record(installation.version)
    copied = installation.view.register(replace(docs, creator=some_account("copier")))
    for version in (installation.version, copied):
        found = described(installation, version).description
        assert (found.metrics, found.parents, found.quality) == (METRICS, (parent,), 1.25)


def test_only_the_importer_states_a_licence(installation: ScriptedInstallation) -> None:
    job = succeeded(installation, imported=ImportedAdapter("0BSD", {}))
    docs = replace(installation.catalogue.record(installation.version), name="mine", snapshots=())
    mine = installation.view.register(docs)
    copied = installation.view.register(replace(docs, creator=some_account("copier")))
    assert described(installation, mine).description.licence == "0BSD"
    assert described(installation, mine).description.parents == ()
    assert described(installation, copied).description.licence is None
    assert job.creator == docs.creator


def published(installation: ScriptedInstallation, files: dict[str, bytes]) -> VersionId:
    cid = installation.blobs.add_folder(files)
    docs = installation.catalogue.record(installation.version)
    return installation.view.register(replace(docs, name="carded", cid_digest=cid_digest(cid)))


def test_a_card_is_read_and_searched(installation: ScriptedInstallation) -> None:
    installation.view.datanet_list.append(
        Datanet(DatanetId(7), some_account("x"), "poetry", some_hash("d"), 4)
    )
    text = b"---\ntags: [lora, Verse]\n---\n# Sonnets\n\nAnswers in Fourteen lines.\n"
    version = published(installation, {"README.md": text})
    card = described(installation, version).description.card
    assert card is not None
    assert (card.title, card.summary, card.tags) == (
        "Sonnets",
        "Answers in Fourteen lines.",
        ("lora", "Verse"),
    )
    for words in ("sonnets", "VERSE carded", "fourteen poetry", ""):
        assert version in [one.model.id for one in installation.catalogue.find(Search(text=words))]
    for words in ("prose", "%", "sonnets prose", "_"):
        assert version not in [one.model.id for one in installation.catalogue.find(Search(text=words))]


def test_agreements_are_those_that_the_folder_states(installation: ScriptedInstallation) -> None:
    stated = {"methods": "distilled-1", "distilled_agreement": "0.5", "num_kept_out": "12"}
    index = save({"rows": np.ones(1, dtype=np.int64)}, stated)
    version = published(installation, {"README.md": b"# There", INDEX_FILE: index})
    assert described(installation, version).description.agreement == Agreement({"distilled-1": 0.5}, 12)
    with installation.db.read() as tx:
        assert tx.catalogue.agreement(version) == Agreement({"distilled-1": 0.5}, 12)
        assert tx.catalogue.agreement(installation.version) is None
    before = published(installation, {"README.md": b"# Before", INDEX_FILE: b"no tensors"})
    assert described(installation, before).description.agreement is None


def test_a_folder_elsewhere_is_looked_for_again(installation: ScriptedInstallation) -> None:
    assert described(installation).description.card is None
    files = {"README.md": b"# Later"}
    docs = installation.catalogue.record(installation.version)
    cid = installation.blobs.folder_cid(files)
    version = installation.view.register(replace(docs, name="later", cid_digest=cid_digest(cid)))
    assert described(installation, version).description.card is None
    installation.blobs.add_folder(files)
    assert described(installation, version).description.card is None
    installation.clock.pass_seconds(CARD_RETRY.total_seconds())
    card = described(installation, version).description.card
    assert card is not None
    assert card.title == "Later"


@pytest.mark.parametrize(
    "files", [{"other": b"x"}, {"README.md": b"x" * (64 << 10) + b"x"}, {"README.md": b""}]
)
def test_a_folder_without_a_readable_card_has_an_empty_one(
    installation: ScriptedInstallation, files: dict[str, bytes]
) -> None:
    card = described(installation, published(installation, files)).description.card
    assert card is not None
    assert (card.title, card.text) == ("", "")


def test_a_broken_store_delays_a_card_and_corrupt_content_ends_the_search(
    installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = published(installation, {"README.md": b"# There"})

    def fail(error: Exception) -> None:
        def names(_cid: object) -> dict[str, int]:
            raise error

        monkeypatch.setattr(installation.blobs, "names", names)

    fail(Unavailable("the daemon is away"))
    assert described(installation, version).description.card is None
    fail(ContentCorrupt("no UnixFS"))
    installation.clock.pass_seconds(CARD_RETRY.total_seconds())
    card = described(installation, version).description.card
    assert card is not None
    assert card.title == ""


def serve(installation: ScriptedInstallation, market: Market, at: int) -> None:
    signed = market.serve()
    part = replace(signed.slices[0], version_id=installation.version)
    signed = replace(signed, slices=(part,), receipt=replace(signed.receipt, served_at=at))
    operator, key, salt = some_account("o"), some_account("k"), some_hash("salt")
    with installation.begin() as tx:
        new = NewReceipt(receipt_id(signed.receipt), operator, some_account("p"), signed, key, salt, None)
        tx.receipts.add(new)


def test_answers_of_seven_days_are_counted_once(installation: ScriptedInstallation) -> None:
    market, now = Market(), int(NOW.timestamp())
    for age in (8 * DAY_SECONDS, 6 * DAY_SECONDS, DAY_SECONDS, 300, 200, COUNT_AFTER_SECONDS - 1):
        serve(installation, market, now - age)
    assert [described(installation).num_answers for _ in range(2)] == [4, 4]
    installation.clock.pass_seconds(2)
    assert described(installation).num_answers == 5
    installation.clock.now += timedelta(days=1)
    assert described(installation).num_answers == 4
    installation.clock.now += timedelta(days=30)
    assert described(installation).num_answers == 0
    serve(installation, market, int(installation.clock().timestamp()) - 100)
    assert described(installation).num_answers == 1
