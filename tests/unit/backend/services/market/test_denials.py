from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.adapter_files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from backend.domain.batch_data import FILE_NAME
from backend.domain.content import Codec, ContentMissing, DecodedCid, cid_digest, cid_of, decode_cid
from backend.domain.denials import (
    ContentWithheld,
    Denied,
    ModelDenied,
    ModelWithheld,
    PayerDenied,
    Reason,
    Subject,
)
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Cid, DatanetId, SnapshotId
from backend.domain.training import JobState, Lease, TrainingConfig, TrainingJob, TrainingResult
from backend.services.channels.admission import Payer
from backend.services.market.catalogue import ModelNotFound
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.catalogue import Card
    from backend.domain.receipt import VersionRecord


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.fund(100_000)
    return built


@pytest.fixture
def record(installation: ScriptedInstallation) -> VersionRecord:
    return installation.catalogue.record(installation.version)


def deny(
    installation: ScriptedInstallation, kind: str, subject: str, reason: Reason = Reason.POLICY
) -> Subject:
    found = Subject.parse(kind, subject)
    installation.denials.deny(found, reason)
    return found


def write_adapter(folder: Path, weights: bytes) -> None:
    (folder / CONFIG_FILE).write_bytes(b"{}")
    (folder / WEIGHTS_FILE).write_bytes(weights)


def test_a_denied_adapter_is_refused_under_any_name_and_not_listed(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    renamed = installation.view.register(replace(record, name="other", creator=some_account("copier")))
    denied = deny(installation, "adapter", record.adapter_digest, Reason.HARMFUL)
    for model in (installation.version, renamed, record.adapter_digest, f"{record.creator}/docs"):
        with pytest.raises(ModelDenied) as refused:
            installation.catalogue.resolve(model)
        assert refused.value.details == {"reason": "harmful", "adapter": record.adapter_digest}
    assert [one.model.is_base for one in installation.catalogue.find()] == [True]
    installation.denials.allow(denied)
    assert installation.catalogue.resolve(installation.version).id == installation.version
    assert len(installation.catalogue.find()) == 3


def test_an_adapter_trained_on_a_denied_datanet_is_refused(installation: ScriptedInstallation) -> None:
    deny(installation, "datanet", "8")
    assert installation.catalogue.resolve(installation.version)
    deny(installation, "datanet", "7", Reason.LICENCE)
    with pytest.raises(ModelWithheld) as refused:
        installation.catalogue.resolve(installation.version)
    assert refused.value.details == {"reason": "licence", "datanet": "7"}
    assert [one.model.is_base for one in installation.catalogue.find()] == [True]


def test_only_a_denied_payer_is_refused(installation: ScriptedInstallation) -> None:
    deny(installation, "payer", installation.payer.account.upper().replace("0X", "0x"))
    for model in ("tiny", installation.version):
        with pytest.raises(PayerDenied):
            installation.catalogue.resolve(model, installation.payer.account)
        assert installation.catalogue.resolve(model, some_account("another payer"))
        assert installation.catalogue.resolve(model)


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("model", "0x12"),
        ("adapter", "0x12"),
        ("datanet", "0"),
        ("datanet", "docs"),
        ("payer", "0x" + "g" * 40),
    ],
)
def test_a_denial_without_a_valid_subject_is_refused(kind: str, subject: str) -> None:
    with pytest.raises(InvalidInput):
        Subject.parse(kind, subject)


def test_a_subject_that_is_not_denied_cannot_be_allowed(installation: ScriptedInstallation) -> None:
    with pytest.raises(NotFound):
        installation.denials.allow(Subject(Denied.DATANET, "7"))


def test_no_block_of_a_denied_folder_is_served(installation: ScriptedInstallation) -> None:
    folder = installation.blobs.add_folder({"rows": b"r" * 300_000})
    other = installation.blobs.add_folder({"rows": b"s" * 300_000})
    denied = Subject(Denied.CONTENT, cid_digest(folder))
    installation.denials.deny(denied, Reason.LEGAL)
    blocks = list(installation.blobs.cids(folder))
    assert len(blocks) == 4
    under_another_codec = Cid(str(DecodedCid(Codec.RAW, decode_cid(folder).digest)))
    for cid in (*blocks, under_another_codec):
        with pytest.raises(ContentWithheld, match="legal"):
            installation.denials.check_block(cid)
    for cid in installation.blobs.cids(other):
        installation.denials.check_block(cid)
    installation.denials.allow(denied)
    installation.denials.check_block(blocks[-1])


