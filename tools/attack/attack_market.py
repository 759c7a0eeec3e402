"""A small market on a local chain, whose operator can commit honest batches and forgeries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.db.migrate import upgrade
from backend.db.unit_of_work import Database
from backend.domain.batch import Batch, Header, OperatorLedger, Span, build
from backend.domain.batch_data import FILE_NAME, BatchName, encode
from backend.domain.content import cid_digest
from backend.domain.disputes.lookups import look_up
from backend.domain.disputes.witnesses import ReceiptWitness, Tree, key_word
from backend.domain.errors import DomainError
from backend.domain.hashing import (
    receipt_id,
    to_bytes,
    to_hash,
)
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, SumTree
from backend.domain.money import UNIT
from backend.domain.rules import Rules
from backend.domain.transactions import Call
from backend.domain.voucher import SignedVoucher, Voucher
from tools.local_market import OPERATOR, PAYERS, LocalMarket

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.keys import LocalSigner
    from backend.domain.ids import Account, Hash32
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch, Demand
    from backend.ports.storage import BlobStore

WATCHER = local_account(9)
DEPOSIT = 1_000_000_000

Leaves = list[tuple[int, int]]
"""Keys and values, in the order of the tree."""


class AttackMarketError(Exception):
    """An expectation about the market failed."""


@dataclass
class Forgery:
    """The leaves that the operator commits, and what it publishes and answers."""

    spans: tuple[Span, ...]
    receipts: list[SignedReceipt]
    entries: Leaves
    balances: Leaves
    is_published: bool = True
    """Whether the batch data is published."""
    does_answer: bool = True
    """Whether demands are answered, where the trees permit it."""
    evidence: tuple[SignedReceipt, ...] = ()
    """Receipts that the operator signed for payers, who give them to the watcher."""

    @classmethod
    def of(cls, batch: Batch) -> Forgery:
        """The leaves of an honest batch."""
        leaves = batch.entries.leaves(0, len(batch.entries))
        entries = [(int.from_bytes(key, "big"), value) for key, value in leaves]
        balances = sorted((int(account, 16), value) for account, value in batch.balances.items())
        return cls(batch.spans, list(batch.receipts), entries, balances)

    @cached_property
    def trees(self) -> tuple[SumTree, SumTree, SumTree]:
        """Trees of receipts, entries and balances. Cached: complete the forgery first."""
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


class AttackMarket(LocalMarket):
    """`blobs` stores published batch data."""

    def __init__(self, chain: ChainClient, blobs: BlobStore, folder: Path) -> None:
        super().__init__(chain)
        self.blobs, self.ledger = blobs, OperatorLedger()
        self.database = Database.open(f"sqlite:///{folder / 'market.db'}")
        upgrade(self.database.engine)
        self.indexer = Indexer(chain, self.database.event_log, chain.deployment, confirmations=0)
        self.evidence = folder / "evidence.jsonl"
        self.evidence.write_bytes(encode(self._name(), ()))
        self.populate(DEPOSIT)

    def close(self) -> None:
        self.database.close()

    def send(self, signer: LocalSigner, contract: str, function: str, *args: Any) -> None:
        """Errors: `AttackMarketError`."""
        try:
            super().send(signer, contract, function, *args)
        except DomainError as error:
            raise AttackMarketError(f"{contract}.{function}: {error}") from error

    def batch(self, batch_hash: Hash32) -> CommittedBatch:
        self.indexer.catch_up()
        with self.database.read() as tx:
            found = tx.chain.batch(batch_hash)
        if found is None:
            raise AttackMarketError(f"no batch {batch_hash}")
        return found

    # Serving and settling

    def serve_round(self) -> list[SignedReceipt]:
        """Answers to both payers from the adapter, the base model and blends of both, in batch order."""
        receipts = []
        for n in range(4):
            versions = [[self.adapter], [self.base], [self.adapter, self.base]][n % 3]
            receipts += [self.serve(payer, versions, tokens=40 + n) for payer in PAYERS]
        return sorted(receipts, key=lambda s: (s.receipt.channel_id, s.receipt.cumulative))

    def build(self, receipts: Sequence[SignedReceipt]) -> Batch:
        """The leaves of an honest batch."""
        self.indexer.catch_up()
        with self.database.read() as tx:
            terms = tx.chain.latest_parameter_set()
            if terms is None:
                raise AttackMarketError("no parameter set")
            return build(OPERATOR.account, self.ledger, terms, receipts, Rules(tx.chain))

    def commit(self, forgery: Forgery) -> Header:
        receipts, entries, balances = forgery.trees
        if forgery.evidence:
            self.evidence.write_bytes(encode(self._name(), forgery.evidence))
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

    def open_demands(self) -> list[Demand]:
        self.indexer.catch_up()
        with self.database.read() as tx:
            return tx.chain.open_demands(OPERATOR.account)

    def credit(self, account: Account) -> int:
        """Wei that the account can withdraw from `Disputes`."""
        credit: int = self.chain.call("Disputes", "creditOf", account)
        return credit

    def answer(self, forgery: Forgery) -> int:
        """Answer open demands from the forgery's trees; the number of opened leaves."""
        self.indexer.catch_up()
        calls = []
        with self.database.read() as tx:
            for demand in tx.chain.open_demands(OPERATOR.account):
                batch = tx.chain.batch(demand.batch_hash)
                parent = None if batch is None else tx.chain.batch(batch.header["parent"])
                if batch is not None:
                    headers = [dict(batch.header), dict((parent or batch).header)]
                    calls.append(Call("Disputes", *self._answer_call(tx.chain, forgery, demand, headers)))
        return sum(map(self._is_taken, calls))

    def finalise(self, batch: Batch, header: Header) -> None:
        _, _, proofs_until = self.chain.call("Disputes", "demandsOn", header.hash)
        finality = max(header.final_at, proofs_until)
        self.pass_time(max(finality - self.chain.head().timestamp, 0) + 1)
        self.send(OPERATOR, "Settlement", "finalise", [header.abi])
        self.ledger = batch.after(header)

    def claim(self, account: Account) -> tuple[int, int]:
        """Claim; token units that the account is owed, and that it received."""
        earned = self.ledger.balances[account]
        claimed = self.chain.call("Settlement", "claimedOf", OPERATOR.account, account)
        before = self.dollars(account)
        with self.database.read() as tx:
            batch = tx.chain.batch(self.ledger.hash)
        if batch is None:
            raise AttackMarketError(f"batch {self.ledger.number} is not on the chain")
        opening = self.ledger.open_balance(account).abi
        request = {"header": dict(batch.header), "account": account, "opening": opening}
        self.send(OPERATOR, "Settlement", "claim", request)
        return (earned - claimed) // UNIT, self.dollars(account) - before

    # Internals

    def _is_taken(self, call: Call) -> bool:
        """Whether the operator's call succeeds."""
        try:
            self.send(OPERATOR, call.contract, call.function, *call.args)
        except AttackMarketError:
            return False
        return True

    def _answer_call(
        self, view: Any, forgery: Forgery, demand: Demand, headers: list[dict[str, Any]]
    ) -> tuple[str, tuple[Any, ...]]:
        trees, key = forgery.trees, demand.key
        if demand.tree is Tree.RECEIPTS:
            signed = forgery.receipts[key]
            records = [r for s in signed.slices if (r := view.version(s.version_id)) is not None]
            witness = ReceiptWitness.of(signed, trees[0].open(key), records)
            return "answerReceipt", (headers[0], witness.abi, signed.signature)
        if demand.tree is Tree.PARENT_BALANCES:
            leaves = sorted((int(account, 16), value) for account, value in self.ledger.balances.items())
            lookup = look_up(self.ledger.balances_tree(), [k for k, _ in leaves], key)
        else:
            leaves = forgery.entries if demand.tree is Tree.ENTRIES else forgery.balances
            lookup = _look_up(trees[1 if demand.tree is Tree.ENTRIES else 2], [k for k, _ in leaves], key)
        return "answer", (headers[0], int(demand.tree), key_word(key), headers[1], lookup.abi)

    def _name(self) -> BatchName:
        number = self.ledger.number + 1
        return BatchName(self.chain.chain_id, self.settlement.contract, OPERATOR.account, number)

    def _collection(self, span: Span) -> dict[str, Any]:
        payer = next(p for p in PAYERS if self.channel_of(p) == span.channel_id)
        voucher = Voucher(span.channel_id, 0, span.until)
        signed = SignedVoucher(voucher, payer.sign(self.vault.voucher_digest(voucher)))
        return span.collection(payer.account, signed)


def _look_up(tree: SumTree, keys: list[int], key: int) -> Any:
    """Look up a key in a tree whose keys may be out of order."""
    from backend.domain.disputes.witnesses import Lookup

    if key in keys:
        at = keys.index(key)
        return Lookup((key,), (tree.open(at),))
    return look_up(tree, keys, key)
