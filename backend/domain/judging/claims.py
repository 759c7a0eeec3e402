"""Finds balances of a pending batch that are below what their accounts already claimed.

A wrong batch that became final may have moved claimed amounts to other accounts. Later batches follow from
it, so that only the claims convict them. Claims open only in final batches, which are ancestors of every
pending one, and a balance never falls from one valid batch to the next. Source: `Disputes.proveBelowClaimed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.batch import OperatorLedger
from backend.domain.disputes.lookups import look_up
from backend.domain.disputes.proofs import BelowClaimedProof
from backend.domain.disputes.witnesses import balance_key
from backend.domain.judging.case import Finding, Wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.batch import Header
    from backend.domain.disputes.witnesses import Lookup
    from backend.domain.ids import Account
    from backend.domain.judging.case import Case
    from backend.domain.judging.withheld_trees import PartialTree


def below_claimed(
    header: Header, balances: Mapping[Account, int], claimed: Mapping[Account, int]
) -> Wrong | None:
    """Compare all balances of the batch; they must be those of its tree. Amounts in micro-units."""
    for account, amount in claimed.items():
        value = balances.get(account, 0)
        if value < amount:
            tree, keys = OperatorLedger(balances=balances).balances_tree(), sorted(map(balance_key, balances))
            return _wrong(header, account, (value, amount), look_up(tree, keys, balance_key(account)))
    return None


def below_claimed_in_answers(case: Case, opened: PartialTree) -> Wrong | None:
    """Compare the balances that answers to demands `opened`."""
    for account, amount in case.claimed.items():
        proven = opened.get(balance_key(account))
        if proven is not None and proven.value < amount:
            return _wrong(case.header, account, (proven.value, amount), proven.lookup)
    return None


def unknown_claimed(case: Case, opened: PartialTree) -> list[int]:
    """Keys of the accounts with claims whose balance is not known, the largest claim first."""
    ranked = sorted(case.claimed, key=lambda account: (-case.claimed[account], account))
    return [key for key in map(balance_key, ranked) if opened.get(key) is None]


def _wrong(header: Header, account: Account, amounts: tuple[int, int], lookup: Lookup) -> Wrong:
    value, claimed = amounts
    text = f"the balance of {account} is {value}, below the {claimed} that it claimed"
    return Wrong(Finding("below_claimed", text), BelowClaimedProof(header, account, lookup))
