"""A furnished market on the real contracts, served by hand, settled by the real parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.deploy import Deployer
from backend.chain.indexer import Indexer
from backend.chain.keys import local_account, recover
from backend.chain.sender import Sender
from backend.domain.hashing import (
    TypedDomain,
    accepted_hash,
    ascii_word,
    attribution_hash,
    channel_id,
    receipt_id,
    slices_hash,
    snapshot_id,
    to_hash,
    version_id,
)
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, DatanetId
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice, VersionRecord
from backend.domain.split import PPM, charge
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.ports.serving import NewReceipt
from backend.services.audit.auditor import Auditor
from backend.services.audit.cases import Cases
from backend.services.claim import Claims
from backend.services.prove import Proofs
from backend.services.settle.settler import Pace, Settler
from backend.storage.embedded import EmbeddedStore
from tests.support.market import METHOD, some_hash

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, ChannelId
    from backend.ports.chain import Signer

COUNCIL, OPERATOR, RECEIPT_KEY = (local_account(n) for n in range(3))
CONTRIBUTORS = [local_account(n) for n in (3, 4, 5)]
CREATOR, PAYER, OTHER_PAYER, SESSION_KEY = (local_account(n) for n in (6, 7, 8, 9))
DEPOSIT = 100_000_000


class LiveMarket:
    """The chain's parts run when they are told to: `pump` sends, mines and indexes all that waits."""

    def __init__(self, chain: ChainClient, database: Database, folder: Path) -> None:
        self.chain, self.database = chain, database
        self.blobs = EmbeddedStore(folder / "blobs", is_durable=False)
        self.settlement = TypedDomain(chain.chain_id, chain.address("Settlement"))
        self.vault = TypedDomain(chain.chain_id, chain.address("PaymentVault"))
        signers = {key.account: key for key in (OPERATOR, *CONTRIBUTORS)}
        self.sender = Sender(chain, database.begin, signers.get, confirmations=0)
        self.indexer = Indexer(chain, database.begin, chain.deployment, confirmations=0)
        self.line: dict[ChannelId, int] = {}
        self._furnish()

    def send(self, signer: Signer, contract: str, function: str, *args: Any) -> None:
        deployer = Deployer(self.chain.node, signer)
        deployer.addresses = dict(self.chain.deployment.addresses)
        deployer.send(contract, function, *args)

    def pump(self) -> None:
        for _ in range(3):
            self.sender.run_once()
        self.indexer.catch_up()

    def sleep(self, seconds: int) -> None:
        self.chain.node.rpc.request("evm_increaseTime", seconds)
        self.chain.node.rpc.request("hardhat_mine", "0x1")
        self.indexer.catch_up()

    def act_as_governance(self, function: str, *args: Any) -> None:
        """What an executed vote does."""
        timelock, rpc = self.chain.address("TimelockController"), self.chain.node.rpc
        rpc.request("hardhat_impersonateAccount", timelock)
        rpc.request("hardhat_setBalance", timelock, hex(10**18))
        prepared = self.chain.prepare("Parameters", function, *args)
        rpc.request("eth_sendTransaction", {"from": timelock, "to": prepared.to, "data": prepared.data})
        rpc.request("hardhat_stopImpersonatingAccount", timelock)

    def channel_of(self, payer: Signer) -> ChannelId:
        return channel_id(payer.account, OPERATOR.account, self.settlement.contract)

    def serve(
        self,
        payer: Signer,
        versions: list[VersionRecord],
        tokens: int = 40,
        shares: tuple[Share, ...] = (Share(0, 500_001), Share(2, 499_999)),
    ) -> SignedReceipt:
        """An answer, evenly by these versions. A payer without session key signs a voucher as clients do."""
        channel = self.channel_of(payer)
        weights = [PPM // len(versions)] * len(versions)
        weights[0] += PPM - sum(weights)
        slices = tuple(
            Slice(version_id(v), weight, shares if v.snapshots else ())
            for v, weight in zip(versions, weights, strict=True)
        )
        amount = charge(slices, versions, tokens, tokens)
        self.line[channel] = self.line.get(channel, 0) + amount
        receipt = Receipt(
            channel_id=channel,
            cumulative=self.line[channel],
            charge=amount,
            request_hash=some_hash(f"request {self.line[channel]}"),
            response_hash=some_hash(f"response {self.line[channel]}"),
            slices_hash=slices_hash(slices),
            prompt_tokens=tokens,
            completion_tokens=tokens,
            attribution_hash=attribution_hash(METHOD, slices),
            served_at=self.chain.head().timestamp,
        )
        signature = RECEIPT_KEY.sign(self.settlement.receipt_digest(receipt))
        signed = SignedReceipt(receipt, METHOD, slices, signature)
        self._store(payer, signed)
        return signed

    def auditor(self, database: Database | None = None) -> Auditor:
        db = database or self.database
        return Auditor(db.begin, db.read, Cases(self.chain, self.blobs, recover, self.settlement))

    def settler(self) -> Settler:
        return Settler(
            operator=OPERATOR.account,
            begin=self.database.begin,
            read=self.database.read,
            chain=self.chain,
            blobs=self.blobs,
            auditor=self.auditor(),
            keys=self,
            recover=recover,
            vault=self.vault,
            settlement=self.settlement,
            pace=Pace(seconds=0, receipts=10_000),
            clock=lambda: self.chain.head().timestamp,
            thaw_seconds=int(self.chain.call("PaymentVault", "thawSeconds")),
        )

    def claims(self) -> Claims:
        db = self.database
        return Claims(db.begin, db.read, self.auditor(), self.chain, OPERATOR.account)

    def proofs(self) -> Proofs:
        return Proofs(self.database.read, self.auditor(), self.chain)

    def held(self, key: Account) -> Signer | None:
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
                    salt=ZERO_HASH,
                    key_id=None,
                )
            )
            if payer is not PAYER:
                voucher = Voucher(receipt.channel_id, 0, receipt.cumulative)
                signature = payer.sign(self.vault.voucher_digest(voucher))
                tx.channels.put_voucher(ClientVoucher(SignedVoucher(voucher, signature), payer.account))

    def _furnish(self) -> None:
        """Three contributions, of which the first and the last are accepted; an adapter, a base; deposits."""
        self.send(CONTRIBUTORS[0], "DatasetRegistry", "createDatanet", ascii_word("docs"), some_hash("about"))
        for n, contributor in enumerate(CONTRIBUTORS):
            contribution = {
                "datanetId": 1,
                "contentHash": some_hash(f"content {n}"),
                "cidDigest": some_hash(f"folder {n}"),
                "licence": ascii_word("MIT"),
                "rows": 10,
            }
            self.send(contributor, "DatasetRegistry", "contribute", contribution)
        reviews = [
            {"contentHash": some_hash(f"content {n}"), "isAccepted": n != 1, "reason": 0} for n in range(3)
        ]
        self.send(OPERATOR, "DatasetRegistry", "review", 1, reviews)
        self.send(OPERATOR, "DatasetRegistry", "freeze", 1, 3)
        snapshot = snapshot_id(DatanetId(1), 3, accepted_hash([True, False, True]))
        self.adapter = self._register("adapter", (snapshot,), creator_ppm=200_000)
        self.base = self._register("base", (), creator_ppm=900_000)
        for payer in (PAYER, OTHER_PAYER):
            self._deposit(payer)
        self.indexer.catch_up()

    def _register(self, name: str, snapshots: Any, creator_ppm: int) -> VersionRecord:
        is_adapter = bool(snapshots)
        record = VersionRecord(
            creator=CREATOR.account,
            name=name,
            adapter_digest=some_hash("adapter") if is_adapter else ZERO_HASH,
            cid_digest=some_hash("folder") if is_adapter else ZERO_HASH,
            base_model=some_hash("base"),
            snapshots=snapshots,
            prompt_price=700_001,
            completion_price=1_300_003,
            operator_ppm=100_000,
            creator_ppm=creator_ppm,
        )
        fields = {name: getattr(record, name) for name in VersionRecord.__slots__}
        named = {k.split("_")[0] + "".join(p.title() for p in k.split("_")[1:]): v for k, v in fields.items()}
        packed = named | {"name": to_hash(ascii_word(name)), "snapshots": list(snapshots)}
        self.send(CREATOR, "AdapterRegistry", "register", packed)
        return record

    def _deposit(self, payer: Signer) -> None:
        key = SESSION_KEY.account if payer is PAYER else ZERO_ACCOUNT
        grant = {"key": key, "cap": DEPOSIT * PPM, "expiry": self.chain.head().timestamp + 86_400}
        self.send(payer, "TestUSD", "approve", self.vault.contract, DEPOSIT)
        self.send(
            payer, "PaymentVault", "deposit", OPERATOR.account, self.settlement.contract, DEPOSIT, grant
        )


@pytest.fixture
def market(chain: ChainClient, database: Database, tmp_path: Path) -> LiveMarket:
    return LiveMarket(chain, database, tmp_path)
