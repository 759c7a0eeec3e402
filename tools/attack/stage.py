"""A small market on a local chain whose operator can commit anything, and what an honest one would commit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backend.chain.accuser import ChainAccuser, GasLimits
from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.db.migrate import upgrade
from backend.db.unit_of_work import Database
from backend.domain.batch import Batch, Header, Ledger, Span, build
from backend.domain.batch_data import FILE_NAME, BatchName, encode
from backend.domain.chain import Call
from backend.domain.content import cid_digest
from backend.domain.disputes.lookups import look_up
from backend.domain.hashing import (
    TypedDomain,
    accepted_hash,
    ascii_word,
    attribution_hash,
    channel_id,
    keccak,
    receipt_id,
    record_argument,
    slices_hash,
    snapshot_id,
    to_bytes,
    to_hash,
    version_id,
)
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, Account, ChannelId, DatanetId, Hash32
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, SumTree
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice, VersionRecord
from backend.domain.rules import Rules
from backend.domain.split import PPM, UNIT, charge
from backend.domain.voucher import Voucher
from backend.services.settle.take import compact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.keys import LocalSigner
    from backend.domain.chain import CommittedBatch
    from backend.ports.storage import BlobStore

OPERATOR, RECEIPT_KEY = local_account(1), local_account(2)
CONTRIBUTORS = [local_account(n) for n in (3, 4, 5)]
CREATOR, PAYERS, WATCHER = local_account(6), [local_account(7), local_account(8)], local_account(9)
DEPOSIT = 1_000_000_000
METHOD = "uniform-1"
LIMITS = GasLimits(gas=30_000_000, price=10**12)
REJECTED = 1
"""Index of the contribution that the curators refused."""
SHARES = (Share(0, 500_001), Share(2, 499_999))

Leaves = list[tuple[int, int]]
"""Key and value, in the order of the tree."""


class StageError(Exception):
    """What should have happened on the stage did not."""


@dataclass
class Forgery:
    """What the operator commits, leaf by leaf, beside what it shows to whom."""

    spans: tuple[Span, ...]
    receipts: list[SignedReceipt]
    entries: Leaves
    balances: Leaves
    is_published: bool = True
    """Whether the batch data can be fetched."""
    does_answer: bool = True
    """Whether demands are answered, as far as the trees allow it."""
    shown_elsewhere: tuple[SignedReceipt, ...] = ()
    """Receipts that the operator signed and gave to payers, who pass them on to the watcher."""

    @classmethod
    def of(cls, batch: Batch) -> Forgery:
        """The honest batch."""
        keys, tree = batch.entry_keys, batch.entries_tree
        entries = [
            (int.from_bytes(keys[32 * i : 32 * (i + 1)], "big"), tree.value(i)) for i in range(tree.count)
        ]
        balances = sorted((int(account, 16), value) for account, value in batch.balances.items())
        return cls(batch.spans, list(batch.receipts), entries, balances)

    @cached_property
    def trees(self) -> tuple[SumTree, SumTree, SumTree]:
        """Receipts, entries, balances; not to be asked for before the forgery is done."""
        receipts = ((to_bytes(receipt_id(s.receipt)), s.receipt.charge) for s in self.receipts)
        entries, balances = (
            [(key.to_bytes(32, "big"), value) for key, value in leaves]
            for leaves in (self.entries, self.balances)
        )
        return (
            SumTree(RECEIPTS_TAG, receipts),
            SumTree(ENTRIES_TAG, entries),
            SumTree(BALANCES_TAG, balances),
        )


@dataclass
class Stage:
    """`blobs`: where batch data is published. `clock`: how the chain's time passes."""

    chain: ChainClient
    blobs: BlobStore
    folder: Path
    window: int
    line: dict[ChannelId, int] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    _served: int = 0

    def __post_init__(self) -> None:
        self.database = Database.open(f"sqlite:///{self.folder / 'stage.db'}")
        upgrade(self.database.engine)
        self.indexer = Indexer(self.chain, self.database.begin, self.chain.deployment, confirmations=0)
        self.settlement = TypedDomain(self.chain.chain_id, self.chain.address("Settlement"))
        self.vault = TypedDomain(self.chain.chain_id, self.chain.address("PaymentVault"))
        self.evidence = self.folder / "evidence.jsonl"
        self.evidence.write_bytes(encode(self._name(), ()))
        self._furnish()

    def close(self) -> None:
        self.database.close()

    # The chain

    def send(self, signer: LocalSigner, contract: str, function: str, *args: Any) -> None:
        """Errors: `StageError`."""
        (sent,) = ChainAccuser(self.chain, signer, LIMITS).send([Call(contract, function, args)])
        if not sent.is_done:
            raise StageError(f"{contract}.{function}: {sent.error}")

    def rpc(self, method: str, *args: Any) -> Any:
        return self.chain.node.rpc.request(method, *args)

    def pass_time(self, seconds: int) -> None:
        self.rpc("evm_increaseTime", seconds)
        self.rpc("hardhat_mine", "0x1")

    def batch(self, batch_hash: Hash32) -> CommittedBatch:
        self.indexer.catch_up()
        with self.database.read() as tx:
            found = tx.chain.batch(batch_hash)
        if found is None:
            raise StageError(f"no batch {batch_hash}")
        return found

    def channels(self) -> list[Mapping[str, int]]:
        """The payers' channels as the vault has them."""
        return [self.chain.call("PaymentVault", "channelOf", self.channel_of(payer)) for payer in PAYERS]

    def channel_of(self, payer: LocalSigner) -> ChannelId:
        return channel_id(payer.account, OPERATOR.account, self.settlement.contract)

    def dollars(self, account: Account) -> int:
        units: int = self.chain.call("TestUSD", "balanceOf", account)
        return units

    # Serving and settling

    def serve_round(self) -> list[SignedReceipt]:
        """Answers to both payers, by the adapter, the base model and blends of both, in a batch's order."""
        made = []
        for n in range(4):
            versions = [[self.adapter], [self.base], [self.adapter, self.base]][n % 3]
            made += [self.serve(payer, versions, tokens=40 + n) for payer in PAYERS]
        return sorted(made, key=lambda s: (s.receipt.channel_id, s.receipt.cumulative))

    def serve(self, payer: LocalSigner, versions: Sequence[VersionRecord], tokens: int) -> SignedReceipt:
        channel = self.channel_of(payer)
        weights = [PPM // len(versions)] * len(versions)
        slices = tuple(
            Slice(version_id(v), weight, SHARES if v.snapshots else ())
            for v, weight in zip(versions, weights, strict=True)
        )
        amount = charge(slices, versions, tokens, tokens)
        self.line[channel] = self.line.get(channel, 0) + amount
        self._served += 1
        receipt = Receipt(
            channel_id=channel,
            cumulative=self.line[channel],
            charge=amount,
            request_hash=some_hash(f"request {self._served}"),
            response_hash=some_hash(f"response {self._served}"),
            slices_hash=slices_hash(slices),
            prompt_tokens=tokens,
            completion_tokens=tokens,
            attribution_hash=attribution_hash(METHOD, slices),
            served_at=self.chain.head().timestamp,
        )
        return self.sign(receipt, slices)

    def sign(
        self, receipt: Receipt, slices: tuple[Slice, ...], key: LocalSigner = RECEIPT_KEY
    ) -> SignedReceipt:
        """By the operator's receipt key; the hashes of slices and lists follow from `slices`."""
        receipt = replace(
            receipt, slices_hash=slices_hash(slices), attribution_hash=attribution_hash(METHOD, slices)
        )
        signature = key.sign(self.settlement.receipt_digest(receipt))
        return SignedReceipt(receipt, METHOD, slices, signature)

    def build(self, receipts: Sequence[SignedReceipt]) -> Batch:
        """The honest batch."""
        self.indexer.catch_up()
        with self.database.read() as tx:
            terms = tx.chain.latest_parameter_set()
            if terms is None:
                raise StageError("no parameter set")
            return build(OPERATOR.account, self.ledger, terms, receipts, Rules(tx.chain))

    def commit(self, forgery: Forgery) -> Header:
        receipts, entries, balances = forgery.trees
        if forgery.shown_elsewhere:
            self.evidence.write_bytes(encode(self._name(), forgery.shown_elsewhere))
        files = {FILE_NAME: encode(self._name(), forgery.receipts)}
        digest = cid_digest(
            self.blobs.add_folder(files) if forgery.is_published else self.blobs.folder_cid(files)
        )
        commitment = {
            "parent": self.ledger.hash,
            "parameterSet": self.chain.call("Parameters", "currentId"),
            "total": sum(span.amount for span in forgery.spans),
            "receiptsRoot": to_hash(receipts.root),
            "receiptsCount": receipts.count,
            "entriesRoot": to_hash(entries.root),
            "entriesCount": entries.count,
            "balancesRoot": to_hash(balances.root),
            "balancesCount": balances.count,
            "dataDigest": digest,
        }
        self.send(OPERATOR, "Settlement", "commit", commitment, [self._collection(s) for s in forgery.spans])
        self.indexer.catch_up()
        with self.database.read() as tx:
            return Header.from_chain(tx.chain.batches(OPERATOR.account)[-1].header)

    def answer(self, forgery: Forgery) -> int:
        """Answer what is demanded from these trees, as far as they let; how many leaves."""
        self.indexer.catch_up()
        calls = []
        with self.database.read() as tx:
            for demanded in tx.chain.open_demands(OPERATOR.account):
                batch = tx.chain.batch(demanded.demand.batch_hash)
                parent = None if batch is None else tx.chain.batch(batch.header["parent"])
                if batch is not None:
                    headers = [dict(batch.header), dict((parent or batch).header)]
                    calls += [
                        Call("Disputes", *self._shown(tx.chain, forgery, demanded.demand, i, headers))
                        for i in demanded.unanswered
                    ]
        return sum(sent.is_done for sent in ChainAccuser(self.chain, OPERATOR, LIMITS).send(calls))

    def finalise(self, batch: Batch, header: Header) -> None:
        self.pass_time(max(header.final_at - self.chain.head().timestamp, 0) + 1)
        self.send(OPERATOR, "Settlement", "finalise", header.abi)
        self.ledger = batch.after(header)

    def claim(self, account: Account) -> tuple[int, int]:
        """Token units that the account should get, and that it got."""
        earned = self.ledger.balances[account]
        claimed = self.chain.call("Settlement", "claimedOf", OPERATOR.account, account)
        before = self.dollars(account)
        request = {
            "operator": OPERATOR.account,
            "account": account,
            "balancesCount": len(self.ledger.balances),
            "opening": self.ledger.open_balance(account).abi,
        }
        self.send(OPERATOR, "Settlement", "claim", request)
        return (earned - claimed) // UNIT, self.dollars(account) - before

    # Inside

    def _shown(
        self, view: Any, forgery: Forgery, demand: Any, i: int, headers: list[dict[str, Any]]
    ) -> tuple[str, tuple[Any, ...]]:
        from backend.domain.disputes.witnesses import ReceiptWitness, Tree

        trees, key = forgery.trees, demand.keys[i]
        if demand.tree is Tree.RECEIPTS:
            signed = forgery.receipts[key]
            records = [r for s in signed.slices if (r := view.version(s.version_id)) is not None]
            witness = ReceiptWitness.of(signed, trees[0].open(key), records)
            return "answerReceipt", (demand.abi, i, headers[0], witness.abi, signed.signature)
        if demand.tree is Tree.PARENT_BALANCES:
            leaves = sorted((int(account, 16), value) for account, value in self.ledger.balances.items())
            lookup = look_up(self.ledger.balances_tree(), [k for k, _ in leaves], key)
        else:
            leaves = forgery.entries if demand.tree is Tree.ENTRIES else forgery.balances
            lookup = _show(trees[1 if demand.tree is Tree.ENTRIES else 2], [k for k, _ in leaves], key)
        return "answer", (demand.abi, i, *headers, lookup.abi)

    def _name(self) -> BatchName:
        number = self.ledger.number + 1
        return BatchName(self.chain.chain_id, self.settlement.contract, OPERATOR.account, number)

    def _collection(self, span: Span) -> dict[str, Any]:
        payer = next(p for p in PAYERS if self.channel_of(p) == span.channel_id)
        voucher = Voucher(span.channel_id, 0, span.until)
        r, vs = compact(payer.sign(self.vault.voucher_digest(voucher)))
        return {
            "payer": payer.account,
            "before": span.before,
            "from": 0,
            "maxCumulative": span.until,
            "until": span.until,
            "r": r,
            "vs": vs,
        }

    def _furnish(self) -> None:
        """Three contributions, of which one is rejected; an adapter, a base model; deposits; the window."""
        self.send(CONTRIBUTORS[0], "DatasetRegistry", "createDatanet", ascii_word("docs"), some_hash("about"))
        contents = [some_hash(f"content {n}") for n in range(len(CONTRIBUTORS))]
        for contributor, content in zip(CONTRIBUTORS, contents, strict=True):
            self.send(contributor, "DatasetRegistry", "contribute", _contribution(content))
        is_accepted = [n != REJECTED for n in range(len(contents))]
        reviews = [
            {"contentHash": content, "isAccepted": accepted, "reason": 0}
            for content, accepted in zip(contents, is_accepted, strict=True)
        ]
        self.send(OPERATOR, "DatasetRegistry", "review", 1, reviews)
        self.send(OPERATOR, "DatasetRegistry", "freeze", 1, len(contents))
        snapshot = snapshot_id(DatanetId(1), len(contents), accepted_hash(is_accepted))
        self.adapter, self.base = _record("adapter", (snapshot,)), _record("base", ())
        for record in (self.adapter, self.base):
            self.send(CREATOR, "AdapterRegistry", "register", record_argument(record))
        for payer in PAYERS:
            self.send(payer, "TestUSD", "approve", self.vault.contract, DEPOSIT)
            grant = (ZERO_ACCOUNT, 0, 0)
            self.send(
                payer, "PaymentVault", "deposit", OPERATOR.account, self.settlement.contract, DEPOSIT, grant
            )
        self.send(WATCHER, "TestUSD", "mint", WATCHER.account, DEPOSIT)
        self._govern("setDisputeWindow", self.window)

    def _govern(self, function: str, *args: Any) -> None:
        """What an executed vote does."""
        timelock = self.chain.address("TimelockController")
        self.rpc("hardhat_impersonateAccount", timelock)
        self.rpc("hardhat_setBalance", timelock, hex(10**18))
        prepared = self.chain.prepare("Parameters", function, *args)
        self.rpc("eth_sendTransaction", {"from": timelock, "to": prepared.to, "data": prepared.data})
        self.rpc("hardhat_stopImpersonatingAccount", timelock)


def some_hash(label: str) -> Hash32:
    return to_hash(keccak(label.encode()))


def _show(tree: SumTree, keys: list[int], key: int) -> Any:
    """As a tree allows whose keys need not be in order: the leaf, else what looks like its neighbours."""
    from backend.domain.disputes.witnesses import Lookup

    if key in keys:
        at = keys.index(key)
        return Lookup((key,), (tree.open(at),))
    return look_up(tree, keys, key)


def _contribution(content: Hash32) -> dict[str, Any]:
    return {
        "datanetId": 1,
        "contentHash": content,
        "cidDigest": some_hash("folder"),
        "licence": ascii_word("MIT"),
        "rows": 10,
    }


def _record(name: str, snapshots: tuple[Any, ...]) -> VersionRecord:
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
        creator_ppm=200_000,
    )
