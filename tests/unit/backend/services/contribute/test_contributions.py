from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from eth_account import Account as EthAccount
from eth_account.messages import encode_typed_data

from backend.db.contributions import UploadStore
from backend.domain.contribution import UploadState
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from backend.domain.hashing import keccak
from backend.services.contribute.contributions import CopiedRows, SignatureExpired, WrongSignature
from backend.services.contribute.uploads import release_rows
from backend.services.transactions.relays import RelayBudgetSpent
from tests.support.contributions import ALICE, BOB, NET, ROWS, ContributionHarness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.contribution import Copy


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


@pytest.fixture
def any_world(database: Database, tmp_path: Path) -> ContributionHarness:
    """On SQLite and on PostgreSQL."""
    return ContributionHarness(database, tmp_path)


def test_a_sound_upload_is_a_draft_with_counts_and_ids(any_world: ContributionHarness) -> None:
    upload = any_world.upload()
    assert upload.state is UploadState.DRAFT
    report = upload.report
    assert (report.format, report.num_rows, report.num_defects, report.licence) == ("instruct", 2, 0, "MIT")
    assert report.num_characters == sum(map(len, ("What is a?", "A letter.", "b?", "Another.")))
    assert any_world.contributions.status(upload.id) == upload
    assert any_world.published == []


def test_the_canonical_form_and_its_manifest_are_published(harness: ContributionHarness) -> None:
    submitted = harness.submit(b'{"completion":"A.",  "prompt":"\\u00e9?"}\n{"prompt":"b","completion":"B"}')
    cid = submitted.report.cid
    assert cid is not None
    rows = '{"completion":"A.","prompt":"é?"}\n{"completion":"B","prompt":"b"}\n'.encode()
    assert harness.store.read(cid, "data.jsonl") == rows
    assert submitted.report.num_bytes == len(rows)
    manifest = json.loads(harness.store.read(cid, "contribution.json"))
    assert manifest["contentHash"] == submitted.report.content_hash
    assert manifest["contributor"] == ALICE.account
    assert (manifest["licence"], manifest["rows"], manifest["rowFormat"]) == ("MIT", 2, "instruct")


def test_drafts_claim_nothing(harness: ContributionHarness) -> None:
    harness.upload()
    assert harness.upload(signer=BOB).state is UploadState.DRAFT


def test_a_file_that_the_chain_has_from_elsewhere_is_refused(harness: ContributionHarness) -> None:
    theirs = harness.upload(signer=BOB)
    harness.record(theirs, 0)
    assert [d.code for d in harness.upload().report.defects] == ["copied_file"]


def test_of_two_drafts_with_the_same_rows_the_first_submitted_wins(any_world: ContributionHarness) -> None:
    mine, theirs = any_world.upload(), any_world.upload(ROWS + b'{"prompt":"c","completion":"C"}', BOB)
    any_world.contributions.submit(theirs.id, any_world.sign(theirs, BOB))
    with pytest.raises(CopiedRows) as caught:
        any_world.contributions.submit(mine.id, any_world.sign(mine))
    assert [copy["of_account"] for copy in caught.value.details["copies"]] == [BOB.account] * 2
    assert any_world.contributions.status(mine.id).state is UploadState.DRAFT
    assert len(any_world.queued()) == 1


LETTERS = {letter: b'{"text": "%s"}\n' % letter.encode() for letter in "abcdef"}


