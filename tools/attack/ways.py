"""Ways to commit a wrong batch: each makes a forgery of an honest one, over the same money where it can."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.chain.keys import local_account
from backend.domain.disputes.witnesses import balance_key
from backend.domain.ids import VersionId
from backend.domain.receipt import Share
from tools.attack.stage import Forgery
from tools.local_market import CONTRIBUTORS, OPERATOR, REJECTED, SHARES, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.batch import Batch
    from backend.domain.ids import Account
    from backend.domain.receipt import Slice
    from tools.attack.stage import Leaves, Stage

ACCOMPLICE = local_account(10)
STOLEN = 1_000_000
"""Micro-units: one unit of the payment token."""


@dataclass(frozen=True, slots=True)
class Way:
    """`proofs`: the proofs of `Disputes` by which the batch may fall; none for one that must stand."""

    name: str
    forge: Callable[[Stage, Batch], Forgery]
    proofs: tuple[str, ...]


def wrong_price(stage: Stage, batch: Batch) -> Forgery:
    """A micro-unit more than the answer costs, for the operator; all that follows from it agrees."""
    forgery = Forgery.of(batch)
    last = forgery.receipts[-1]
    dearer = replace(last.receipt, charge=last.receipt.charge + 1, cumulative=last.receipt.cumulative + 1)
    forgery.receipts[-1] = stage.sign(dearer, last.slices)
    forgery.spans = (*forgery.spans[:-1], replace(forgery.spans[-1], until=forgery.spans[-1].until + 1))
    _add(forgery.entries, _entry_of(forgery, OPERATOR.account), 1)
    _add(forgery.balances, _balance_of(forgery, OPERATOR.account), 1)
    return forgery


def off_place(_stage: Stage, batch: Batch) -> Forgery:
    """Two receipts of a channel have changed places."""
    forgery = Forgery.of(batch)
    forgery.receipts[:2] = reversed(forgery.receipts[:2])
    return forgery


def false_list(stage: Stage, batch: Batch) -> Forgery:
    """An attribution list that does not make a whole."""
    return _relisted(stage, batch, (SHARES[0], replace(SHARES[1], ppm=SHARES[1].ppm - 1)))


def outside_snapshot(stage: Stage, batch: Batch) -> Forgery:
    """A list that names a contribution that the curators refused."""
    return _relisted(stage, batch, (Share(REJECTED, 1_000_000),))


def unregistered_version(stage: Stage, batch: Batch) -> Forgery:
    """A receipt of a version that nobody registered."""
    return _resliced(stage, batch, lambda s: replace(s, version_id=VersionId(some_hash("nobody's"))))


def foreign_signature(stage: Stage, batch: Batch) -> Forgery:
    """A receipt that no receipt key of the operator signed."""
    forgery = Forgery.of(batch)
    first = forgery.receipts[0]
    forgery.receipts[0] = stage.sign(first.receipt, first.slices, ACCOMPLICE)
    return forgery


def entry_short(_stage: Stage, batch: Batch) -> Forgery:
    """A contributor's entry is a micro-unit short, and the operator's as much too long."""
    forgery = Forgery.of(batch)
    _add(forgery.entries, _entry_of(forgery, CONTRIBUTORS[2].account), -1)
    _add(forgery.entries, _entry_of(forgery, OPERATOR.account), 1)
    return forgery


def spare_leaf(_stage: Stage, batch: Batch) -> Forgery:
    """An entry from nowhere, at a contributor's expense."""
    forgery = Forgery.of(batch)
    _add(forgery.entries, _entry_of(forgery, CONTRIBUTORS[0].account), -STOLEN)
    forgery.entries.append((balance_key(ACCOMPLICE.account) << 64, STOLEN))
    forgery.entries.sort()
    return forgery


def zero_leaf(_stage: Stage, batch: Batch) -> Forgery:
    """An entry worth nothing."""
    forgery = Forgery.of(batch)
    forgery.entries.append((balance_key(ACCOMPLICE.account) << 64, 0))
    forgery.entries.sort()
    return forgery


def swapped_order(_stage: Stage, batch: Batch) -> Forgery:
    """Two neighbouring entries have changed places."""
    forgery = Forgery.of(batch)
    at = len(forgery.entries) // 2
    forgery.entries[at : at + 2] = reversed(forgery.entries[at : at + 2])
    return forgery


