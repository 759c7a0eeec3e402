"""Answers demands for leaves of batches whose data this installation holds. Any account may answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from backend.domain.disputes.lookups import look_up
from backend.domain.disputes.witnesses import ReceiptWitness, Tree, balance_key
from backend.domain.errors import NotFound
from backend.domain.money import UNIT
from backend.domain.transactions import Call
from backend.services.audit.auditor import WrongBatch
from backend.services.watch.news import News, news, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.db.unit_of_work import Database
    from backend.domain.batch import Batch
    from backend.domain.ids import Account, Hash32
    from backend.domain.merkle import SumTree
    from backend.domain.settlement import CommittedBatch, DemandStatus
    from backend.ports.chain import Chain, ChainView
    from backend.services.audit.auditor import Auditor
    from backend.services.watch.transactions import WatcherTransactions

MAX_PENDING = 16
"""Maximum number of answers sent together."""
ANSWERED_ALREADY = frozenset({"AlreadyAnswered", "DemandUnknown"})
"""Reverts that mean that another account was faster."""
CACHED_BATCHES = 2
"""Batches with their trees in memory; demands come in bursts."""
WEI = 10**18
"""Wei in one coin of the chain."""
_KEY = 32


class AnswersUnknown(NotFound):
    """We cannot answer for the batch: its data is not here or does not match its roots."""


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
        self._batches: dict[Hash32, Batch] = {}

    def answer(self, operator: Account) -> Iterator[News]:
        """Answer the open demands of this operator, the most urgent first. Errors: `Unavailable`."""
        now = self._chain.head().timestamp
        with self._db.read() as tx:
            due = [one for one in tx.chain.open_demands(operator) if one.demand.deadline >= now]
            known = {one.id: tx.chain.batch(one.demand.batch_hash) for one in due}
            worth = {one.id: self._worth(tx.chain, one, due) for one in due}
        for one in due:
            batch = known[one.id]
            if batch is not None:
                yield from self._answer(batch, one, worth[one.id])

    def _worth(self, view: ChainView, demanded: DemandStatus, due: Sequence[DemandStatus]) -> int | None:
        """Wei that one answer may cost whatever the price limit; None: anything."""
        if demanded.operator != self._own:
            return 0
        if self._coin_units is None:
            return None
        operator, demand = view.operator(demanded.operator), demanded.demand
        slash = 0 if operator is None else operator.stake // UNIT  # the most that a conviction takes
        open_leaves = sum(len(d.unanswered) for d in due if d.demand.batch_hash == demand.batch_hash)
        return (demand.bond_units + slash // open_leaves) * WEI // self._coin_units

    def _answer(self, batch: CommittedBatch, demanded: DemandStatus, worth: int | None) -> Iterator[News]:
        tree = demanded.demand.tree.name.lower()
        try:
            waiting = list(self.calls(demanded))
        except AnswersUnknown as why:
            yield news(batch, "unanswerable", f"leaves of {tree} are demanded: {why}")
            return
        for start in range(0, len(waiting), MAX_PENDING):
            group = waiting[start : start + MAX_PENDING]
            results = self._transactions.send([call for _, call in group], worth)
            for (i, _), sent in zip(group, results, strict=True):
                if sent.reverted not in ANSWERED_ALREADY:
                    text = f"leaf {i} of {tree} in demand {demanded.id[:10]}"
                    yield from outcome(batch, "answered", text, [sent])

    def calls(self, demanded: DemandStatus) -> Iterator[tuple[int, Call]]:
        """Index of each unanswered key and the answering call. Errors: `AnswersUnknown`; `Unavailable`."""
        demand = demanded.demand
        with self._db.read() as tx:
            committed = tx.chain.batch(demand.batch_hash)
            if committed is None:
                raise AnswersUnknown(f"no batch {demand.batch_hash}")
            parent = tx.chain.batch(committed.header["parent"])
            batch = self._batch(committed)
            headers = [dict(committed.header), dict((parent or committed).header)]
            for i in demanded.unanswered:
                if demand.tree is Tree.RECEIPTS:
                    witness = _receipt(tx.chain, batch, demand.keys[i])
                    yield i, Call("Disputes", "answerReceipt", (demand.abi, i, headers[0], *witness))
                else:
                    lookup = look_up(*_leaves(batch, demand.tree), demand.keys[i])
                    yield i, Call("Disputes", "answer", (demand.abi, i, *headers, lookup.abi))

    def _batch(self, committed: CommittedBatch) -> Batch:
        if committed.hash not in self._batches:
            try:
                batch = self._auditor.batch(committed.operator, committed.number)
            except (WrongBatch, NotFound) as error:
                raise AnswersUnknown(str(error)) from None
            while len(self._batches) >= CACHED_BATCHES:
                del self._batches[next(iter(self._batches))]
            self._batches[committed.hash] = batch
        return self._batches[committed.hash]


def _receipt(view: ChainView, batch: Batch, index: int) -> tuple[dict[str, Any], str]:
    """The receipt's witness and signature."""
    signed = batch.receipts[index]
    records = [record for s in signed.slices if (record := view.version(s.version_id)) is not None]
    return ReceiptWitness.of(signed, batch.open_receipt(index), records).abi, signed.signature


def _leaves(batch: Batch, tree: Tree) -> tuple[SumTree, Sequence[int]]:
    """A tree and the keys of its leaves."""
    if tree is Tree.ENTRIES:
        return batch.entries_tree, _EntryKeys(batch.entry_keys)
    if tree is Tree.BALANCES:
        return batch.balances_tree, sorted(map(balance_key, batch.balances))
    return batch.parent.balances_tree(), sorted(map(balance_key, batch.parent.balances))


class _EntryKeys(Sequence[int]):
    """A view of packed keys; integers would take ten times the memory."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed) // _KEY

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return int.from_bytes(self._packed[index * _KEY : (index + 1) * _KEY], "big")
