from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from backend.domain.content import ContentCorrupt
from backend.domain.errors import NotFound
from backend.domain.ids import Hash32, SnapshotId
from backend.domain.money import GWEI
from backend.services.transactions.relays import ACCOUNT_SHARE, FEE_OF_PRICE, RelayBudgetSpent
from tests.support.contributions import ALICE, BOB, NET, OPERATOR, ContributionHarness

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.contribution import Upload

LONG_LICENCE = "Apache-2.0 AND BSD-2-Clause AND BSD-3-Clause AND MIT"


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


def submit(harness: ContributionHarness, text: str, licence: str = "MIT", signer: object = ALICE) -> Upload:
    upload = harness.upload(json.dumps({"text": text}).encode(), signer, licence)
    return harness.contributions.submit(upload.id, harness.sign(upload, signer))


def three_recorded(harness: ContributionHarness) -> SnapshotId:
    """A snapshot of three contributions, the second of them rejected; a fourth follows the snapshot."""
    uploads = [submit(harness, "one"), submit(harness, "two"), submit(harness, "three", LONG_LICENCE, BOB)]
    for index, upload in enumerate([*uploads, submit(harness, "four")]):
        harness.record(upload, index, is_accepted=index != 1)
    return harness.freeze(True, False, True)


def test_rows_are_those_of_accepted_contributions_in_order(harness: ContributionHarness) -> None:
    snapshot = three_recorded(harness)
    assert list(harness.snapshots.rows(snapshot)) == [(0, {"text": "one"}), (2, {"text": "three"})]


def test_rows_at_places_are_counted_by_what_contributions_state(harness: ContributionHarness) -> None:
    upload = harness.upload(b"".join(b'{"text":"%d"}\n' % i for i in range(9)))
    upload = harness.contributions.submit(upload.id, harness.sign(upload))
    harness.record(upload, 0, is_accepted=True)
    overstated = replace(other := submit(harness, "one"), report=replace(other.report, num_rows=5))
    harness.record(overstated, 1, is_accepted=True)
    harness.record(submit(harness, "two"), 2, is_accepted=True)
    snapshot = harness.freeze(True, True, True)

    def found(*places: int) -> list[tuple[int, str]]:
        return [(index, row["text"]) for index, row in harness.snapshots.rows_at(snapshot, places)]

    assert found(0, 3, 4, 8) == [(0, "0"), (0, "3"), (0, "4"), (0, "8")]
    assert found(2, 9, 10, 13, 14) == [(0, "2"), (1, "one"), (2, "two")]
    assert found() == found(10) == found(15) == []


def test_contributions_without_a_row_at_the_places_are_not_read(harness: ContributionHarness) -> None:
    files: dict[str, bytes | Path] = {"data.jsonl": b'{"text":"other"}\n', "contribution.json": b"{}\n"}
    record_forged(harness, submit(harness, "one"), files)
    harness.record(submit(harness, "two"), 1, is_accepted=True)
    snapshot = harness.freeze(True, True)
    assert list(harness.snapshots.rows_at(snapshot, [1])) == [(1, {"text": "two"})]
    with pytest.raises(ContentCorrupt):
        list(harness.snapshots.rows_at(snapshot, [0]))


def test_licences_come_from_the_chain_and_long_ones_from_the_manifest(harness: ContributionHarness) -> None:
    assert harness.snapshots.licences(three_recorded(harness)) == [LONG_LICENCE, "MIT"]


def test_the_manifest_says_how_to_fetch_and_check_all_of_it(harness: ContributionHarness) -> None:
    snapshot = three_recorded(harness)
    manifest = harness.snapshots.manifest(snapshot)
    assert (manifest["snapshotId"], manifest["datanetId"], manifest["count"]) == (snapshot, NET, 3)
    assert [entry["index"] for entry in manifest["contributions"]] == [0, 2]
    assert [entry["contributor"] for entry in manifest["contributions"]] == [ALICE.account, BOB.account]
    for entry in manifest["contributions"]:
        assert harness.store.has(entry["cid"])


def record_forged(harness: ContributionHarness, upload: Upload, files: dict[str, bytes | Path]) -> None:
    """The contributor signed one content hash and the CID of something else."""
    forged = replace(upload.report, cid=harness.store.add_folder(files))
    harness.record(replace(upload, report=forged), 0, is_accepted=True)


