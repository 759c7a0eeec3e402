"""Reconciles an operator's accounts from contract calls and batches recomputed from public data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.batch import Header
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.disputes.lookups import has_root, tree_of
from backend.domain.disputes.witnesses import Tree
from backend.domain.money import UNIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backend.domain.batch import OperatorLedger
    from backend.domain.ids import Account, ChannelId, ReceiptId
    from backend.installation.installation import Installation
    from backend.ports.chain import Chain


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Amounts in micro-units. `credited` is recomputed from the batches' public data; all others are read
    from the contracts.
    """

    collected: int
    cumulative_total: int
    pot: int
    credited: dict[Account, int]
    claimed: dict[Account, int]
    received: dict[Account, int]
    """Increase of each account's token balance since the demo began."""
    is_proven: bool
    """Whether `credited` has the root to which the latest final batch commits."""

    @property
    def is_balanced(self) -> bool:
        """Whether the credited, collected, claimed and received amounts agree exactly."""
        return (
            self.is_proven
            and sum(self.credited.values()) == self.collected == self.cumulative_total
            and self.pot == self.collected - sum(self.claimed.values())
            and all(0 <= self.claimed[account] <= self.credited[account] for account in self.credited)
            and self.received == self.claimed
        )


def reconcile(
    installation: Installation, channels: Iterable[ChannelId], funds_before: dict[Account, int]
) -> Reconciliation:
    """Reconcile this installation's operator.

    `funds_before`: token balances before the first claim, in token units. Errors: `WrongBatch`.
    """
    chain, operator = installation.chain, installation.operator.account
    ledger = installation.audit.auditor.follow(operator)
    accounts = sorted(ledger.balances)
    claimed = {a: int(chain.call("Settlement", "claimedOf", operator, a)) for a in accounts}
    now = funds(chain, accounts)
    return Reconciliation(
        collected=sum(int(chain.call("PaymentVault", "channelOf", c)["collected"]) for c in channels),
        cumulative_total=int(chain.call("Settlement", "stateOf", operator)["cumulativeTotal"]),
        pot=int(chain.call("PaymentVault", "potOf", chain.address("Settlement"), operator)),
        credited={account: ledger.balances[account] for account in accounts},
        claimed=claimed,
        received={a: (now[a] - funds_before.get(a, 0)) * UNIT for a in accounts},
        is_proven=_is_paid_by(installation, ledger),
    )


def funds(chain: Chain, accounts: Iterable[Account]) -> dict[Account, int]:
    """Read each account's token balance, in token units."""
    return {account: int(chain.call(PAYMENT_TOKEN, "balanceOf", account)) for account in accounts}


def verify_on_chain(
    installation: Installation, number: int, receipt: ReceiptId, accounts: Sequence[Account]
) -> dict[str, bool]:
    """Have the contract verify a receipt of the batch, and the latest entry of one of `accounts`."""
    proofs, auditor, operator = (
        installation.audit.proofs,
        installation.audit.auditor,
        installation.operator.account,
    )
    entries = (
        (earlier, entry)
        for earlier in range(number, 0, -1)
        for account in accounts
        for entry in auditor.batch(operator, earlier).entries.of(account)
    )
    holder, entry = next(entries, (0, None))
    return {
        "receipt": proofs.verify_receipt(operator, number, receipt),
        "entry": entry is not None and proofs.verify_entry(operator, holder, entry),
    }


def fee_of(installation: Installation, number: int) -> int:
    """Protocol fee, in ppm, of the parameter set that a batch names on the chain."""
    with installation.database.read() as tx:
        batch = tx.chain.numbered_batch(installation.operator.account, number)
        terms = None if batch is None else tx.chain.parameter_set(int(batch.header["parameterSet"]))
    return 0 if terms is None else terms.fee_ppm


def _is_paid_by(installation: Installation, ledger: OperatorLedger) -> bool:
    """Whether these are exactly the balances to which the latest final batch on the chain commits."""
    chain, operator = installation.chain, installation.operator.account
    number = chain.call("Settlement", "stateOf", operator)["finalised"]
    final = chain.call("Settlement", "batchHashAt", operator, number)
    with installation.database.read() as tx:
        batch = tx.chain.batch(final)
    if batch is None:
        return False
    header = Header.from_chain(batch.header)
    return header.hash == final and has_root(ledger.balances_tree(), tree_of(header, Tree.BALANCES))
