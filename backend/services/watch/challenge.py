"""Challenges wrong batches: fraud proofs, demands within a limit of bonds, refunds and returned bonds.

What is to be done follows from the chain alone, and what is on its way from the outbox. So nothing is sent
twice or would revert, an interrupted pass can be repeated, and a call that got lost is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import SystemRandom
from typing import TYPE_CHECKING

from backend.domain.disputes.witnesses import MAX_KEYS, Tree, key_word
from backend.domain.money import UNIT
from backend.domain.settlement import BatchState
from backend.domain.transactions import Call, as_json
from backend.services.watch.news import News, news, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.domain.disputes.proofs import Proof
    from backend.domain.ids import Account
    from backend.domain.parameters import ParameterSet
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain import Chain, ChainView
    from backend.services.watch.transactions import WatcherTransactions

RESERVING_PART = 16
"""In the last 1/16 of the dispute window a proof is sent at once, without a reservation."""


@dataclass
class Challenge:
    """`max_bond_units` limits the sum of bonds of our open demands, in units of the payment token."""

    chain: Chain
    transactions: WatcherTransactions
    max_bond_units: int

    def prove(self, view: ChainView, batch: CommittedBatch, proof: Proof) -> Iterator[News]:
        """Reserve the proof, which secures its reward, and send it a block later; near the deadline send it
        at once.
        """
        call = Call("Disputes", proof.function, proof.args)
        if why := self.transactions.refusal(call):
            yield news(batch, "refused", f"{proof.function} would fail: {why}")
            return
        if self._has_time(view, batch):
            yield from self._reserve(batch, call)
        yield from outcome(batch, "proved", f"void by {proof.function}", self.transactions.send([call]))

    def demand(
        self, view: ChainView, batch: CommittedBatch, wanted: Sequence[tuple[Tree, Sequence[int]]]
    ) -> Iterator[News]:
        """Demand the leaves that are not demanded yet, in order, as far as bonds allow."""
        terms = _terms(view, batch)
        bond = -(-terms.demand_bond // UNIT)
        fresh = self._fresh(view, batch, wanted)
        affordable = self._affordable(view, bond, len(fresh))
        if affordable < len(fresh):
            text = f"{len(fresh) - affordable} leaves are not demanded now: bonds of {bond} units per key"
            yield news(
                batch, "bond_limit", f"{text} exceed the limit of {self.max_bond_units} or our balance"
            )
            fresh = _shuffled(fresh)
        groups = list(_grouped(fresh[:affordable]))
        if not groups:
            return
        calls = [
            Call("Disputes", "demand", (dict(batch.header), int(tree), list(map(key_word, keys))))
            for tree, keys in groups
        ]
        if (approval := self.transactions.approval(bond * affordable)) is not None:
            self.transactions.send([approval])
        for one, (tree, keys) in zip(self.transactions.send(calls), groups, strict=True):
            text = f"{len(keys)} leaves of {tree.name.lower()} for {bond * len(keys)} units"
            yield from outcome(batch, "demanded", text, [one])

    def expire(self, view: ChainView, operator: Account) -> Iterator[News]:
        """Void the first batch with a demand that was not answered in time."""
        now = self.chain.head().timestamp
        late = [one for one in view.open_demands(operator) if one.demand.deadline < now]
        found = [(batch, one) for one in late if (batch := view.batch(one.demand.batch_hash)) is not None]
        for batch, one in sorted(found, key=lambda pair: pair[0].number)[:1]:
            call = Call("Disputes", "voidUnanswered", (one.demand.abi, dict(batch.header)))
            text = f"void: {len(one.unanswered)} leaves of {one.demand.tree.name.lower()} were not answered"
            yield from outcome(batch, "proved", text, self.transactions.send([call]))

    def restore(self, view: ChainView, operator: Account) -> Iterator[News]:
        """Refund the payers of voided batches, newest batch first, and return our bonds."""
        void = [batch for batch in view.batches(operator) if batch.state is BatchState.VOID]
        for batch in void:
            yield from self._return_bonds(view, batch)
        waiting = [batch for batch in void if not batch.is_refunded]
        if not waiting or not self.chain.call("Settlement", "stateOf", operator)["toRefund"]:
            return
        for batch in sorted(waiting, key=lambda one: one.number, reverse=True):
            spans = view.spans(batch.hash)
            call = Call("Settlement", "refund", (dict(batch.header), [span.refund for span in spans]))
            total = sum(span.until - span.start for span in spans)
            text = f"{total} micro-units refunded to {len(spans)} channels"
            yield from outcome(batch, "refunded", text, self.transactions.send([call]))

    def _has_time(self, view: ChainView, batch: CommittedBatch) -> bool:
        left = int(batch.header["finalAt"]) - self.chain.head().timestamp
        return left > _terms(view, batch).dispute_window // RESERVING_PART

    def _reserve(self, batch: CommittedBatch, call: Call) -> Iterator[News]:
        reservation = self.transactions.reservation(call)
        if not self.chain.call("Disputes", "reservedAt", reservation):
            sent = self.transactions.send([Call("Disputes", "reserve", (reservation,))])
            yield from outcome(batch, "reserved", f"{call.function} is reserved", sent)

    def _fresh(
        self, view: ChainView, batch: CommittedBatch, wanted: Sequence[tuple[Tree, Sequence[int]]]
    ) -> list[tuple[Tree, int]]:
        """Wanted leaves that are in no open demand."""
        demands = view.demands(batch.hash)
        seen = {(one.demand.tree, key) for one in demands for key in one.demand.keys}
        waiting = {
            (one.demand.tree, one.demand.keys[i]): one.demand.challenger == self.transactions.account
            for one in demands
            for i in one.unanswered
        } | dict.fromkeys(self._on_their_way(batch) - seen, True)
        # A search proceeds in rounds: more demands before the answers would pay for what the answers reveal.
        searched = {tree for (tree, _), is_ours in waiting.items() if is_ours}
        searched.discard(Tree.RECEIPTS)
        leaves = dict.fromkeys((tree, key) for tree, keys in wanted for key in keys if tree not in searched)
        return [leaf for leaf in leaves if leaf not in waiting]

    def _on_their_way(self, batch: CommittedBatch) -> set[tuple[Tree, int]]:
        """Leaves of the batch whose demand was sent, and which the view may not show yet."""
        header = as_json(dict(batch.header))
        sent = self.transactions.on_their_way("Disputes", "demand")
        return {(Tree(int(tree)), int(key, 16)) for of, tree, keys in sent if of == header for key in keys}

    def _affordable(self, view: ChainView, bond: int, num: int) -> int:
        """For how many of `num` keys the limit and our balance cover the bonds."""
        if num == 0 or bond == 0:
            return num
        ours = (d for o in view.operators() for d in view.open_demands(o.account))
        bound = sum(
            len(d.unanswered) * d.demand.bond_units
            for d in ours
            if d.demand.challenger == self.transactions.account
        )
        available = min(self.max_bond_units - bound, self.transactions.units())
        return max(min(num, available // bond), 0)

    def _return_bonds(self, view: ChainView, batch: CommittedBatch) -> Iterator[News]:
        for one in view.demands(batch.hash):
            if one.unanswered and one.demand.challenger == self.transactions.account:
                call = Call("Disputes", "returnBond", (one.demand.abi, dict(batch.header)))
                text = f"{len(one.unanswered) * one.demand.bond_units} units of bonds returned"
                yield from outcome(batch, "bond_returned", text, self.transactions.send([call]))


def _terms(view: ChainView, batch: CommittedBatch) -> ParameterSet:
    terms = view.parameter_set(int(batch.header["parameterSet"]))
    if terms is None:  # the contract accepted the batch, so the set exists
        raise ValueError(f"no parameter set {batch.header['parameterSet']}")
    return terms


def _shuffled(leaves: Sequence[tuple[Tree, int]]) -> list[tuple[Tree, int]]:
    """Shuffle the receipts among themselves, so that an operator that hides one cannot predict the choice."""
    receipts = [leaf for leaf in leaves if leaf[0] is Tree.RECEIPTS]
    SystemRandom().shuffle(receipts)
    return [receipts.pop() if leaf[0] is Tree.RECEIPTS else leaf for leaf in leaves]


def _grouped(leaves: Sequence[tuple[Tree, int]]) -> Iterator[tuple[Tree, tuple[int, ...]]]:
    """Groups of at most `MAX_KEYS` keys of one tree, in the order of each tree's first leaf."""
    by_tree: dict[Tree, list[int]] = {}
    for tree, key in leaves:
        by_tree.setdefault(tree, []).append(key)
    for tree, keys in by_tree.items():
        for start in range(0, len(keys), MAX_KEYS):
            yield tree, tuple(keys[start : start + MAX_KEYS])