def test_rows_with_another_hash_than_the_chains_are_not_handed_out(harness: ContributionHarness) -> None:
    files: dict[str, bytes | Path] = {"data.jsonl": b'{"text":"other"}\n', "contribution.json": b"{}\n"}
    record_forged(harness, submit(harness, "one"), files)
    with pytest.raises(ContentCorrupt):
        list(harness.snapshots.rows(harness.freeze(True)))


def test_rows_that_no_check_would_have_passed_are_not_handed_out(harness: ContributionHarness) -> None:
    rows = b"[" * 99_999
    files: dict[str, bytes | Path] = {"data.jsonl": rows, "contribution.json": b"{}\n"}
    upload = submit(harness, "one")
    content_hash = Hash32("0x" + sha256(rows).hexdigest())
    record_forged(harness, replace(upload, report=replace(upload.report, content_hash=content_hash)), files)
    with pytest.raises(ContentCorrupt, match="line 1"):
        list(harness.snapshots.rows(harness.freeze(True)))


BAD_MANIFESTS = [
    b'{"licence":"MIT"}\n',
    b'{"licence":"\xc3\xa9"}',
    b"{}",
    b"[]",
    b"no",
    b"[" * 99_999,
    b"\xff",
    b"",
]


@pytest.mark.parametrize("manifest", BAD_MANIFESTS)
def test_a_manifest_with_another_licence_than_the_chains_is_not_believed(
    harness: ContributionHarness, manifest: bytes
) -> None:
    files: dict[str, bytes | Path] = {"data.jsonl": b'{"text":"one"}\n', "contribution.json": manifest}
    record_forged(harness, submit(harness, "one", LONG_LICENCE), files)
    with pytest.raises(ContentCorrupt):
        harness.snapshots.licences(harness.freeze(True))


def test_freezing_asks_for_the_snapshot_that_the_chain_previews(harness: ContributionHarness) -> None:
    snapshot = SnapshotId("0x" + "ab" * 32)
    harness.chain.preview = (snapshot, "0x" + "cd" * 32)
    first = harness.snapshots.freeze(OPERATOR.account, NET, 2)
    assert first.snapshot_id == snapshot
    assert harness.snapshots.freeze(OPERATOR.account, NET, 2) == first
    assert harness.queued() == [("freeze", ("1", "2"))]


def test_freezing_is_within_the_relay_budget_and_after_the_operators_own_calls(
    harness: ContributionHarness,
) -> None:
    harness.relays._budget = 200_000 * FEE_OF_PRICE * GWEI * ACCOUNT_SHARE
    harness.chain.preview = (SnapshotId("0x" + "ab" * 32), "0x" + "cd" * 32)
    harness.snapshots.freeze(ALICE.account, NET, 2)
    harness.chain.preview = (SnapshotId("0x" + "cd" * 32), "0x" + "cd" * 32)
    with pytest.raises(RelayBudgetSpent, match="freeze would exceed that"):
        harness.snapshots.freeze(ALICE.account, NET, 1)
    assert harness.queued() == [("freeze", ("1", "2"))]
    with harness.database.begin() as tx:
        tx.transactions.enqueue(OPERATOR.account, "Settlement", "commit", [], "commit")
        first = tx.transactions.first_queued(OPERATOR.account)
    assert first is not None
    assert first.function == "commit"


def test_a_snapshot_whose_freezing_failed_can_be_frozen_again(harness: ContributionHarness) -> None:
    harness.chain.preview = (SnapshotId("0x" + "ab" * 32), "0x" + "cd" * 32)
    first = harness.snapshots.freeze(OPERATOR.account, NET, 2)
    harness.fail(first.transaction_id, "OutOfGas")
    again = harness.snapshots.freeze(OPERATOR.account, NET, 2)
    assert again.transaction_id != first.transaction_id
    assert harness.snapshots.freeze(OPERATOR.account, NET, 2) == again


def test_an_unknown_snapshot_is_not_found(harness: ContributionHarness) -> None:
    with pytest.raises(NotFound):
        list(harness.snapshots.rows(SnapshotId("0x" + "00" * 32)))
    with pytest.raises(NotFound):
        harness.snapshots.get(SnapshotId("0x" + "00" * 32))
