from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.content import ContentMissing
from backend.domain.contribution import ReviewReason, UploadState
from backend.domain.errors import Conflict, NotFound, Unavailable
from backend.domain.ids import DatanetId
from backend.services.contribute.curate import Curation
from backend.services.contribute.snapshot import ContributionWithdrawn
from backend.services.contribute.withdrawn_content import WithdrawnContent
from backend.services.transactions.retry import MOST_ATTEMPTS
from tests.support.contributions import ALICE, BOB, NET, ROWS, ContributionHarness, jsonl
from tests.support.market import some_hash

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.contribution import Upload


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


@pytest.fixture
def any_world(database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(database, tmp_path)


def accepted(harness: ContributionHarness, rows: bytes = ROWS, index: int = 0) -> Upload:
    upload = harness.submit(rows)
    harness.record(upload, index, is_accepted=True)
    harness.curation.advance()
    return upload


def withdrawn(harness: ContributionHarness, upload: Upload, index: int = 0) -> Upload:
    """Advance an upload until the curator's decision is on the chain."""
    harness.contributions.withdraw(upload.id)
    harness.record(upload, index, is_accepted=False, reason=ReviewReason.WITHDRAWN)
    harness.curation.advance()
    return harness.contributions.status(upload.id)


def state_of(harness: ContributionHarness, upload: Upload) -> UploadState:
    [found] = [one for one in harness.contributions.find() if one.id == upload.id]
    return found.state


def staged(harness: ContributionHarness) -> list[str]:
    return [path.name for path in (harness.folder / "uploads").glob("*")]


def test_a_withdrawn_contribution_is_rejected_on_the_chain_for_that_reason(
    any_world: ContributionHarness,
) -> None:
    upload = accepted(any_world)
    assert any_world.contributions.withdraw(upload.id).state is UploadState.WITHDRAWING
    assert any_world.contributions.withdraw(upload.id).state is UploadState.WITHDRAWING
    for _ in range(2):
        any_world.curation.advance()
    reviews = [args for function, args in any_world.queued() if function == "review"]
    refusal = {"contentHash": upload.report.content_hash, "isAccepted": False, "reason": "7"}
    assert reviews == [(str(NET), [refusal])]
    found = withdrawn(any_world, upload)
    assert (found.state, found.index) == (UploadState.WITHDRAWN, 0)
    assert (found.reason, found.reason_name) == (7, "withdrawn")
    assert found.report.content_hash == upload.report.content_hash, "what it was stays provable"
    assert any_world.contributions.withdraw(upload.id).state is UploadState.WITHDRAWN


def test_a_withdrawn_one_that_a_curator_accepts_later_is_withdrawn_again(
    any_world: ContributionHarness,
) -> None:
    upload = accepted(any_world)
    withdrawn(any_world, upload)
    for block in range(1, MOST_ATTEMPTS + 2):
        any_world.record(upload, 0, is_accepted=True)
        for _ in range(2):
            any_world.curation.advance()
        assert state_of(any_world, upload) is UploadState.WITHDRAWING
        any_world.confirm(block)
        any_world.record(upload, 0, is_accepted=False, reason=ReviewReason.WITHDRAWN)
        any_world.curation.advance()
        assert state_of(any_world, upload) is UploadState.WITHDRAWN
    reviews = [function for function, _ in any_world.queued() if function == "review"]
    assert len(reviews) == MOST_ATTEMPTS


def test_its_content_goes_at_once_and_that_of_others_stays(harness: ContributionHarness) -> None:
    upload, other = accepted(harness), accepted(harness, jsonl({"text": "kept"}), 1)
    harness.contributions.withdraw(upload.id)
    assert upload.report.cid is not None
    assert other.report.cid is not None
    with pytest.raises(ContentMissing):
        harness.store.read(upload.report.cid, "data.jsonl")
    with pytest.raises(ContentMissing):
        harness.store.block(upload.report.cid)
    assert harness.store.read(other.report.cid, "data.jsonl") == b'{"text":"kept"}\n'


def test_content_left_by_a_crash_is_deleted_on_the_next_pass(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = accepted(harness)
    with monkeypatch.context() as patched:

        def away(*_: Any) -> None:
            raise Unavailable("the store is away")

        patched.setattr(harness.store, "forget", away)
        with pytest.raises(Unavailable):
            harness.contributions.withdraw(upload.id)
        assert harness.curation.advance() == 0, "nothing else waits for the store"
    assert upload.report.cid is not None
    assert harness.store.has(upload.report.cid)
    harness.curation.advance()
    assert not harness.store.has(upload.report.cid)


def test_without_a_curator_here_it_waits_for_one_elsewhere(harness: ContributionHarness) -> None:
    upload = accepted(harness)
    parts = (harness.database, harness.store, harness.staging)
    harness.contributions.withdraw(upload.id)
    Curation(*parts, None, lambda: harness.now).advance()
    assert [function for function, _ in harness.queued()] == ["contributeWithSig"]
    assert harness.contributions.status(upload.id).state is UploadState.WITHDRAWING


def test_a_rejected_one_is_withdrawn_too(harness: ContributionHarness) -> None:
    upload = harness.submit()
    harness.record(upload, 0, is_accepted=False, reason=ReviewReason.QUALITY)
    harness.curation.advance()
    assert withdrawn(harness, upload).state is UploadState.WITHDRAWN


def test_its_rows_are_free_again_and_their_hashes_forgotten(harness: ContributionHarness) -> None:
    upload = accepted(harness)
    harness.contributions.withdraw(upload.id)
    assert harness.upload(ROWS, BOB).report.defect_counts == {"copied_row": 2}, "until the chain says so"
    withdrawn(harness, upload)
    again = harness.upload(ROWS + jsonl({"prompt": "c", "completion": "C"}), BOB)
    assert again.state is UploadState.DRAFT
    assert again.report.near_copies is not None
    assert again.report.near_copies.num_in_datanet == 0


def test_the_same_file_is_refused_for_ever_and_its_rows_are_not(harness: ContributionHarness) -> None:
    withdrawn(harness, accepted(harness))
    [defect] = harness.upload().report.defects
    assert defect.code == "copied_file"
    assert defect.message == (
        f"was contributed by {ALICE.account}; a datanet records the same rows in the same order only once: "
        "to contribute them again, add a row or change their order"
    )
    assert harness.upload(b"".join(reversed(ROWS.splitlines(keepends=True)))).state is UploadState.DRAFT


@pytest.mark.parametrize("content", [ROWS, b"no row"])
def test_an_unsubmitted_upload_is_withdrawn_without_the_chain_and_the_store(
    harness: ContributionHarness, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each forgotten folder has an IPFS daemon look at all its blocks."""
    monkeypatch.setattr(harness.store, "forget", None)
    upload = harness.upload(content)
    assert harness.contributions.withdraw(upload.id).state is UploadState.WITHDRAWN
    assert staged(harness) == []
    harness.curation.advance()
    assert harness.contributions.status(upload.id).state is UploadState.WITHDRAWN
    with pytest.raises(Conflict, match="not a draft"):
        harness.contributions.typed_data(upload.id)
    assert harness.queued() == []


def test_a_leftover_draft_is_withdrawn_without_the_contribution_of_the_same_rows(
    any_world: ContributionHarness,
) -> None:
    """The signature was declined, and the same file pushed and signed again."""
    leftover = any_world.upload()
    kept = accepted(any_world)
    assert kept.report.cid is not None
    assert kept.report.cid == leftover.report.cid
    assert any_world.contributions.withdraw(leftover.id).state is UploadState.WITHDRAWN
    for _ in range(2):
        any_world.curation.advance()
    assert any_world.store.has(kept.report.cid)
    assert [function for function, _ in any_world.queued()] == ["contributeWithSig"]
    states = {upload.id: upload.state for upload in any_world.contributions.find()}
    assert states == {leftover.id: UploadState.WITHDRAWN, kept.id: UploadState.ACCEPTED}
    assert any_world.upload(ROWS, BOB).report.defect_counts["copied_row"] == 2, "its rows stay claimed"


def test_a_draft_is_withdrawn_without_a_contribution_of_the_same_rows_by_another_name(
    harness: ContributionHarness,
) -> None:
    leftover = harness.contributions.upload(ALICE.account, NET, "another name", [ROWS], "MIT")
    kept = accepted(harness)
    assert leftover.report.cid != kept.report.cid
    harness.contributions.withdraw(leftover.id)
    harness.curation.advance()
    states = {upload.id: upload.state for upload in harness.contributions.find()}
    assert states == {leftover.id: UploadState.WITHDRAWN, kept.id: UploadState.ACCEPTED}


def test_the_folder_of_failed_submissions_is_deleted_with_the_last_of_them(
    harness: ContributionHarness,
) -> None:
    draft, failed = harness.upload(), harness.submit()
    harness.fail(failed.transaction_id, "SignatureExpired")
    harness.curation.advance()
    assert failed.report.cid is not None
    harness.contributions.withdraw(failed.id)
    assert harness.store.has(failed.report.cid), "the other draft has it too"
    harness.contributions.withdraw(draft.id)
    assert not harness.store.has(failed.report.cid)


def test_a_submitted_upload_must_be_recorded_before_its_withdrawal(harness: ContributionHarness) -> None:
    upload = harness.submit()
    with pytest.raises(Conflict, match="is submitted: wait"):
        harness.contributions.withdraw(upload.id)
    with pytest.raises(NotFound):
        harness.contributions.withdraw("upload-none")


def test_a_reorg_does_not_undo_the_wish(harness: ContributionHarness) -> None:
    upload = accepted(harness)
    harness.contributions.withdraw(upload.id)
    harness.forget(upload)
    harness.curation.advance()
    assert harness.contributions.status(upload.id).state is UploadState.WITHDRAWING
    harness.record(upload, 1)
    harness.curation.advance()
    [_, (_, (_, [review]))] = harness.queued()
    assert (review["isAccepted"], review["reason"]) == (False, "7")


def test_one_whose_record_never_came_back_is_withdrawn(harness: ContributionHarness) -> None:
    upload = accepted(harness)
    harness.contributions.withdraw(upload.id)
    harness.forget(upload)
    harness.fail(harness.contributions.status(upload.id).transaction_id)
    harness.curation.advance()
    assert harness.contributions.status(upload.id).state is UploadState.WITHDRAWN


def test_snapshots_from_before_stay_but_are_not_learned_from(harness: ContributionHarness) -> None:
    licence = "Apache-2.0 AND BSD-2-Clause AND BSD-3-Clause AND MIT"
    long = harness.upload(ROWS, ALICE, licence)
    long = harness.contributions.submit(long.id, harness.sign(long))
    harness.record(long, 0, is_accepted=True)
    harness.curation.advance()
    snapshot = harness.freeze(True)
    withdrawn(harness, long)
    assert harness.snapshots.get(snapshot).accepted == (0,)
    [entry] = harness.snapshots.manifest(snapshot)["contributions"]
    assert entry["contentHash"] == long.report.content_hash
    assert entry["licence"].startswith("0x"), "its words were in the folder"
    with pytest.raises(ContributionWithdrawn, match="contribution 0 of datanet 1 was withdrawn"):
        list(harness.snapshots.rows(snapshot))


def test_a_copy_of_what_was_taken_back_elsewhere_goes(any_world: ContributionHarness) -> None:
    """Another operator's uploads: this one has but the chain's word and the copies."""
    taken_back, kept = (any_world.submit(jsonl({"text": text})) for text in ("back", "kept"))
    any_world.record(taken_back, 0, is_accepted=True)
    any_world.record(kept, 1, is_accepted=None)
    copies = WithdrawnContent(any_world.database, any_world.store)
    copies.sweep()
    assert taken_back.report.cid is not None
    assert any_world.store.has(taken_back.report.cid)
    any_world.record(taken_back, 0, is_accepted=False, reason=ReviewReason.WITHDRAWN)
    copies.sweep()
    assert not any_world.store.has(taken_back.report.cid)
    assert kept.report.cid is not None
    assert any_world.store.has(kept.report.cid)


def test_a_copy_that_another_contribution_holds_too_stays(any_world: ContributionHarness) -> None:
    upload = any_world.submit(ROWS)
    any_world.record(upload, 0, is_accepted=False, reason=ReviewReason.WITHDRAWN)
    any_world.record(upload, 1, is_accepted=None)
    WithdrawnContent(any_world.database, any_world.store).sweep()
    assert upload.report.cid is not None
    assert any_world.store.has(upload.report.cid)


def test_records_of_others_do_not_keep_a_withdrawn_contribution(any_world: ContributionHarness) -> None:
    """Anyone can record its folder again: under another hash, or in another datanet."""
    upload = any_world.submit(ROWS)
    any_world.record(upload, 0, is_accepted=False, reason=ReviewReason.WITHDRAWN)
    other_hash = replace(upload.report, content_hash=some_hash("any"))
    any_world.record(replace(upload, account=BOB.account, report=other_hash), None)
    any_world.record(replace(upload, account=BOB.account, datanet=DatanetId(2)), None)
    WithdrawnContent(any_world.database, any_world.store).sweep()
    assert upload.report.cid is not None
    assert not any_world.store.has(upload.report.cid)


def test_a_withdrawn_record_of_the_same_rows_elsewhere_leaves_a_contribution(
    any_world: ContributionHarness,
) -> None:
    upload = any_world.submit(ROWS)
    any_world.record(upload, 0, is_accepted=True)
    elsewhere = replace(upload, account=BOB.account, datanet=DatanetId(2))
    any_world.record(elsewhere, 0, is_accepted=False, reason=ReviewReason.WITHDRAWN)
    copies = WithdrawnContent(any_world.database, any_world.store)
    copies.sweep()
    assert upload.report.cid is not None
    assert any_world.store.has(upload.report.cid)
    any_world.record(upload, 0, is_accepted=False, reason=ReviewReason.WITHDRAWN)
    copies.sweep()
    assert not any_world.store.has(upload.report.cid)


@pytest.mark.parametrize("manifest", [None, b"{", b'{"datanetId":"1"}', b"[]"])
def test_a_folder_without_a_manifest_stays_while_a_record_of_its_rows_does(
    any_world: ContributionHarness, manifest: bytes | None
) -> None:
    """Such a folder was recorded by its contributor's own program."""
    upload = any_world.submit(ROWS)
    rows = b"".join(any_world.contributions.content(upload.id))
    stated = {} if manifest is None else {"contribution.json": manifest}
    cid = any_world.store.add_folder({"data.jsonl": rows, **stated})
    any_world.record(upload, 0, is_accepted=False, reason=ReviewReason.WITHDRAWN, cid=cid)
    again = replace(upload, datanet=DatanetId(2))
    any_world.record(again, 0, is_accepted=True, cid=cid)
    copies = WithdrawnContent(any_world.database, any_world.store)
    copies.sweep()
    assert any_world.store.has(cid)
    any_world.record(again, 0, is_accepted=False, reason=ReviewReason.WITHDRAWN, cid=cid)
    copies.sweep()
    assert not any_world.store.has(cid)


def test_a_folder_of_others_that_a_withdrawn_contribution_names_stays(any_world: ContributionHarness) -> None:
    """Anyone can record a contribution of any folder, such as the data of another operator's batch."""
    victim = any_world.store.add_folder({"batch.jsonl": b"receipts"})
    other_rows = any_world.store.add_folder({"data.jsonl": b"rows of another\n"})
    for number, cid in enumerate((victim, other_rows)):
        upload = accepted(any_world, jsonl({"text": "mine" * (number + 1)}), number)
        any_world.contributions.withdraw(upload.id)
        any_world.record(upload, number, is_accepted=None, cid=cid)
        any_world.curation.advance()
        reviews = [args for function, args in any_world.queued() if function == "review"]
        assert all("'7'" not in str(args) for args in reviews)
        any_world.record(upload, number, is_accepted=False, reason=ReviewReason.WITHDRAWN, cid=cid)
        WithdrawnContent(any_world.database, any_world.store).sweep()
        assert any_world.store.has(cid)
