"""A populated market on the real contracts, settled by the real services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.indexer import Indexer
from backend.chain.keys import local_account, recover
from backend.chain.sending.sender import Sender
from backend.deployment.local import deploy_local
from backend.domain.hashing import (
    receipt_id,
)
from backend.domain.ids import ZERO_HASH
from backend.domain.serving import NewReceipt
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.accounts.claims import Claims
from backend.services.audit.auditor import Auditor
from backend.services.audit.background import BackgroundAudits
from backend.services.audit.cases import Cases
from backend.services.background import Background
from backend.services.receipts.proofs import Proofs
from backend.services.settle.pace import Pace
from backend.services.settle.settler import Settler
from backend.storage.embedded import EmbeddedStore
from tests.support.relays import relays_of
from tools.local_market import CONTRIBUTORS, OPERATOR, PAYERS, LocalMarket

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.keys import LocalSigner
    from backend.chain.local_node import LocalNode
    from backend.db.unit_of_work import Database
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from backend.ports.keys import Signer

PAYER, OTHER_PAYER = PAYERS
SESSION_KEY = local_account(9)
DEPOSIT = 100_000_000


WINDOW = 120
"""Seconds of the dispute window. Answers are due within an eighth of it."""


@pytest.fixture(scope="session")
def deployed(hardhat_node: LocalNode) -> Deployment:
    """The contracts with a dispute window in which tests can demand, answer and prove."""
    return deploy_local(hardhat_node.url, dispute_window=WINDOW)


class LiveMarket(LocalMarket):
    """A market whose sender and indexer run on request: `pump` sends, mines and indexes what is pending."""

    def __init__(self, chain: ChainClient, database: Database, folder: Path) -> None:
        super().__init__(chain)
        self.database = database
        self.blobs = EmbeddedStore(folder / "blobs", is_durable=False)
        signers = {key.account: key for key in (OPERATOR, *CONTRIBUTORS)}
        self.sender = Sender(chain, database.send_queue, signers.get, confirmations=0)
        self.indexer = Indexer(chain, database.event_log, chain.deployment, confirmations=0)
        self.populate(DEPOSIT, SESSION_KEY.account)
        self.indexer.catch_up()

    def pump(self) -> None:
        for _ in range(3):
            self.sender.run_once()
        self.indexer.catch_up()

    def sleep(self, seconds: int) -> None:
        self.pass_time(seconds)
        self.indexer.catch_up()

    def serve(self, payer: LocalSigner, *args: Any, **options: Any) -> SignedReceipt:
        """An answer, kept. A payer without session key signs a voucher as clients do."""
        signed = super().serve(payer, *args, **options)
        self._store(payer, signed)
        return signed

    def auditor(self, database: Database | None = None) -> Auditor:
        db = database or self.database
        return Auditor(db, Cases(self.chain, self.blobs, recover, self.settlement))

    def audits(self) -> BackgroundAudits:
        return BackgroundAudits(self.database, self.auditor(), Background(wait_seconds=60))

    def settler(self) -> Settler:
        return Settler(
            operator=OPERATOR.account,
            db=self.database,
            chain=self.chain,
            blobs=self.blobs,
            auditor=self.auditor(),
            keys=self,
            receipt_key=lambda _: self.receipt_key,
            recover=recover,
            vault=self.vault,
            settlement=self.settlement,
            pace=Pace(seconds=0, receipts=10_000),
            clock=lambda: self.chain.head().timestamp,
            thaw_seconds=int(self.chain.call("PaymentVault", "thawSeconds")),
        )

    def claims(self) -> Claims:
        relays = relays_of(self.database, self.chain, OPERATOR.account)
        return Claims(self.database, self.audits(), self.chain, relays)

    def proofs(self) -> Proofs:
        return Proofs(self.database, self.auditor(), self.chain, Background(wait_seconds=60))

    def signer(self, key: Account) -> Signer | None:
        return SESSION_KEY if key == SESSION_KEY.account else None

    def _store(self, payer: Signer, signed: SignedReceipt) -> None:
        receipt = signed.receipt
        with self.database.begin() as tx:
            tx.receipts.add(
                NewReceipt(
                    id=receipt_id(receipt),
                    operator=OPERATOR.account,
                    payer=payer.account,
                    signed=signed,
                    signer=recover(self.settlement.receipt_digest(receipt), signed.signature),
                    salt=ZERO_HASH,
                    key_id=None,
                )
            )
            if payer is not PAYER:
                voucher = Voucher(receipt.channel_id, 0, receipt.cumulative)
                signature = payer.sign(self.vault.voucher_digest(voucher))
                tx.channels.put_voucher(ClientVoucher(SignedVoucher(voucher, signature), payer.account))


@pytest.fixture
def market(chain: ChainClient, database: Database, tmp_path: Path) -> LiveMarket:
    return LiveMarket(chain, database, tmp_path)
