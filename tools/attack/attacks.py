"""Attacks: each turns an honest batch into a forgery with the same total where possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.chain.keys import local_account
from backend.domain.disputes.witnesses import balance_key
from backend.domain.ids import VersionId
from backend.domain.receipt import Share
from tools.attack import floods
from tools.attack.attack_market import AttackMarket, Forgery
from tools.labels import some_hash
from tools.local_market import CONTRIBUTORS, OPERATOR, REJECTED, SHARES

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.batch import Batch, Header
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt, Slice
    from tools.attack.attack_market import Leaves

ACCOMPLICE = local_account(10)
STOLEN = 1_000_000
"""Micro-units: one unit of the payment token."""


@dataclass(frozen=True, slots=True)
class Attack:
    """`proofs` are the fraud proofs that may convict the batch; empty if it must become final."""

    name: str
    forge: Callable[[AttackMarket, Batch], Forgery]
    proofs: tuple[str, ...]
    serve: Callable[[AttackMarket], list[SignedReceipt]] = AttackMarket.serve_round
    """Serves the honest batch's receipts."""
    demand: Callable[[AttackMarket, Header], None] | None = None
    """Demands leaves just after the commit."""


def wrong_price(market: AttackMarket, batch: Batch) -> Forgery:
    """A charge one micro-unit too high, for the operator, with consistent entries and balances."""
    forgery = Forgery.of(batch)
    last = forgery.receipts[-1]
    dearer = replace(last.receipt, charge=last.receipt.charge + 1, cumulative=last.receipt.cumulative + 1)
    forgery.receipts[-1] = market.sign(dearer, last.slices)
    forgery.spans = (*forgery.spans[:-1], replace(forgery.spans[-1], until=forgery.spans[-1].until + 1))
    _add(forgery.entries, _entry_of(forgery, OPERATOR.account), 1)
    _add(forgery.balances, _balance_of(forgery, OPERATOR.account), 1)
    return forgery


def misplaced_receipt(_market: AttackMarket, batch: Batch) -> Forgery:
    """Two receipts of a channel are swapped."""
    forgery = Forgery.of(batch)
    forgery.receipts[:2] = reversed(forgery.receipts[:2])
    return forgery


def wrong_list_sum(market: AttackMarket, batch: Batch) -> Forgery:
    """An attribution list that does not sum to the whole."""
    return _with_shares(market, batch, (SHARES[0], replace(SHARES[1], ppm=SHARES[1].ppm - 1)))


def outside_snapshot(market: AttackMarket, batch: Batch) -> Forgery:
    """An attribution list with a contribution that the curators rejected."""
    return _with_shares(market, batch, (Share(REJECTED, 1_000_000),))


def unregistered_version(market: AttackMarket, batch: Batch) -> Forgery:
    """A receipt of an unregistered version."""
    return _with_slices(market, batch, lambda s: replace(s, version_id=VersionId(some_hash("unregistered"))))


def foreign_signature(market: AttackMarket, batch: Batch) -> Forgery:
    """A receipt that no receipt key of the operator signed."""
    forgery = Forgery.of(batch)
    first = forgery.receipts[0]
    forgery.receipts[0] = market.sign(first.receipt, first.slices, ACCOMPLICE)
    return forgery


def entry_short(_market: AttackMarket, batch: Batch) -> Forgery:
    """A contributor's entry is one micro-unit too small, the operator's one too large."""
    forgery = Forgery.of(batch)
    _add(forgery.entries, _entry_of(forgery, CONTRIBUTORS[2].account), -1)
    _add(forgery.entries, _entry_of(forgery, OPERATOR.account), 1)
    return forgery


def surplus_entry(_market: AttackMarket, batch: Batch) -> Forgery:
    """A surplus entry for an account that earned nothing, at a contributor's expense."""
    forgery = Forgery.of(batch)
    _add(forgery.entries, _entry_of(forgery, CONTRIBUTORS[0].account), -STOLEN)
    forgery.entries.append((balance_key(ACCOMPLICE.account) << 64, STOLEN))
    forgery.entries.sort()
    return forgery


def zero_leaf(_market: AttackMarket, batch: Batch) -> Forgery:
    """An entry without value."""
    forgery = Forgery.of(batch)
    forgery.entries.append((balance_key(ACCOMPLICE.account) << 64, 0))
    forgery.entries.sort()
    return forgery


def swapped_order(_market: AttackMarket, batch: Batch) -> Forgery:
    """Two adjacent entries are swapped."""
    forgery = Forgery.of(batch)
    at = len(forgery.entries) // 2
    forgery.entries[at : at + 2] = reversed(forgery.entries[at : at + 2])
    return forgery


