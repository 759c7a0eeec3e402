from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.db.contributions import UploadStore
from backend.db.tables.contributions import RowHashRow
from backend.domain.contribution import ReviewReason, UploadState
from backend.services.contribute.curate import Curation
from backend.services.contribute.uploads import apply_chain_state, claim_rows, release_rows
from backend.services.transactions.retry import MOST_ATTEMPTS
from backend.storage.folders import folder_cid
from tests.support.contributions import ALICE, BOB, NET, ROWS, ContributionHarness
from tests.support.webhooks import events_of, register

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.contribution import Upload
    from backend.domain.ids import Cid


MORE_ROWS = ROWS + b'{"prompt": "c", "completion": "C"}\n'


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


@pytest.fixture
def any_world(database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(database, tmp_path)


def state(harness: ContributionHarness, upload_id: str) -> UploadState:
    return harness.contributions.status(upload_id).state


def test_a_recorded_contribution_is_accepted_once(harness: ContributionHarness) -> None:
    upload = harness.submit()
    assert harness.curation.advance() == 0
    harness.record(upload, 0)
    assert harness.curation.advance() == 1
    assert harness.curation.advance() == 0
    assert state(harness, upload.id) is UploadState.RECORDED
    assert [function for function, _ in harness.queued()] == ["contributeWithSig", "review"]
    assert harness.queued()[1][1] == (
        str(NET),
        [{"contentHash": upload.report.content_hash, "isAccepted": True, "reason": "0"}],
    )
    harness.record(upload, 0, is_accepted=True)
    assert harness.curation.advance() == 1
    found = harness.contributions.status(upload.id)
    assert (found.state, found.index) == (UploadState.ACCEPTED, 0)


@pytest.mark.parametrize(
    "change", [{"cid": folder_cid({"data.jsonl": b"other"})}, {"licence": "0BSD"}, {"num_rows": 9}]
)
def test_a_record_of_something_else_than_was_checked_is_left_to_people(
    harness: ContributionHarness, change: dict[str, Any]
) -> None:
    """The contributor records the same rows before the market does, with a folder of its own."""
    upload = harness.submit()
    harness.record(replace(upload, report=replace(upload.report, **change)), 0)
    harness.curation.advance()
    assert state(harness, upload.id) is UploadState.RECORDED
    assert [function for function, _ in harness.queued()] == ["contributeWithSig"]


def test_status_follows_the_chain_before_curation_advances(harness: ContributionHarness) -> None:
    upload = harness.submit()
    harness.record(upload, 0, is_accepted=True)
    assert state(harness, upload.id) is UploadState.ACCEPTED


def test_the_staged_rows_go_once_the_chain_has_the_record(harness: ContributionHarness) -> None:
    upload = harness.submit()
    harness.curation.advance()
    assert harness.staging.data(upload.id).exists()
    harness.record(upload, 0)
    harness.curation.advance()
    assert not harness.staging.data(upload.id).exists()


def test_a_failed_transaction_makes_a_draft_that_can_be_signed_again(harness: ContributionHarness) -> None:
    upload = harness.submit()
    harness.fail(upload.transaction_id)
    harness.curation.advance()
    draft = harness.contributions.status(upload.id)
    assert (draft.state, draft.signing_request) == (UploadState.DRAFT, None)
    assert draft.error is not None
    assert draft.error["error"] == "ContentAlreadyRecorded"
    assert harness.upload(ROWS, BOB).state is UploadState.DRAFT, "its rows are free again"
    harness.now += 1
    again = harness.contributions.submit(upload.id, harness.sign(upload))
    assert again.state is UploadState.SUBMITTED
    assert len(harness.queued()) == 2


def test_a_failed_upload_may_be_signed_again_before_curation_advances(harness: ContributionHarness) -> None:
    upload = harness.submit()
    harness.fail(upload.transaction_id)
    harness.now += 1
    assert harness.contributions.submit(upload.id, harness.sign(upload)).state is UploadState.SUBMITTED


def test_a_reorg_takes_the_record_back_and_brings_it_again(harness: ContributionHarness) -> None:
    upload = harness.submit()
    harness.record(upload, 0)
    harness.curation.advance()
    harness.forget(upload)
    harness.curation.advance()
    assert state(harness, upload.id) is UploadState.SUBMITTED
    harness.record(upload, 1)
    harness.curation.advance()
    assert harness.contributions.status(upload.id).index == 1


def test_a_rejected_contribution_frees_its_rows(harness: ContributionHarness) -> None:
    upload = harness.submit()
    harness.record(upload, 0, is_accepted=False, reason=ReviewReason.COPIED)
    harness.curation.advance()
    assert state(harness, upload.id) is UploadState.REJECTED
    other = harness.upload(ROWS + b'{"prompt": "c", "completion": "C"}', BOB)
    assert other.state is UploadState.DRAFT


def test_a_record_by_another_account_is_not_mine(harness: ContributionHarness) -> None:
    mine = harness.submit()
    stolen = replace(mine, account=BOB.account)
    harness.record(stolen, 0)
    harness.curation.advance()
    assert state(harness, mine.id) is UploadState.SUBMITTED
    assert [function for function, _ in harness.queued()] == ["contributeWithSig"], "people decide about it"
    harness.fail(mine.transaction_id)
    harness.curation.advance()
    assert state(harness, mine.id) is UploadState.DRAFT
    harness.contributions.withdraw(mine.id)
    harness.curation.advance()
    assert [function for function, _ in harness.queued()] == ["contributeWithSig"]


def test_rows_that_another_account_recorded_first_are_accepted_in_another_order(
    harness: ContributionHarness,
) -> None:
    mine = harness.submit()
    harness.record(replace(mine, account=BOB.account), None)
    harness.fail(mine.transaction_id)
    harness.curation.advance()
    assert harness.upload().state is UploadState.INVALID, "the registry has this file"
    again = harness.submit(b"".join(reversed(ROWS.splitlines(keepends=True))))
    harness.record(again, None)
    harness.curation.advance()
    accepted = {"contentHash": again.report.content_hash, "isAccepted": True, "reason": "0"}
    assert harness.queued()[-1] == ("review", (str(NET), [accepted]))


def test_an_acceptance_that_fails_is_sent_again_but_not_for_ever(harness: ContributionHarness) -> None:
    harness.record(harness.submit(), 0)
    for _ in range(MOST_ATTEMPTS + 3):
        harness.curation.advance()
        harness.fail(len(harness.queued()))
    assert [function for function, _ in harness.queued()] == ["contributeWithSig"] + [
        "review"
    ] * MOST_ATTEMPTS


def test_without_a_curators_key_nothing_is_accepted(harness: ContributionHarness) -> None:
    curation = Curation(harness.database, harness.store, harness.staging, None, lambda: harness.now)
    upload = harness.submit()
    harness.record(upload, 0)
    curation.advance()
    assert state(harness, upload.id) is UploadState.RECORDED
    assert len(harness.queued()) == 1


def test_uploads_that_were_cut_off_by_a_crash_go_after_a_day(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("backend.db.contributions.UploadStore.remove", lambda *_: None)
        patched.setattr("backend.services.contribute.staging.Staging.drop", lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            harness.upload(bytes(1 // i) for i in (0,))
    [left] = harness.contributions.find()
    assert left.state is UploadState.CHECKING
    harness.curation.advance()
    assert harness.contributions.find() == [left]
    harness.now += 86_401
    assert harness.curation.advance() == 1
    assert harness.contributions.find() == []


def test_unsubmitted_uploads_are_deleted_after_a_day(harness: ContributionHarness) -> None:
    submitted = harness.submit()
    harness.upload(b'{"text": "a draft"}')
    invalid = harness.upload(b"no")
    assert invalid.state is UploadState.INVALID
    harness.curation.advance()
    assert len(harness.contributions.find()) == 3
    harness.now += 86_401
    assert harness.curation.advance() == 2
    assert [upload.id for upload in harness.contributions.find()] == [submitted.id]
    assert [path.name for path in (harness.folder / "uploads").iterdir()] == [submitted.id]
    with harness.database.read() as tx:
        assert {row.upload_id for row in tx.session.query(RowHashRow)} == {submitted.id}


def test_a_draft_whose_transaction_failed_is_kept_for_a_further_day(harness: ContributionHarness) -> None:
    upload = harness.upload()
    for _ in range(2):  # it is signed again, and fails again
        upload = harness.contributions.submit(upload.id, harness.sign(upload))
        harness.now += 86_401
        harness.fail(upload.transaction_id)
        harness.curation.advance()
        harness.curation.advance()
        harness.now += 86_399
        harness.curation.advance()
        assert state(harness, upload.id) is UploadState.DRAFT
    harness.now += 2
    harness.curation.advance()
    assert harness.contributions.find() == []


def publish_without_submitting(harness: ContributionHarness, upload: Upload) -> Cid:
    """As a submission does that ends before its transaction is queued."""
    return harness.store.add_folder(harness.staging.published_folder(upload))


def test_what_an_unfinished_submission_published_is_deleted_with_its_upload(
    harness: ContributionHarness,
) -> None:
    cid = publish_without_submitting(harness, harness.upload())
    harness.now += 86_401
    assert harness.curation.advance() == 1
    assert not harness.store.has(cid)


def test_a_folder_that_another_upload_has_stays(harness: ContributionHarness) -> None:
    draft = harness.upload()
    cid = publish_without_submitting(harness, draft)
    harness.now += 86_401
    again = harness.upload()
    assert again.report.cid == cid
    harness.curation.advance()
    assert [upload.id for upload in harness.contributions.find()] == [again.id]
    assert harness.store.has(cid)


def test_a_folder_that_was_recorded_elsewhere_stays(harness: ContributionHarness) -> None:
    draft = harness.upload()
    cid = publish_without_submitting(harness, draft)
    harness.record(draft, 0)
    harness.now += 86_401
    harness.curation.advance()
    assert harness.contributions.find() == []
    assert harness.store.has(cid)


def test_an_upload_that_is_submitted_at_the_last_moment_stays(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = harness.upload()
    harness.now += 86_401
    in_states = UploadStore.in_states

    def and_then_it_is_submitted(store: UploadStore, *args: Any, **named: Any) -> list[str]:
        found = in_states(store, *args, **named)
        if found == [draft.id]:
            harness.contributions.submit(draft.id, harness.sign(draft))
        return found

    monkeypatch.setattr(UploadStore, "in_states", and_then_it_is_submitted)
    harness.curation.advance()
    assert state(harness, draft.id) is UploadState.SUBMITTED
    assert harness.staging.data(draft.id).exists()


def test_the_others_go_on_where_one_is_gone(harness: ContributionHarness) -> None:
    upload = harness.submit(signer=ALICE)
    assert harness.curation._advance("upload-none") is False
    assert state(harness, upload.id) is UploadState.SUBMITTED


@pytest.mark.parametrize(("reason", "name"), [(4, "quality"), (6, "personal_data"), (999, None)])
def test_a_rejection_has_its_reason(harness: ContributionHarness, reason: int, name: str | None) -> None:
    upload = harness.submit()
    harness.record(upload, 0, is_accepted=False, reason=reason)
    harness.curation.advance()
    [found] = harness.contributions.find()
    assert (found.state, found.reason, found.reason_name) == (UploadState.REJECTED, reason, name)
    harness.record(upload, 0, is_accepted=True, reason=0)
    assert harness.contributions.status(upload.id).reason is None, "a later decision replaces it"


def test_a_later_rejection_is_reported_and_frees_the_rows(any_world: ContributionHarness) -> None:
    endpoint = register(any_world.database, ALICE.account)
    upload = any_world.submit()
    any_world.record(upload, 0, is_accepted=True)
    any_world.curation.advance()
    any_world.record(upload, 0, is_accepted=False, reason=ReviewReason.HARMFUL)
    [found] = any_world.contributions.find()
    assert (found.state, found.reason_name) == (UploadState.REJECTED, "harmful"), "before it advances"
    assert [any_world.curation.advance() for _ in range(2)] == [1, 0]
    assert events_of(any_world.database, endpoint) == [
        ("contribution.accepted", {"id": upload.id, "datanet": NET, "reason": None}),
        ("contribution.rejected", {"id": upload.id, "datanet": NET, "reason": "harmful"}),
    ]
    assert any_world.upload(MORE_ROWS, BOB).state is UploadState.DRAFT


def test_a_later_acceptance_is_reported_and_claims_the_rows_again(any_world: ContributionHarness) -> None:
    endpoint = register(any_world.database, ALICE.account)
    upload = any_world.submit()
    any_world.record(upload, None, is_accepted=False, reason=ReviewReason.QUALITY)
    any_world.curation.advance()
    any_world.record(upload, 0, is_accepted=True)
    assert [any_world.curation.advance() for _ in range(2)] == [1, 0]
    assert [event for event, _ in events_of(any_world.database, endpoint)] == [
        "contribution.rejected",
        "contribution.accepted",
    ]
    assert any_world.upload(MORE_ROWS, BOB).report.defect_counts == {"copied_row": 2}


def test_a_later_acceptance_claims_the_rows_that_no_other_upload_has(any_world: ContributionHarness) -> None:
    upload = any_world.submit()
    any_world.record(upload, None, is_accepted=False, reason=ReviewReason.QUALITY)
    any_world.curation.advance()
    first_row, second_row = ROWS.splitlines(keepends=True)
    any_world.submit(first_row, BOB)
    any_world.record(upload, 0, is_accepted=True)
    any_world.curation.advance()
    assert state(any_world, upload.id) is UploadState.ACCEPTED
    [copied] = any_world.upload(second_row + MORE_ROWS[len(ROWS) :], BOB).report.defects
    assert copied.message == f"the same as line 2 of contribution 0 by {ALICE.account}"


@pytest.mark.parametrize("is_accepted", [True, False])
def test_a_decision_that_is_replaced_while_its_rows_are_processed_leaves_them_right(
    any_world: ContributionHarness, monkeypatch: pytest.MonkeyPatch, *, is_accepted: bool
) -> None:
    """Before and after the rows are processed the decision is the same."""
    upload = any_world.submit()

    def decide(*, is_accepted: bool) -> None:
        reason = 0 if is_accepted else ReviewReason.QUALITY
        any_world.record(upload, 0, is_accepted=is_accepted, reason=reason)

    decide(is_accepted=is_accepted)
    any_world.curation.advance()
    process = release_rows if is_accepted else claim_rows

    def process_and_decide(db: Database, upload_id: str, **options: bool) -> bool:
        is_done = process(db, upload_id, **options)
        decide(is_accepted=is_accepted)
        return is_done is not False

    monkeypatch.setattr(f"backend.services.contribute.curate.{process.__name__}", process_and_decide)
    decide(is_accepted=not is_accepted)
    assert any_world.curation.advance() == 0
    assert state(any_world, upload.id) is (UploadState.ACCEPTED if is_accepted else UploadState.REJECTED)
    copied = {"copied_row": 2} if is_accepted else {}
    assert any_world.upload(MORE_ROWS, BOB).report.defect_counts == copied


def test_a_rejection_that_is_indexed_while_an_upload_advances_frees_its_rows(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = harness.submit()

    def apply_and_reject(tx: UnitOfWork, stored: Upload) -> Upload:
        found = apply_chain_state(tx, stored)
        harness.record(upload, None, is_accepted=False, reason=ReviewReason.QUALITY)
        return found

    monkeypatch.setattr("backend.services.contribute.curate.apply_chain_state", apply_and_reject)
    assert harness.curation.advance() == 1
    assert state(harness, upload.id) is UploadState.REJECTED
    assert harness.upload(MORE_ROWS, BOB).state is UploadState.DRAFT


@pytest.mark.parametrize("is_accepted", [True, False])
def test_a_decision_that_a_reorg_takes_back_is_undone(
    harness: ContributionHarness, *, is_accepted: bool
) -> None:
    upload = harness.submit()
    harness.record(upload, None, is_accepted=is_accepted, reason=0 if is_accepted else ReviewReason.QUALITY)
    harness.curation.advance()
    harness.record(upload, None)
    harness.curation.advance()
    [found] = harness.contributions.find()
    assert (found.state, found.reason) == (UploadState.RECORDED, None)
    assert harness.upload(MORE_ROWS, BOB).report.defect_counts == {"copied_row": 2}
    harness.forget(upload)
    harness.curation.advance()
    [found] = harness.contributions.find(ALICE.account)
    assert (found.state, found.index) == (UploadState.SUBMITTED, None)


def test_later_decisions_are_found_in_turn(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = [harness.submit(b'{"text": "%s"}' % letter) for letter in (b"a", b"b", b"c")]
    for upload in uploads:
        harness.record(upload, 0, is_accepted=True)
    harness.curation.advance()
    monkeypatch.setattr("backend.services.contribute.curate.MAX_ADVANCED", 1)
    for upload in uploads:
        harness.record(upload, 0, is_accepted=False, reason=ReviewReason.QUALITY)
    assert [harness.curation.advance() for _ in range(5)] == [1, 1, 1, 0, 0]


def test_an_index_that_a_reorg_changes_is_no_decision(harness: ContributionHarness) -> None:
    endpoint = register(harness.database, ALICE.account)
    upload = harness.submit()
    for index in (0, 1):
        harness.record(upload, index, is_accepted=True)
        harness.curation.advance()
    assert harness.contributions.status(upload.id).index == 1
    assert [event for event, _ in events_of(harness.database, endpoint)] == ["contribution.accepted"]


def test_decisions_are_told_to_the_contributor_s_webhooks(harness: ContributionHarness) -> None:
    endpoint = register(harness.database, ALICE.account)
    accepted, rejected = harness.submit(), harness.submit(b'{"prompt": "c", "completion": "C"}')
    harness.record(accepted, 0)
    harness.curation.advance()
    assert events_of(harness.database, endpoint) == []
    harness.record(accepted, 0, is_accepted=True)
    harness.curation.advance()
    harness.record(rejected, None, is_accepted=False, reason=ReviewReason.QUALITY)
    for _ in range(2):
        harness.curation.advance()
    assert events_of(harness.database, endpoint) == [
        ("contribution.accepted", {"id": accepted.id, "datanet": NET, "reason": None}),
        ("contribution.rejected", {"id": rejected.id, "datanet": NET, "reason": "quality"}),
    ]
