from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.db.contributions import UploadStore
from backend.db.tables.contributions import RowHashRow
from backend.domain.contribution import ReviewReason, UploadState
from backend.services.contribute.curate import Curation
from backend.services.transactions.retry import MOST_ATTEMPTS
from tests.support.contributions import ALICE, BOB, NET, ROWS, World

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, tmp_path)


def state(world: World, upload_id: str) -> UploadState:
    return world.contributions.status(upload_id).state


def test_a_recorded_contribution_is_accepted_once(world: World) -> None:
    upload = world.submit()
    assert world.curation.advance() == 0
    world.record(upload, 0)
    assert world.curation.advance() == 1
    assert world.curation.advance() == 0
    assert state(world, upload.id) is UploadState.RECORDED
    assert [function for function, _ in world.queued()] == ["contributeWithSig", "review"]
    assert world.queued()[1][1] == (
        str(NET),
        [{"contentHash": upload.report.content_hash, "isAccepted": True, "reason": "0"}],
    )
    world.record(upload, 0, is_accepted=True)
    assert world.curation.advance() == 1
    found = world.contributions.status(upload.id)
    assert (found.state, found.index) == (UploadState.ACCEPTED, 0)


def test_status_says_what_the_chain_says_before_anybody_advanced_it(world: World) -> None:
    upload = world.submit()
    world.record(upload, 0, is_accepted=True)
    assert state(world, upload.id) is UploadState.ACCEPTED


def test_the_staged_rows_go_once_the_chain_has_the_record(world: World) -> None:
    upload = world.submit()
    world.curation.advance()
    assert world.staging.data(upload.id).exists()
    world.record(upload, 0)
    world.curation.advance()
    assert not world.staging.data(upload.id).exists()


def test_a_failed_transaction_makes_a_draft_that_can_be_signed_again(world: World) -> None:
    upload = world.submit()
    world.fail(upload.transaction_id)
    world.curation.advance()
    draft = world.contributions.status(upload.id)
    assert (draft.state, draft.signing_request) == (UploadState.DRAFT, None)
    assert draft.error is not None
    assert draft.error["error"] == "ContentAlreadyRecorded"
    assert world.upload(ROWS, BOB).state is UploadState.DRAFT, "its rows are free again"
    world.now += 1
    again = world.contributions.submit(upload.id, world.sign(upload))
    assert again.state is UploadState.SUBMITTED
    assert len(world.queued()) == 2


def test_a_failed_upload_may_be_signed_again_before_anybody_advanced_it(world: World) -> None:
    upload = world.submit()
    world.fail(upload.transaction_id)
    world.now += 1
    assert world.contributions.submit(upload.id, world.sign(upload)).state is UploadState.SUBMITTED


def test_a_reorg_takes_the_record_back_and_brings_it_again(world: World) -> None:
    upload = world.submit()
    world.record(upload, 0)
    world.curation.advance()
    world.forget(0)
    world.curation.advance()
    assert state(world, upload.id) is UploadState.SUBMITTED
    world.record(upload, 1)
    world.curation.advance()
    assert world.contributions.status(upload.id).index == 1


def test_a_rejected_contribution_frees_its_rows(world: World) -> None:
    upload = world.submit()
    world.record(upload, 0, is_accepted=False, reason=ReviewReason.COPIED)
    world.curation.advance()
    assert state(world, upload.id) is UploadState.REJECTED
    other = world.upload(ROWS + b'{"prompt": "c", "completion": "C"}', BOB)
    assert other.state is UploadState.DRAFT


def test_a_record_by_somebody_else_is_not_mine(world: World) -> None:
    mine = world.submit()
    stolen = replace(mine, account=BOB.account)
    world.record(stolen, 0)
    world.curation.advance()
    assert state(world, mine.id) is UploadState.SUBMITTED


def test_an_acceptance_that_fails_is_sent_again_but_not_for_ever(world: World) -> None:
    world.record(world.submit(), 0)
    for _ in range(MOST_ATTEMPTS + 3):
        world.curation.advance()
        world.fail(len(world.queued()))
    assert [function for function, _ in world.queued()] == ["contributeWithSig"] + ["review"] * MOST_ATTEMPTS


def test_without_a_curators_key_nothing_is_accepted(world: World) -> None:
    curation = Curation(world.database, world.store, world.staging, None, lambda: world.now)
    upload = world.submit()
    world.record(upload, 0)
    curation.advance()
    assert state(world, upload.id) is UploadState.RECORDED
    assert len(world.queued()) == 1


def test_uploads_that_were_cut_off_by_a_crash_go_after_a_day(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("backend.db.contributions.UploadStore.remove", lambda *_: None)
        patched.setattr("backend.services.contribute.staging.Staging.drop", lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            world.upload(bytes(1 // i) for i in (0,))
    [left] = world.contributions.find()
    assert left.state is UploadState.CHECKING
    world.curation.advance()
    assert world.contributions.find() == [left]
    world.now += 86_401
    assert world.curation.advance() == 1
    assert world.contributions.find() == []


def test_uploads_that_nobody_submits_go_after_a_day(world: World) -> None:
    submitted = world.submit()
    world.upload(b'{"text": "a draft"}')
    invalid = world.upload(b"no")
    assert invalid.state is UploadState.INVALID
    world.curation.advance()
    assert len(world.contributions.find()) == 3
    world.now += 86_401
    assert world.curation.advance() == 2
    assert [upload.id for upload in world.contributions.find()] == [submitted.id]
    assert [path.name for path in (world.folder / "uploads").iterdir()] == [submitted.id]
    with world.database.read() as tx:
        assert {row.upload_id for row in tx.session.query(RowHashRow)} == {submitted.id}


def test_an_upload_that_is_submitted_at_the_last_moment_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = world.upload()
    world.now += 86_401
    in_states = UploadStore.in_states

    def and_then_it_is_submitted(store: UploadStore, *args: Any, **named: Any) -> list[str]:
        found = in_states(store, *args, **named)
        if found == [draft.id]:
            world.contributions.submit(draft.id, world.sign(draft))
        return found

    monkeypatch.setattr(UploadStore, "in_states", and_then_it_is_submitted)
    world.curation.advance()
    assert state(world, draft.id) is UploadState.SUBMITTED
    assert world.staging.data(draft.id).exists()


def test_the_others_go_on_where_one_is_gone(world: World) -> None:
    upload = world.submit(signer=ALICE)
    assert world.curation._advance("upload-none") is False
    assert state(world, upload.id) is UploadState.SUBMITTED


@pytest.mark.parametrize(("reason", "name"), [(4, "quality"), (6, "personal_data"), (999, None)])
def test_a_rejection_tells_its_reason(world: World, reason: int, name: str | None) -> None:
    upload = world.submit()
    world.record(upload, 0, is_accepted=False, reason=reason)
    world.curation.advance()
    [found] = world.contributions.find()
    assert (found.state, found.reason, found.reason_name) == (UploadState.REJECTED, reason, name)
    world.record(upload, 0, is_accepted=True, reason=0)
    assert world.contributions.status(upload.id).reason is None, "a later decision replaces it"
