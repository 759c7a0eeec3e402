"""Answers demands for leaves of batches whose data this installation holds. Any account may answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.disputes.lookups import look_up
from backend.domain.disputes.witnesses import ReceiptWitness, Tree, balance_key, key_word
from backend.domain.errors import NotFound
from backend.domain.money import COIN, UNIT
from backend.domain.transactions import Call
from backend.services.audit.auditor import WrongBatch
from backend.services.audit.cases import MAX_CACHED_BYTES
from backend.services.audit.published import BatchTooLarge, memory_of
from backend.services.watch.news import News, news, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.batch import Batch
    from backend.domain.ids import Account, Hash32
    from backend.domain.merkle import SumTree
    from backend.domain.settlement import CommittedBatch, Demand
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.services.audit.auditor import Auditor
    from backend.services.watch.transactions import WatcherTransactions

MAX_PENDING = 16
"""Maximum number of answers sent together."""
ANSWERED_ALREADY = frozenset({"DemandClosed"})
"""Reverts that mean that another account was faster."""


class AnswersUnknown(NotFound):
    """We cannot answer for the batch: its data is not here, too large, or does not match its roots."""


class Answers:
    """Answers what is open on the chain, in every pass. An answer on its way is in the outbox; one that got
    lost is sent again.

    `auditor` rebuilds batches from their data. An answer for `own` may cost what it earns and its part of the
    slash; `coin_units` is the price of one coin of the chain in token units, and without it such an answer
    may cost anything.
    """

    def __init__(
        self,
        db: Database,
        auditor: Auditor,
        chain: Chain,
        transactions: WatcherTransactions,
        own: Account | None = None,
        coin_units: int | None = None,
    ) -> None:
        self._db, self._auditor, self._chain, self._transactions = db, auditor, chain, transactions
        self._own, self._coin_units = own, coin_units
        self._latest: tuple[Hash32, Batch] | None = None
        """The batch of the latest answers, if it may be kept: demands come in bursts."""

    def answer(self, operator: Account) -> Iterator[News]:
        """Answer the open demands of this operator, the most urgent first. Errors: `Unavailable`."""
        head = self._chain.head()
        with self._db.read() as tx:
            opened = tx.chain.open_demands(operator)
            due = [one for one in opened if not one.is_past(head.timestamp, head.number)]
            committed = {one.batch_hash: tx.chain.batch(one.batch_hash) for one in due}
            covers = [(one.number, int(one.header["slashUpTo"])) for one in tx.chain.open_batches(operator)]
        by_batch: dict[Hash32, list[Demand]] = {}
        for one in due:
            by_batch.setdefault(one.batch_hash, []).append(one)
        numbers = [batch.number for one in due if (batch := committed[one.batch_hash]) is not None]
        for batch_hash, demands in by_batch.items():
            if (batch := committed[batch_hash]) is not None:
                # A void takes all later batches along, so the largest cover that one of them required is
                # slashed, and is averted only if the leaves of earlier batches are answered too.
                cover = max((cover for number, cover in covers if number >= batch.number), default=0)
                num_leaves = sum(number <= batch.number for number in numbers)
                yield from self._answer(batch, demands, self._slash_share(operator, cover, num_leaves))

    def _answer(
        self, batch: CommittedBatch, demands: Sequence[Demand], slash_share: int | None
    ) -> Iterator[News]:
        try:
            calls = list(self.calls(batch, demands))
        except AnswersUnknown as why:
            yield news(batch, "unanswerable", f"{len(demands)} leaves are demanded: {why}")
            return
        earning = min(one.credit for one in demands) if batch.operator == self._own else 0
        worth = None if slash_share is None else slash_share + earning
        pairs = list(zip(demands, calls, strict=True))
        for start in range(0, len(pairs), MAX_PENDING):
            group = pairs[start : start + MAX_PENDING]
            results = self._transactions.send([call for _, call in group], worth)
            for (demand, _), sent in zip(group, results, strict=True):
                if sent.reverted not in ANSWERED_ALREADY:
                    text = f"leaf {demand.leaf_id[:10]} of {demand.tree.name.lower()}"
                    yield from outcome(batch, "answered", text, [sent])

    def _slash_share(self, operator: Account, cover: int, num_leaves: int) -> int | None:
        """Wei of the slash that the answer for each of the leaves averts; None: worth any price."""
        if operator != self._own:
            return 0
        if self._coin_units is None:
            return None
        slashed = int(self._chain.call("OperatorRegistry", "stakeOf", operator)["slashed"])
        return max(cover - slashed, 0) * COIN // (UNIT * self._coin_units * num_leaves)

    def calls(self, committed: CommittedBatch, demands: Sequence[Demand]) -> Iterator[Call]:
        """The answering calls, in order. Errors: `AnswersUnknown`; `Unavailable`."""
        batch = self._batch(committed)
        with self._db.read() as tx:
            parent = tx.chain.batch(committed.header["parent"])
            header, parent_header = dict(committed.header), dict((parent or committed).header)
            for one in demands:
                if one.tree is Tree.RECEIPTS:
                    witness = _receipt(tx.chain, batch, one.key)
                    yield Call("Disputes", "answerReceipt", (header, *witness))
                else:
                    lookup = look_up(*_leaves(batch, one.tree), one.key)
                    leaf = int(one.tree), key_word(one.key)
                    yield Call("Disputes", "answer", (header, *leaf, parent_header, lookup.abi))

    def _batch(self, committed: CommittedBatch) -> Batch:
        if self._latest is not None and self._latest[0] == committed.hash:
            return self._latest[1]
        self._latest = None  # before the next one is in memory
        try:
            batch = self._auditor.batch(committed.operator, committed.number)
        except (WrongBatch, NotFound, BatchTooLarge) as error:
            raise AnswersUnknown(str(error)) from None
        if memory_of(batch.receipts) <= MAX_CACHED_BYTES:
            self._latest = committed.hash, batch
        return batch


def _receipt(view: ChainView, batch: Batch, index: int) -> tuple[dict[str, Any], str]:
    """The receipt's witness and signature."""
    signed = batch.receipts[index]
    records = [record for s in signed.slices if (record := view.version(s.version_id)) is not None]
    return ReceiptWitness.of(signed, batch.open_receipt(index), records).abi, signed.signature


def _leaves(batch: Batch, tree: Tree) -> tuple[SumTree, Sequence[int]]:
    """A tree and the keys of its leaves."""
    if tree is Tree.ENTRIES:
        return batch.entries_tree, batch.entries.keys
    if tree is Tree.BALANCES:
        return batch.balances_tree, sorted(map(balance_key, batch.balances))
    return batch.parent.balances_tree(), sorted(map(balance_key, batch.parent.balances))
