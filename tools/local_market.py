"""A populated market on a local chain with hand-made receipts, used by tests and `tools.attack`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.chain.keys import local_account
from backend.deployment.deployer import Deployer
from backend.domain.disputes.witnesses import Tree, key_word
from backend.domain.hashing import (
    TypedDomain,
    accepted_hash,
    ascii_word,
    attribution_hash,
    channel_id,
    record_argument,
    slices_hash,
    snapshot_id,
    version_id,
)
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, Account, ChannelId, DatanetId, SnapshotId
from backend.domain.money import PPM
from backend.domain.receipt import Share, SignedReceipt, Slice, VersionRecord
from tools.labels import some_hash
from tools.receipts import new_receipt
from tools.wallet import transact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.chain.client import ChainClient
    from backend.chain.keys import LocalSigner
    from backend.domain.receipt import Receipt

OPERATOR, RECEIPT_KEY = local_account(1), local_account(2)
CONTRIBUTORS = [local_account(n) for n in (3, 4, 5)]
CREATOR, PAYERS = local_account(6), [local_account(7), local_account(8)]
METHOD = "uniform-1"
REJECTED = 1
"""Index of the contribution that the curators rejected."""
SHARES = (Share(0, 500_001), Share(2, 499_999))
LONG_AFTER = 86_400
"""Seconds for which a session key is granted."""


class LocalMarket:
    """A datanet with a snapshot, an adapter trained on it, its base model and one channel per payer."""

    def __init__(self, chain: ChainClient) -> None:
        self.chain = chain
        self.receipt_key = RECEIPT_KEY
        self.settlement = TypedDomain(chain.chain_id, chain.address("Settlement"))
        self.vault = TypedDomain(chain.chain_id, chain.address("PaymentVault"))
        self.cumulative: dict[ChannelId, int] = {}
        """Cumulative charge of each channel."""
        is_accepted = [n != REJECTED for n in range(len(CONTRIBUTORS))]
        snapshot = snapshot_id(DatanetId(1), len(is_accepted), accepted_hash(is_accepted))
        self.adapter = new_record("adapter", (snapshot,), creator_ppm=200_000)
        self.base = new_record("base", (), creator_ppm=900_000)

    # The chain

    def send(self, signer: LocalSigner, contract: str, function: str, *args: Any) -> None:
        """Send a transaction and wait until it is mined. Errors: `Reverted` and those of `Deployer.send`."""
        deployer = Deployer(self.chain.node, signer)
        deployer.addresses = dict(self.chain.deployment.addresses)
        deployer.send(contract, function, *args)

    def demand(self, signer: LocalSigner, header: Mapping[str, Any], tree: Tree, keys: Sequence[int]) -> None:
        """Demand leaves of a batch for more than their bonds; the rest is credited. Errors: as `transact`."""
        words = list(map(key_word, keys))
        fee = 2 * self.chain.gas_price()
        bonds = self.chain.call("Disputes", "bondOf", header["operator"], int(tree), len(words), fee)
        transact(self.chain, signer, "Disputes", "demand", header, int(tree), words, value=bonds)

    def rpc(self, method: str, *args: Any) -> Any:
        return self.chain.node.rpc.request(method, *args)

    def pass_time(self, seconds: int) -> None:
        self.rpc("evm_increaseTime", seconds)
        self.rpc("hardhat_mine", "0x1")

    def change(self, **fields: Any) -> None:
        """Append a parameter set with these fields, named as in the contract, as a proposal does."""
        timelock = self.chain.address("TimelockController")
        self.rpc("hardhat_impersonateAccount", timelock)
        self.rpc("hardhat_setBalance", timelock, hex(10**18))
        parent, current = (self.chain.call("Parameters", getter) for getter in ("currentId", "current"))
        prepared = self.chain.prepare("Parameters", "append", parent, {**current, **fields})
        self.rpc("eth_sendTransaction", {"from": timelock, "to": prepared.to, "data": prepared.data})
        self.rpc("hardhat_stopImpersonatingAccount", timelock)

    def dollars(self, account: Account) -> int:
        units: int = self.chain.call("TestUSD", "balanceOf", account)
        return units

    def channel_of(self, payer: LocalSigner) -> ChannelId:
        return channel_id(payer.account, OPERATOR.account, self.settlement.contract)

    def channels(self) -> list[Mapping[str, int]]:
        """On-chain state of the payers' channels."""
        return [self.chain.call("PaymentVault", "channelOf", self.channel_of(payer)) for payer in PAYERS]

    # Setup

    def populate(self, deposit: int, session_key: Account = ZERO_ACCOUNT) -> None:
        """Each payer deposits `deposit` token units; the first payer grants `session_key`."""
        self._contribute()
        for record in (self.adapter, self.base):
            self.send(CREATOR, "AdapterRegistry", "register", record_argument(record))
        for payer, key in zip(PAYERS, (session_key, ZERO_ACCOUNT), strict=True):
            self._deposit(payer, deposit, key)

    def _contribute(self) -> None:
        self.send(CONTRIBUTORS[0], "DatasetRegistry", "createDatanet", ascii_word("docs"), some_hash("about"))
        contents = [some_hash(f"content {n}") for n in range(len(CONTRIBUTORS))]
        for n, contributor in enumerate(CONTRIBUTORS):
            contribution = {
                "datanetId": 1,
                "contentHash": contents[n],
                "cidDigest": some_hash(f"folder {n}"),
                "licence": ascii_word("MIT"),
                "rows": 10,
            }
            self.send(contributor, "DatasetRegistry", "contribute", contribution)
        # Accept all first, so that they are admitted in order.
        reviews = [{"contentHash": content, "isAccepted": True, "reason": 0} for content in contents]
        reviews.append({"contentHash": contents[REJECTED], "isAccepted": False, "reason": 1})
        self.send(OPERATOR, "DatasetRegistry", "review", 1, reviews)
        self.send(OPERATOR, "DatasetRegistry", "freeze", 1, len(contents))

    def _deposit(self, payer: LocalSigner, units: int, key: Account) -> None:
        granted = {"cap": units * PPM, "expiry": self.chain.head().timestamp + LONG_AFTER}
        grant = {"key": key, **(granted if key != ZERO_ACCOUNT else dict.fromkeys(granted, 0))}
        line = (OPERATOR.account, self.settlement.contract)
        self.send(payer, "TestUSD", "approve", self.vault.contract, units)
        self.send(payer, "PaymentVault", "deposit", *line, units, grant)

    # Serving

    def serve(
        self,
        payer: LocalSigner,
        versions: Sequence[VersionRecord],
        tokens: int = 40,
        shares: tuple[Share, ...] = SHARES,
    ) -> SignedReceipt:
        """An answer, evenly by these versions."""
        channel = self.channel_of(payer)
        weights = [PPM // len(versions)] * len(versions)
        weights[0] += PPM - sum(weights)
        slices = tuple(
            Slice(version_id(v), weight, shares if v.snapshots else ())
            for v, weight in zip(versions, weights, strict=True)
        )
        return self._answer(channel, slices, versions, (tokens, tokens), self.chain.head().timestamp)

    def _answer(
        self,
        channel: ChannelId,
        slices: tuple[Slice, ...],
        versions: Sequence[VersionRecord],
        tokens: tuple[int, int],
        served_at: int,
    ) -> SignedReceipt:
        begins = self.cumulative.get(channel, 0)
        receipt = new_receipt(channel, begins, METHOD, slices, versions, tokens, served_at=served_at)
        self.cumulative[channel] = receipt.cumulative
        return self.sign(receipt, slices)

    def sign(
        self, receipt: Receipt, slices: tuple[Slice, ...], key: LocalSigner | None = None
    ) -> SignedReceipt:
        """By `key`, else the operator's receipt key; the hashes of slices and lists follow from `slices`."""
        receipt = replace(
            receipt, slices_hash=slices_hash(slices), attribution_hash=attribution_hash(METHOD, slices)
        )
        signature = (key or self.receipt_key).sign(self.settlement.receipt_digest(receipt))
        return SignedReceipt(receipt, METHOD, slices, signature)


def new_record(name: str, snapshots: tuple[SnapshotId, ...], creator_ppm: int) -> VersionRecord:
    """A record of an adapter; without snapshots, of the base model."""
    return VersionRecord(
        creator=CREATOR.account,
        name=name,
        adapter_digest=some_hash("adapter") if snapshots else ZERO_HASH,
        cid_digest=some_hash("folder") if snapshots else ZERO_HASH,
        base_model=some_hash("base"),
        snapshots=snapshots,
        prompt_price=700_001,
        completion_price=1_300_003,
        operator_ppm=100_000,
        creator_ppm=creator_ppm,
    )