def balance_short(_stage: Stage, batch: Batch) -> Forgery:
    """A contributor's balance is moved to the operator's."""
    forgery = Forgery.of(batch)
    _add(forgery.balances, _balance_of(forgery, CONTRIBUTORS[0].account), -STOLEN)
    _add(forgery.balances, _balance_of(forgery, OPERATOR.account), STOLEN)
    return forgery


def spare_balance(_stage: Stage, batch: Batch) -> Forgery:
    """A balance of somebody who earned nothing, taken from everybody else's."""
    forgery = Forgery.of(batch)
    for place in range(len(forgery.balances)):
        _add(forgery.balances, place, -STOLEN)
    forgery.balances.append((balance_key(ACCOMPLICE.account), STOLEN * len(forgery.balances)))
    forgery.balances.sort()
    return forgery


def double_signed(stage: Stage, batch: Batch) -> Forgery:
    """Right in itself, but the payers hold other receipts: there, not one contributor had it all."""
    receipts = _relisted(stage, batch, (Share(SHARES[0].position, 1_000_000),)).receipts
    return replace(Forgery.of(stage.build(receipts)), shown_elsewhere=batch.receipts)


def withheld(_stage: Stage, batch: Batch) -> Forgery:
    """An honest batch whose data nobody can fetch, and no demand is answered."""
    return replace(Forgery.of(batch), is_published=False, does_answer=False)


def withheld_and_wrong(stage: Stage, batch: Batch) -> Forgery:
    """A batch with a spare entry whose data nobody can fetch; demands are answered from its trees."""
    return replace(spare_leaf(stage, batch), is_published=False)


def withheld_and_shown(_stage: Stage, batch: Batch) -> Forgery:
    """An honest batch whose data nobody can fetch; every demand is answered, so it must stand."""
    return replace(Forgery.of(batch), is_published=False)


RECEIPT = ("proveBadReceipt",)
WAYS = (
    Way("wrong price", wrong_price, RECEIPT),
    Way("receipt off its place", off_place, RECEIPT),
    Way("list that makes no whole", false_list, RECEIPT),
    Way("contribution outside its snapshot", outside_snapshot, ("proveBadPosition",)),
    Way("version not registered", unregistered_version, RECEIPT),
    Way("foreign signature", foreign_signature, ("voidUnanswered",)),
    Way("entry short", entry_short, ("proveWrongEntry",)),
    Way("spare entry", spare_leaf, ("proveWrongEntry",)),
    Way("entry worth nothing", zero_leaf, ("proveZeroLeaf",)),
    Way("entries out of order", swapped_order, ("proveWrongOrder", "proveWrongEntry", "voidUnanswered")),
    Way("balance short", balance_short, ("proveWrongBalance",)),
    Way("spare balance", spare_balance, ("proveWrongBalance",)),
    Way("receipt signed twice", double_signed, ("proveEquivocation",)),
    Way("withheld", withheld, ("voidUnanswered",)),
    Way("withheld, and a spare entry", withheld_and_wrong, ("proveWrongEntry",)),
    Way("withheld, but shown on demand", withheld_and_shown, ()),
)


def _relisted(stage: Stage, batch: Batch, shares: tuple[Share, ...]) -> Forgery:
    return _resliced(stage, batch, lambda s: replace(s, shares=shares) if s.shares else s)


def _resliced(stage: Stage, batch: Batch, change: Callable[[Slice], Slice]) -> Forgery:
    """The first receipt of an adapter with other slices, signed anew."""
    forgery = Forgery.of(batch)
    at = next(i for i, signed in enumerate(forgery.receipts) if signed.slices[0].shares)
    signed = forgery.receipts[at]
    forgery.receipts[at] = stage.sign(signed.receipt, tuple(map(change, signed.slices)))
    return forgery


def _entry_of(forgery: Forgery, account: Account) -> int:
    """Place of the account's first entry."""
    return next(i for i, (key, _) in enumerate(forgery.entries) if key >> 64 == balance_key(account))


def _balance_of(forgery: Forgery, account: Account) -> int:
    return next(i for i, (key, _) in enumerate(forgery.balances) if key == balance_key(account))


def _add(leaves: Leaves, place: int, amount: int) -> None:
    key, value = leaves[place]
    leaves[place] = key, value + amount