def balance_short(_market: AttackMarket, batch: Batch) -> Forgery:
    """A part of a contributor's balance is moved to the operator."""
    forgery = Forgery.of(batch)
    _add(forgery.balances, _balance_of(forgery, CONTRIBUTORS[0].account), -STOLEN)
    _add(forgery.balances, _balance_of(forgery, OPERATOR.account), STOLEN)
    return forgery


def surplus_balance(_market: AttackMarket, batch: Batch) -> Forgery:
    """A surplus balance for an account that earned nothing, taken from all others."""
    forgery = Forgery.of(batch)
    for index in range(len(forgery.balances)):
        _add(forgery.balances, index, -STOLEN)
    forgery.balances.append((balance_key(ACCOMPLICE.account), STOLEN * len(forgery.balances)))
    forgery.balances.sort()
    return forgery


def double_signed(market: AttackMarket, batch: Batch) -> Forgery:
    """A consistent batch of receipts that pay one contributor; the payers have the honest receipts."""
    receipts = _with_shares(market, batch, (Share(SHARES[0].position, 1_000_000),)).receipts
    return replace(Forgery.of(market.build(receipts)), evidence=batch.receipts)


def honest(_market: AttackMarket, batch: Batch) -> Forgery:
    """An honest batch, whose demands are left to the operator's watcher."""
    return replace(Forgery.of(batch), does_answer=False)


def withheld(_market: AttackMarket, batch: Batch) -> Forgery:
    """An honest batch with unpublished data, whose demands are not answered."""
    return replace(Forgery.of(batch), is_published=False, does_answer=False)


def withheld_and_wrong(market: AttackMarket, batch: Batch) -> Forgery:
    """A batch with a surplus entry and unpublished data, whose demands are answered from its trees."""
    return replace(surplus_entry(market, batch), is_published=False)


def withheld_but_answered(_market: AttackMarket, batch: Batch) -> Forgery:
    """An honest batch with unpublished data. Every demand is answered, so it must become final."""
    return replace(Forgery.of(batch), is_published=False)


RECEIPT = ("proveBadReceipt",)
ATTACKS = (
    Attack("wrong price", wrong_price, RECEIPT),
    Attack("misplaced receipt", misplaced_receipt, RECEIPT),
    Attack("list with a wrong sum", wrong_list_sum, RECEIPT),
    Attack("contribution outside its snapshot", outside_snapshot, ("proveBadPosition",)),
    Attack("version not registered", unregistered_version, RECEIPT),
    Attack("foreign signature", foreign_signature, ("voidUnanswered",)),
    Attack("entry too small", entry_short, ("proveWrongEntry",)),
    Attack("surplus entry", surplus_entry, ("proveWrongEntry",)),
    Attack("entry without value", zero_leaf, ("proveZeroLeaf",)),
    Attack("entries out of order", swapped_order, ("proveWrongOrder", "proveWrongEntry", "voidUnanswered")),
    Attack("balance too small", balance_short, ("proveWrongBalance",)),
    Attack("surplus balance", surplus_balance, ("proveWrongBalance",)),
    Attack("receipt signed twice", double_signed, ("proveEquivocation",)),
    Attack("withheld", withheld, ("voidUnanswered",)),
    Attack("withheld, with a surplus entry", withheld_and_wrong, ("proveWrongEntry",)),
    Attack("withheld, but demands answered", withheld_but_answered, ()),
    Attack(
        "own queue filled",
        withheld_and_wrong,
        ("proveWrongEntry",),
        demand=floods.demand_own_entries,
    ),
)
TIMED_ATTACKS = (
    Attack(
        "flood of the worst demands",
        honest,
        (),
        serve=floods.worst_receipts,
        demand=floods.demand_receipts,
    ),
)
"""Attacks that the watcher withstands only if it is fast enough; a busy machine is not."""


def _with_shares(market: AttackMarket, batch: Batch, shares: tuple[Share, ...]) -> Forgery:
    return _with_slices(market, batch, lambda s: replace(s, shares=shares) if s.shares else s)


def _with_slices(market: AttackMarket, batch: Batch, change: Callable[[Slice], Slice]) -> Forgery:
    """The first receipt of an adapter with other slices and a new signature."""
    forgery = Forgery.of(batch)
    at = next(i for i, signed in enumerate(forgery.receipts) if signed.slices[0].shares)
    signed = forgery.receipts[at]
    forgery.receipts[at] = market.sign(signed.receipt, tuple(map(change, signed.slices)))
    return forgery


def _entry_of(forgery: Forgery, account: Account) -> int:
    """Index of the account's first entry."""
    return next(i for i, (key, _) in enumerate(forgery.entries) if key >> 64 == balance_key(account))


def _balance_of(forgery: Forgery, account: Account) -> int:
    return next(i for i, (key, _) in enumerate(forgery.balances) if key == balance_key(account))


def _add(leaves: Leaves, index: int, amount: int) -> None:
    key, value = leaves[index]
    leaves[index] = key, value + amount
