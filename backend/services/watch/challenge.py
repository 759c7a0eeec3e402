"""Challenges wrong batches: fraud proofs, demands within a limit of bonds, refunds and returned bonds.

What is to be done follows from the chain alone, and what is on its way from the outbox. So nothing is sent
twice or would revert, an interrupted pass can be repeated, and a call that got lost is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import SystemRandom
from typing import TYPE_CHECKING

from backend.domain.disputes.witnesses import MAX_KEYS, Tree, key_word
from backend.domain.money import GWEI, in_dollars
from backend.domain.transactions import Call
from backend.services.watch.news import News, news, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from backend.domain.disputes.proofs import Proof
    from backend.domain.ids import Account
    from backend.domain.settlement import CommittedBatch, Demand
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.services.watch.transactions import WatcherTransactions

    IsOver = Callable[[], bool]

BOND_MARGIN_PERCENT = 30
"""The base fee rises by up to an eighth with each block; a demand has two blocks to be mined."""
MAX_PENDING = 16
"""Calls sent together."""


@dataclass
class Challenge:
    """`max_bond` limits the sum of bonds of our open demands, in wei."""

    chain: Chain
    transactions: WatcherTransactions
    max_bond: int

    def prove(self, batch: CommittedBatch, proof: Proof) -> Iterator[News]:
        """Reserve the proof, and send it a block later: the contract takes no other."""
        call = Call("Disputes", proof.function, proof.args)
        if why := self.transactions.refusal(call):
            yield news(batch, "refused", f"{proof.function} would fail: {why}")
            return
        yield from self._reserve(batch, call)
        yield from outcome(batch, "proved", f"void by {proof.function}", self.transactions.send([call]))

    def bound(self, view: ChainView) -> dict[Account, int]:
        """Bonds of our open demands on each operator's batches, in wei."""
        opened = {operator: view.open_demands(operator) for operator in view.newest_batches()}
        return {
            operator: sum(one.bond for one in demands if self._is_open_and_ours(one))
            for operator, demands in opened.items()
        }

    def demand(
        self, view: ChainView, batch: CommittedBatch, wanted: Sequence[tuple[Tree, Sequence[int]]]
    ) -> Iterator[News]:
        """Demand the leaves that are not demanded yet, in order, as far as bonds allow.

        The bonds of all our demands count: nothing is demanded while the view does not show one of them.
        """
        fresh = self._fresh(view, batch, wanted)
        if not fresh:
            return
        if self.transactions.is_on_its_way(view, "Disputes", "demand"):
            text = f"{len(fresh)} leaves are not demanded now: an earlier demand is not mined, or not indexed"
            yield news(batch, "pending", f"{text}. If that lasts, check the account's coin and the RPC")
            return
        budget = min(self.max_bond - sum(self.bound(view).values()), self.transactions.funds())
        num_left = len(fresh)
        for tree, keys in _grouped(_shuffled(fresh)):
            count = self._affordable(batch, tree, len(keys), budget)
            if count == 0:
                break
            bonds = self._bond_of(batch, tree, count)
            budget, num_left = budget - bonds, num_left - count
            text = f"{count} leaves of {tree.name.lower()} for at most {_in_gwei(bonds)} gwei"
            sent = self.transactions.send([self._demand_call(batch, tree, keys[:count], bonds)])
            yield from outcome(batch, "demanded", text, sent)
            if count < len(keys):
                break
        if num_left:
            text = f"{num_left} leaves are not demanded now: their bonds exceed the limit of"
            yield news(batch, "bond_limit", f"{text} {_in_gwei(self.max_bond)} gwei or our balance")

    def expire(self, view: ChainView, operator: Account) -> Iterator[News]:
        """Void the first batch with a demand that was not answered in time."""
        head = self.chain.head()
        late = [one for one in view.open_demands(operator) if one.is_past(head.timestamp, head.number)]
        found = [(batch, one) for one in late if (batch := view.batch(one.batch_hash)) is not None]
        for batch, one in sorted(found, key=lambda pair: pair[0].number)[:1]:
            text = f"void: a leaf of {one.tree.name.lower()} was not answered"
            sent = self.transactions.send([_leaf_call("voidUnanswered", batch, one)])
            yield from outcome(batch, "proved", text, sent)

    def restore(self, view: ChainView, operator: Account, is_over: IsOver) -> Generator[News, None, bool]:
        """Return our bonds on voided batches and refund their payers, until the turn `is_over`.

        Returns whether it ended early, and a further call would succeed.
        """
        void = view.void_batches(operator)
        return (yield from self._return_bonds(view, void, is_over)) or (
            yield from self._refund(view, [batch for batch in void if not batch.is_refunded], is_over)
        )

    def _return_bonds(
        self, view: ChainView, void: Sequence[CommittedBatch], is_over: IsOver
    ) -> Generator[News, None, bool]:
        batches = {batch.hash: batch for batch in void}
        ours = [one for one in view.demands(*batches) if self._is_open_and_ours(one)]
        for start in range(0, len(ours), MAX_PENDING):
            bonds = [(batches[one.batch_hash], one) for one in ours[start : start + MAX_PENDING]]
            results = self.transactions.send([_leaf_call("returnBond", *bond) for bond in bonds])
            for (batch, one), sent in zip(bonds, results, strict=True):
                text = f"bond of {_in_gwei(one.bond)} gwei for leaf {one.leaf_id[:10]} credited"
                yield from outcome(batch, "bond_returned", text, [sent])
            if is_over():
                return any(sent.is_done for sent in results)
        return False

    def _refund(
        self, view: ChainView, waiting: Sequence[CommittedBatch], is_over: IsOver
    ) -> Generator[News, None, bool]:
        """Newest batch first: the contract refuses the others until that one is refunded."""
        if not waiting or not self.chain.call("Settlement", "stateOf", waiting[0].operator)["toRefund"]:
            return False
        for batch in sorted(waiting, key=lambda one: one.number, reverse=True):
            spans = view.spans(batch.hash)
            call = Call("Settlement", "refund", (dict(batch.header), [span.refund for span in spans]))
            total = sum(span.until - span.start for span in spans)
            text = f"{in_dollars(total)} refunded to {len(spans)} channels"
            (sent,) = self.transactions.send([call])
            yield from outcome(batch, "refunded", text, [sent])
            if is_over() or not sent.is_done:
                return sent.is_done
        return False

    def _reserve(self, batch: CommittedBatch, call: Call) -> Iterator[News]:
        reservation = self.transactions.reservation(call)
        if not self.chain.call("Disputes", "reservedAt", reservation):
            sent = self.transactions.send([Call("Disputes", "reserve", (reservation,))])
            yield from outcome(batch, "reserved", f"{call.function} is reserved", sent)

    def _fresh(
        self, view: ChainView, batch: CommittedBatch, wanted: Sequence[tuple[Tree, Sequence[int]]]
    ) -> list[tuple[Tree, int]]:
        """Wanted leaves that were not demanded by anyone: none can be demanded twice."""
        demands = view.demands(batch.hash)
        seen = {(one.tree, one.key) for one in demands}
        # A search proceeds in rounds: more demands before the answers would pay for what the answers reveal.
        searched = {one.tree for one in demands if self._is_open_and_ours(one)} - {Tree.RECEIPTS}
        leaves = dict.fromkeys((tree, key) for tree, keys in wanted for key in keys if tree not in searched)
        return [leaf for leaf in leaves if leaf not in seen]

    # --- bonds, in wei ---

    def _is_open_and_ours(self, demand: Demand) -> bool:
        return demand.is_open and demand.challenger == self.transactions.account

    def _bond_of(self, batch: CommittedBatch, tree: Tree, count: int) -> int:
        """The bonds of so many leaves, with a margin for a base fee that rises until the call is mined.

        What is too much is credited.
        """
        fee = self.chain.gas_price() * (100 + BOND_MARGIN_PERCENT) // 100
        return int(self.chain.call("Disputes", "bondOf", batch.operator, int(tree), count, fee))

    def _affordable(self, batch: CommittedBatch, tree: Tree, most: int, budget: int) -> int:
        """For how many leaves, up to `most`, the budget covers the bonds. The price rises with each."""
        if self._bond_of(batch, tree, most) <= budget:
            return most
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            is_covered = self._bond_of(batch, tree, middle) <= budget
            low, high = (middle, high) if is_covered else (low, middle)
        return low

    def _demand_call(self, batch: CommittedBatch, tree: Tree, keys: Sequence[int], bonds: int) -> Call:
        value = max(bonds - self.transactions.credit(), 0)
        args = (dict(batch.header), int(tree), list(map(key_word, keys)))
        return Call("Disputes", "demand", args, value)


def _leaf_call(function: str, batch: CommittedBatch, demand: Demand) -> Call:
    return Call("Disputes", function, (dict(batch.header), int(demand.tree), key_word(demand.key)))


def _in_gwei(wei: int) -> str:
    return f"{wei // GWEI:,}"


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