def test_a_takedown_leaves_nothing_of_the_adapter_and_all_of_its_neighbours(
    installation: ScriptedInstallation,
) -> None:
    weights, card = b"w" * 300_000, b"a card that both have"
    hosted = installation.host_adapter("hosted", weights, card)
    ours = cid_of(hosted.cid_digest)
    neighbour = cid_of(installation.host_adapter("neighbour", b"v" * 300_000, card).cid_digest)
    repacked = cid_of(installation.host_adapter("hosted", weights, b"another card").cid_digest)
    blocks = [entry.cid for entry in installation.blobs.entries(ours)]
    for contents in ({ours, repacked}, set()):  # the second time finds nothing to do
        taken = installation.denials.take_down(hosted, Reason.LEGAL)
        assert set(taken.contents) == contents
        assert installation.denials.drop_folders(taken)
    for cid in (ours, repacked):
        assert not installation.blobs.has(cid)
        with pytest.raises(ContentMissing):
            installation.blobs.block(cid)
        with pytest.raises(ContentWithheld):
            installation.denials.check_content(cid)
    kept = {str(entry.cid) for entry in installation.blobs.entries(neighbour)}
    assert {str(cid) for cid in blocks} - kept
    assert installation.blobs.read(neighbour, "README.md") == card
    installation.denials.check_content(neighbour)
    with pytest.raises(ModelWithheld):
        installation.catalogue.resolve(hosted.adapter_digest)


def test_a_takedown_deletes_the_same_weights_of_jobs_that_are_not_registered(
    installation: ScriptedInstallation,
) -> None:
    """Each import of an adapter has a card of its own, and so another folder."""
    hosted = installation.host_adapter("hosted", b"weights")
    again = installation.blobs.add_folder(
        {CONFIG_FILE: b"{}", WEIGHTS_FILE: b"weights", CARD_FILE: b"another"}
    )
    job = TrainingJob(
        id="again",
        creator=some_account("another creator"),
        snapshot_id=hosted.snapshots[0],
        config=TrainingConfig(),
        state=JobState.SUCCEEDED,
        created_at=installation.clock(),
        lease=Lease(None, installation.clock()),
        result=TrainingResult(hosted.adapter_digest, hosted.base_model, {}),
        cid=again,
    )
    with installation.begin() as tx:
        tx.training.add(job)
    taken = installation.denials.take_down(hosted, Reason.LEGAL)
    assert set(taken.contents) == {cid_of(hosted.cid_digest), again}
    assert not installation.blobs.has(again)
    with pytest.raises(ContentWithheld):
        installation.denials.check_content(again)


def test_a_takedown_leaves_what_others_register_under_the_adapters_digest(
    installation: ScriptedInstallation,
) -> None:
    """Anyone can: the data of a pending batch, of which a demand may ask, rows, another adapter."""
    hosted = installation.host_adapter("hosted", b"weights")
    batch = installation.blobs.add_folder({FILE_NAME: b"receipts"})
    rows = installation.blobs.add_folder({"data.jsonl": b"{}"})
    rival = cid_of(installation.host_adapter("rival", b"others").cid_digest)
    broken = installation.blobs.add_folder({CONFIG_FILE: b"[", WEIGHTS_FILE: b"weights"})
    stay = {batch, rows, rival, broken}
    for folder in stay:
        installation.view.register(replace(hosted, cid_digest=cid_digest(folder)))
    cached = installation.folders.folder(replace(hosted, cid_digest=cid_digest(rival)))
    taken = installation.denials.take_down(hosted, Reason.LEGAL)
    assert installation.denials.drop_folders(taken)
    assert taken.contents == (cid_of(hosted.cid_digest),)
    assert set(taken.others) == stay
    for folder in stay:
        assert installation.blobs.has(folder)
        installation.denials.check_content(folder)
    assert cached.is_dir()


def test_a_takedown_deletes_what_a_running_answer_fetches_meanwhile(
    installation: ScriptedInstallation,
) -> None:
    hosted = installation.host_adapter("hosted", b"weights")
    cid = cid_of(hosted.cid_digest)
    installation.blobs.forget(cid)
    taken = installation.denials.take_down(hosted, Reason.LEGAL)
    installation.host_adapter("hosted", b"weights")
    assert installation.denials.drop_folders(taken)
    assert not installation.blobs.has(cid)
    with pytest.raises(ContentWithheld):
        installation.denials.check_content(cid)


