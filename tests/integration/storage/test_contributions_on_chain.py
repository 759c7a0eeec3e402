"""Contributions against the real registry: real signatures, sender, indexer and curator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.contract_wallets import WalletCalls
from backend.chain.indexer import Indexer
from backend.chain.keys import local_account, recover
from backend.chain.sending.sender import Sender
from backend.domain.chain import Reverted
from backend.domain.content import cid_digest
from backend.domain.contribution import ReviewReason, UploadState
from backend.domain.errors import NotFound
from backend.domain.hashing import accepted_hash, ascii_word, licence_word, snapshot_id, to_hash
from backend.domain.ids import ZERO_HASH, DatanetId
from backend.ports.storage import fetch_nothing
from backend.services.background import Background
from backend.services.contribute.check_upload import UploadCheck
from backend.services.contribute.contributions import Contributions, WrongSignature
from backend.services.contribute.curate import Curation
from backend.services.contribute.docstrings import build_dataset
from backend.services.contribute.snapshot import Snapshots
from backend.services.contribute.staging import Staging
from backend.services.contribute.terms import DatanetTerms
from backend.services.market.datanet_folders import DatanetFolders
from backend.services.market.registry import Registry
from backend.services.transactions.consent import Consent
from backend.storage.embedded import EmbeddedStore
from tests.support.contract_wallets import owned_by, place
from tests.support.contributions import sign
from tests.support.market import some_account
from tests.support.relays import relays_of
from tools.wallet import send

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database
    from backend.domain.contribution import Upload
    from backend.domain.deployment import Deployment
    from backend.domain.transactions import PreparedTransaction

OPERATOR, ALICE, BOB = local_account(1), local_account(3), local_account(4)
CONFIRMATIONS = 1
NET = DatanetId(1)


class Installation:
    """An operator's services without their loops; `settle` runs them until nothing is due."""

    def __init__(self, chain: ChainClient, deployment: Deployment, database: Database, home: Path) -> None:
        self.chain = chain
        self.database = database
        self.store = EmbeddedStore(home / "ipfs", is_durable=False)
        staging, lane = Staging(home / "uploads", 1 << 20), OPERATOR.account
        check = UploadCheck(database, staging, lambda _texts: None, frozenset())
        consent = Consent(recover, WalletCalls(chain.node))
        relays = relays_of(database, chain, lane)
        terms = DatanetTerms(self.store, fetch_nothing, Background())
        self.contributions = Contributions(database, self.store, chain, consent, check, relays, terms)
        self.curation = Curation(database, self.store, staging, lane)
        self.snapshots = Snapshots(database, self.store, chain, relays, home)
        self.registry = Registry(database, chain, DatanetFolders(database, self.store, home / "datanets"))
        signers = {key.account: key for key in (OPERATOR, ALICE, BOB)}
        self._sender = Sender(chain, database.send_queue, signers.get, CONFIRMATIONS)
        self._indexer = Indexer(chain, database.event_log, deployment, CONFIRMATIONS)

    def send(self, function: str, *args: Any, lane: Any = OPERATOR) -> None:
        with self.database.begin() as tx:
            tx.transactions.enqueue(lane.account, "DatasetRegistry", function, args, function)

    def settle(self) -> None:
        for _ in range(3):
            self._sender.run_once()
            self.chain.node.rpc.request("hardhat_mine", hex(CONFIRMATIONS + 1))
            self._sender.run_once()
            self._indexer.catch_up()
            self.curation.advance()

    def upload(self, signer: Any, lines: list[bytes], licence: str) -> Upload:
        return self.contributions.upload(signer.account, NET, "docs", lines, licence)

    def submit(self, signer: Any, upload: Upload) -> Upload:
        return self.contributions.submit(upload.id, sign(self.contributions, upload, signer))

    def state(self, upload: Upload) -> UploadState:
        return self.contributions.status(upload.id).state


@pytest.fixture
def market(
    chain: ChainClient, deployment: Deployment, sqlite_database: Database, tmp_path: Path
) -> Installation:
    installation = Installation(chain, deployment, sqlite_database, tmp_path)
    about = cid_digest(installation.store.add_folder({"README.md": b"# Docs"}))
    installation.send("createDatanet", to_hash(ascii_word("docs")), about)
    installation.settle()
    return installation


def test_docstrings_become_accepted_contributions_and_a_snapshots_rows(market: Installation) -> None:
    data = {ALICE: build_dataset("json"), BOB: build_dataset("web3", 30)}
    uploads = []
    for signer, dataset in data.items():
        upload = market.upload(signer, list(dataset.lines()), dataset.licence)
        assert upload.state is UploadState.DRAFT
        uploads.append(market.submit(signer, upload))
    market.settle()
    assert [market.state(upload) for upload in uploads] == [UploadState.ACCEPTED] * 2
    with market.database.read() as tx:
        recorded = tx.chain.contributions(NET)
    assert [c.contributor for c in recorded] == [ALICE.account, BOB.account]
    assert [c.content_hash for c in recorded] == [upload.report.content_hash for upload in uploads]

    freezing = market.snapshots.freeze(OPERATOR.account, NET, 2)
    market.settle()
    assert freezing.snapshot_id == snapshot_id(NET, 2, accepted_hash([True, True]))
    assert market.snapshots.get(freezing.snapshot_id).accepted == (0, 1)
    rows = list(market.snapshots.rows(freezing.snapshot_id))
    assert rows == [(index, row) for index, d in enumerate(data.values()) for row in d.rows]
    assert market.snapshots.licences(freezing.snapshot_id) == ["MIT", "PSF-2.0"]