@pytest.mark.parametrize("taken", LETTERS)
def test_rows_are_claimed_all_or_none_however_few_at_a_time(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    monkeypatch.setattr("backend.services.contribute.uploads.ROWS_AT_ONCE", 2)
    mine = harness.upload(b"".join(LETTERS.values()))
    harness.submit(LETTERS[taken], BOB)
    with pytest.raises(CopiedRows):
        harness.contributions.submit(mine.id, harness.sign(mine))
    assert harness.contributions.status(mine.id).state is UploadState.DRAFT
    others = b"".join(row for letter, row in LETTERS.items() if letter != taken)
    assert harness.upload(others, BOB).state is UploadState.DRAFT, "what was claimed before is free again"


def test_many_rows_are_claimed_a_few_at_a_time(
    any_world: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.contribute.uploads.ROWS_AT_ONCE", 2)
    any_world.submit(b"".join(LETTERS.values()))
    again = any_world.upload(b"".join(LETTERS.values()), BOB)
    assert again.report.defect_counts == {"copied_row": len(LETTERS)}


def test_a_concurrently_released_claim_is_noticed(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = harness.upload()
    signature = harness.sign(upload)

    def claimed_and_given_up(begin: Any, upload_id: str) -> bool:
        release_rows(begin, upload_id)
        return True

    with monkeypatch.context() as patched:
        patched.setattr("backend.services.contribute.contributions.claim_rows", claimed_and_given_up)
        with pytest.raises(Conflict, match="submit it again"):
            harness.contributions.submit(upload.id, signature)
    assert harness.queued() == []
    assert harness.contributions.submit(upload.id, signature).state is UploadState.SUBMITTED


def test_others_write_while_copies_are_looked_for(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.submit()
    copies, found = UploadStore.copies, []

    def slow_copies(store: UploadStore, upload_id: str) -> Iterator[Copy]:
        for copy in copies(store, upload_id):
            with harness.database.begin() as tx:  # would wait for half a minute, and fail
                tx.contributions.drop_rows("upload-none", 1)
            found.append(copy)
            yield copy

    monkeypatch.setattr(UploadStore, "copies", slow_copies)
    harness.upload(ROWS, BOB)
    assert len(found) == 2


def test_reads_succeed_during_a_write(harness: ContributionHarness) -> None:
    upload = harness.upload()
    snapshot = harness.freeze(True)
    with harness.database.begin():
        assert harness.contributions.status(upload.id) == upload
        assert harness.contributions.find() == [upload]
        assert harness.snapshots.get(snapshot).id == snapshot


def test_wallets_sign_the_typed_data_as_it_is(harness: ContributionHarness) -> None:
    upload = harness.upload()
    message = harness.contributions.typed_data(upload.id)
    key = EthAccount.from_mnemonic(
        "test test test test test test test test test test test junk", account_path="m/44'/60'/0'/0/3"
    )
    signed = EthAccount.sign_message(encode_typed_data(full_message=message), key.key)
    submitted = harness.contributions.submit(upload.id, "0x" + signed.signature.hex())
    assert submitted.state is UploadState.SUBMITTED


def test_finding8_the_signed_message_names_the_contributor(harness: ContributionHarness) -> None:
    upload = harness.upload()
    message = harness.contributions.typed_data(upload.id)
    assert message["message"]["account"] == ALICE.account
    message["message"]["account"] = BOB.account
    signable = encode_typed_data(full_message=message)
    signature = ALICE.sign(keccak(b"\x19" + signable.version + signable.header + signable.body))
    with pytest.raises(WrongSignature):
        harness.contributions.submit(upload.id, signature)


def test_submitting_publishes_and_queues_one_transaction(any_world: ContributionHarness) -> None:
    upload = any_world.upload()
    signature = any_world.sign(upload)
    submitted = any_world.contributions.submit(upload.id, signature)
    assert any_world.contributions.submit(upload.id, signature) == submitted
    assert any_world.published == [submitted.report.cid]
    [(function, (argument,))] = any_world.queued()
    assert function == "contributeWithSig"
    assert argument["contributor"] == ALICE.account
    assert argument["contribution"]["contentHash"] == submitted.report.content_hash
    assert argument["signature"] == signature
    assert argument["nonce"] == "0"


def test_a_submission_beyond_the_relay_budget_changes_nothing(harness: ContributionHarness) -> None:
    upload = harness.upload()
    signature = harness.sign(upload)
    harness.relays._budget = 0
    with pytest.raises(RelayBudgetSpent):
        harness.contributions.submit(upload.id, signature)
    assert (harness.published, harness.queued()) == ([], [])
    harness.relays._budget = None
    assert harness.contributions.submit(upload.id, signature).state is UploadState.SUBMITTED


@pytest.mark.parametrize(("on_chain", "is_simulated"), [(-1, False), (0, True), (1, True)])
def test_a_contribution_is_simulated_unless_it_waits_for_an_earlier_one(
    harness: ContributionHarness, on_chain: int, is_simulated: bool
) -> None:
    upload = harness.upload()
    signature = harness.sign(upload)  # with nonce 0
    harness.chain.nonces[ALICE.account] = on_chain
    harness.contributions.submit(upload.id, signature)
    assert bool(harness.chain.simulated) is is_simulated


@pytest.mark.parametrize(
    "signature", ["", "0x", "nonsense", "0x" + "11" * 64, "0x" + "11" * 65, "0x" + "00" * 65]
)
def test_malformed_signatures_are_refused(harness: ContributionHarness, signature: str) -> None:
    upload = harness.upload()
    harness.sign(upload)
    with pytest.raises(InvalidInput):
        harness.contributions.submit(upload.id, signature)
    assert (harness.published, harness.queued()) == ([], [])


def test_another_accounts_signature_is_refused(harness: ContributionHarness) -> None:
    upload = harness.upload()
    with pytest.raises(WrongSignature):
        harness.contributions.submit(upload.id, harness.sign(upload, BOB))
    assert harness.contributions.status(upload.id).state is UploadState.DRAFT


def test_a_signature_of_another_upload_is_refused(harness: ContributionHarness) -> None:
    first, second = harness.upload(), harness.upload(b'{"text": "something else"}')
    harness.contributions.typed_data(second.id)
    with pytest.raises(WrongSignature):
        harness.contributions.submit(second.id, harness.sign(first))


def test_a_late_signature_is_refused_and_a_new_one_taken(harness: ContributionHarness) -> None:
    upload = harness.upload()
    signature = harness.sign(upload)
    harness.now += 3601
    with pytest.raises(SignatureExpired):
        harness.contributions.submit(upload.id, signature)
    assert harness.contributions.submit(upload.id, harness.sign(upload)).state is UploadState.SUBMITTED


def test_deadlines_go_by_the_chains_clock_where_it_is_ahead(harness: ContributionHarness) -> None:
    harness.chain.timestamp = int(harness.now) + 86_400
    upload = harness.upload()
    signature = harness.sign(upload)
    ticket = harness.contributions.status(upload.id).signing_request
    assert ticket is not None
    assert ticket.deadline == harness.chain.timestamp + 3600
    harness.chain.timestamp += 3600
    with pytest.raises(SignatureExpired):
        harness.contributions.submit(upload.id, signature)


def test_typed_data_is_asked_for_before_submitting(harness: ContributionHarness) -> None:
    with pytest.raises(Conflict, match="typed data"):
        harness.contributions.submit(harness.upload().id, "0x" + "11" * 65)


def test_only_the_contributor_gets_the_typed_data(harness: ContributionHarness) -> None:
    upload = harness.upload()
    with pytest.raises(Forbidden):
        harness.contributions.typed_data(upload.id, BOB.account)
    assert harness.contributions.typed_data(upload.id, ALICE.account)


def test_typed_data_stays_the_same_while_it_can_be_used(harness: ContributionHarness) -> None:
    upload = harness.upload()
    first = harness.contributions.typed_data(upload.id)
    harness.now += 60
    assert harness.contributions.typed_data(upload.id) == first
    harness.now += 3000
    assert harness.contributions.typed_data(upload.id) != first


def test_nonces_follow_each_other_while_the_chain_lags(harness: ContributionHarness) -> None:
    harness.chain.nonces[ALICE.account] = 5
    uploads = [harness.submit(LETTERS[letter]) for letter in "abc"]
    assert [upload.signing_request.nonce for upload in uploads if upload.signing_request] == [5, 6, 7]


def test_a_store_that_fails_leaves_a_draft_to_submit_again(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = harness.upload()
    signature = harness.sign(upload)

    def down(*_: Any) -> None:
        raise Unavailable("down")

    with monkeypatch.context() as patched:
        patched.setattr(harness.store, "add_folder", down)
        with pytest.raises(Unavailable):
            harness.contributions.submit(upload.id, signature)
    assert harness.contributions.status(upload.id).state is UploadState.DRAFT
    assert harness.queued() == []
    assert harness.contributions.submit(upload.id, signature).state is UploadState.SUBMITTED


def test_a_crash_before_the_commit_leaves_a_draft_to_submit_again(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = harness.upload()
    signature = harness.sign(upload)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("backend.db.transactions.TransactionStore.enqueue", killed)
        with pytest.raises(KeyboardInterrupt):
            harness.contributions.submit(upload.id, signature)
    assert harness.contributions.status(upload.id).state is UploadState.DRAFT
    assert harness.upload(ROWS, BOB).state is UploadState.DRAFT, "the claim of the rows must not survive"
    assert harness.contributions.submit(upload.id, signature).state is UploadState.SUBMITTED


def test_rows_that_changed_on_disk_are_not_published(harness: ContributionHarness) -> None:
    upload = harness.upload()
    signature = harness.sign(upload)
    harness.staging.data(upload.id).write_bytes(b"{}")
    with pytest.raises(Exception, match="changed on disk"):
        harness.contributions.submit(upload.id, signature)
    assert harness.queued() == []


def test_uploads_are_found_by_account_and_datanet(harness: ContributionHarness) -> None:
    mine, theirs = harness.upload(), harness.upload(b'{"text": "t"}', BOB)
    assert [upload.id for upload in harness.contributions.find(account=ALICE.account)] == [mine.id]
    assert {upload.id for upload in harness.contributions.find(datanet=NET)} == {mine.id, theirs.id}
    with pytest.raises(NotFound):
        harness.contributions.status("upload-none")