def test_a_repeated_takedown_deletes_the_cached_copy_that_a_crash_left(
    installation: ScriptedInstallation,
) -> None:
    hosted = installation.host_adapter("hosted", b"weights")
    cid = cid_of(hosted.cid_digest)
    installation.store.folders[cid] = lambda folder: write_adapter(folder, b"weights")
    copy = installation.folders.folder(hosted)
    installation.denials.take_down(hosted, Reason.LEGAL)  # the process ends before it drops the copy
    taken = installation.denials.take_down(hosted, Reason.LEGAL)
    assert installation.denials.drop_folders(taken)
    assert not copy.is_dir()


def test_the_copy_that_answers_are_made_from_stays_until_they_have_ended(
    installation: ScriptedInstallation,
) -> None:
    record = installation.host_adapter("hosted", b"weights")
    copy = installation.folders.folder(record)
    payer = Payer(installation.payer.account)
    reservation = installation.admission.reserve(payer, 10)
    taken = installation.denials.take_down(record, Reason.LEGAL)
    later = installation.admission.reserve(payer, 10)  # of another adapter, for which no request waits
    assert not installation.denials.drop_folders(taken)
    assert copy.is_dir()
    installation.admission.release(reservation)
    assert installation.denials.drop_folders(taken)
    assert not copy.is_dir()
    installation.admission.release(later)


def test_the_base_model_is_not_taken_down(installation: ScriptedInstallation) -> None:
    with pytest.raises(NotFound):
        installation.denials.take_down(installation.catalogue.record("tiny"), Reason.LEGAL)
    with pytest.raises(ModelNotFound):
        installation.catalogue.record("nothing")


def test_content_is_withheld_for_itself_or_for_its_datanet(installation: ScriptedInstallation) -> None:
    denials, folder = installation.denials, installation.blobs.add_folder({"README.md": b"words"})
    assert denials.why_withheld(folder, DatanetId(7)) is None
    datanet = deny(installation, "datanet", "7", Reason.LICENCE)
    assert denials.why_withheld(folder, DatanetId(7)) is Reason.LICENCE
    assert denials.why_withheld(folder, DatanetId(8)) is denials.why_withheld(folder) is None
    denials.allow(datanet)
    deny(installation, "content", cid_digest(folder), Reason.HARMFUL)
    assert denials.why_withheld(folder, DatanetId(7)) is Reason.HARMFUL


def test_a_card_whose_folder_is_denied_is_not_shown(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    folder = installation.blobs.add_folder({"README.md": b"# A heading\n\nWords."})
    shown = installation.view.register(replace(record, name="shown", cid_digest=cid_digest(folder)))
    installation.descriptions.refresh()

    def cards() -> list[Card | None]:
        described = installation.catalogue.describe(installation.catalogue.resolve(shown))
        return [
            one.description.card
            for one in (described, *installation.catalogue.find())
            if one.model.id == shown
        ]

    assert [card.title for card in cards() if card is not None] == ["A heading"] * 2
    deny(installation, "content", cid_digest(folder))
    assert cards() == [None, None]


@pytest.mark.parametrize(
    ("kind", "subject"), [("datanet", "7"), ("content", some_hash("folder 0"))], ids=["datanet", "content"]
)
def test_no_job_and_no_estimate_shows_rows_that_are_denied(
    installation: ScriptedInstallation, kind: str, subject: str
) -> None:
    installation.record_rows(4)
    snapshot, services = SnapshotId(some_hash("snapshot")), installation.services
    assert services.estimates.estimate(installation.payer.account, snapshot, {}).examples
    deny(installation, "content", some_hash("another folder"))
    services.training.create(installation.payer.account, snapshot, {"epochs": 1, "max_length": 51})
    deny(installation, kind, subject, Reason.LEGAL)
    for refused in (
        lambda: services.estimates.estimate(installation.payer.account, snapshot, {}),
        lambda: services.training.create(installation.payer.account, snapshot, {}),
    ):
        with pytest.raises(ContentWithheld, match=f"because of its {kind} {subject}: legal"):
            refused()