def recorded_by_bob(market: Installation, upload: Upload) -> PreparedTransaction:
    """Bob's contribution of the same content, for his wallet."""
    report = upload.report
    assert report.cid is not None
    contribution = {
        "datanetId": str(NET),
        "contentHash": report.content_hash,
        "cidDigest": cid_digest(report.cid),
        "licence": licence_word("MIT"),
        "rows": "1",
    }
    return market.chain.prepare("DatasetRegistry", "contribute", contribution, sender=BOB.account)


def test_content_that_another_account_records_first_returns_as_a_draft(market: Installation) -> None:
    upload = market.upload(ALICE, [b'{"text": "mine"}'], "MIT")
    market.submit(ALICE, upload)
    send(market.chain, BOB, recorded_by_bob(market, upload))
    market.settle()
    draft = market.contributions.status(upload.id)
    assert draft.state is UploadState.DRAFT
    assert draft.error is not None
    assert draft.error["error"] == "ContentAlreadyRecorded"


def test_a_contribution_that_would_fail_is_neither_published_nor_sent(market: Installation) -> None:
    upload = market.upload(ALICE, [b'{"text": "mine"}'], "MIT")
    send(market.chain, BOB, recorded_by_bob(market, upload))
    with pytest.raises(Reverted) as refused:
        market.submit(ALICE, upload)
    assert refused.value.error == "ContentAlreadyRecorded"
    assert market.contributions.status(upload.id).state is UploadState.DRAFT
    assert upload.report.cid is not None
    assert not market.store.has(upload.report.cid)


def test_several_contributions_can_be_submitted_before_the_first_is_mined(market: Installation) -> None:
    uploads = [market.upload(ALICE, [b'{"text": "%d"}' % number], "MIT") for number in range(3)]
    submitted = [market.submit(ALICE, upload) for upload in uploads]
    market.settle()
    states = [market.contributions.status(upload.id).state for upload in submitted]
    assert set(states) <= {UploadState.RECORDED, UploadState.ACCEPTED}


def test_a_curators_rejection_reaches_the_contributor_and_later_snapshots(market: Installation) -> None:
    kept = market.submit(ALICE, market.upload(ALICE, [b'{"text": "kept"}'], "MIT"))
    spam = market.submit(ALICE, market.upload(ALICE, [b'{"text": "spam"}'], "MIT"))
    market.settle()
    content_hash = spam.report.content_hash
    assert content_hash is not None
    with pytest.raises(Reverted):
        market.registry.prepare_review(ALICE.account, NET, content_hash, ReviewReason.QUALITY)
    with pytest.raises(NotFound):
        market.registry.prepare_review(OPERATOR.account, NET, ZERO_HASH, ReviewReason.QUALITY)
    rejection = market.registry.prepare_review(OPERATOR.account, NET, content_hash, ReviewReason.QUALITY)
    send(market.chain, OPERATOR, rejection)
    market.settle()
    assert market.state(kept) is UploadState.ACCEPTED
    assert market.state(spam) is UploadState.REJECTED
    freezing = market.snapshots.freeze(OPERATOR.account, NET, 2)
    market.settle()
    assert list(market.snapshots.rows(freezing.snapshot_id)) == [(0, {"text": "kept"})]


def test_a_withdrawn_contribution_is_in_no_later_snapshot(market: Installation) -> None:
    texts = (b'{"text": "kept"}', b'{"text": "taken back"}')
    uploads = [market.submit(ALICE, market.upload(ALICE, [text], "MIT")) for text in texts]
    market.settle()
    before = market.snapshots.freeze(OPERATOR.account, NET, 2)
    market.settle()
    market.contributions.withdraw(uploads[1].id)
    market.settle()
    found = market.contributions.status(uploads[1].id)
    assert (found.state, found.reason_name) == (UploadState.WITHDRAWN, "withdrawn")
    after = market.snapshots.freeze(OPERATOR.account, NET, 2)
    market.settle()
    assert list(market.snapshots.rows(after.snapshot_id)) == [(0, {"text": "kept"})]
    assert market.snapshots.get(before.snapshot_id).accepted == (0, 1)


def test_a_contract_wallet_contributes_by_its_owners_signature(market: Installation) -> None:
    """EIP-1271, as the registry takes it."""
    wallet = some_account("contract wallet")
    place(market.chain.node, wallet, owned_by(ALICE.account))
    dataset = build_dataset("json")
    upload = market.contributions.upload(wallet, NET, "docs", list(dataset.lines()), dataset.licence)
    with pytest.raises(WrongSignature, match="EIP-1271"):
        market.submit(BOB, upload)
    market.submit(ALICE, upload)
    market.settle()
    assert market.state(upload) is UploadState.ACCEPTED
    with market.database.read() as tx:
        assert [c.contributor for c in tx.chain.contributions(NET)] == [wallet]
