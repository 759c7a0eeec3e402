"""The operator's books as anybody can draw them up: chain calls, and batches recomputed from public data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.hashing import balances_hash, to_hash
from backend.domain.money import UNIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backend.domain.batch import Ledger
    from backend.domain.ids import Account, ChannelId, ReceiptId
    from backend.installation.installation import Installation
    from backend.ports.chain import Chain


@dataclass(frozen=True, slots=True)
class AccountSummary:
    """Amounts in micro-units. All but `credited` are answers of the contracts; `credited` is recomputed from
    the batches' public data and holds only if `is_proven`: its hash is the one that the contract pays by.
    """

    collected: int
    cumulative_total: int
    pot: int
    credited: dict[Account, int]
    claimed: dict[Account, int]
    received: dict[Account, int]
    """What the token contract says that each account got since the demo began."""
    is_proven: bool

    @property
    def is_balanced(self) -> bool:
        """No unit too many or too few, anywhere."""
        return (
            self.is_proven
            and sum(self.credited.values()) == self.collected == self.cumulative_total
            and self.pot == self.collected - sum(self.claimed.values())
            and all(0 <= self.claimed[account] <= self.credited[account] for account in self.credited)
            and self.received == self.claimed
        )


def draw_up(
    installation: Installation, channels: Iterable[ChannelId], funds_before: dict[Account, int]
) -> AccountSummary:
    """`funds_before`: token units that the accounts of interest held before the first claim.

    Errors: `WrongBatch` if a batch is not right.
    """
    chain, operator = installation.chain, installation.operator.account
    ledger = installation.auditor.follow(operator)
    accounts = sorted(ledger.balances)
    claimed = {a: int(chain.call("Settlement", "claimedOf", operator, a)) for a in accounts}
    now = funds(chain, accounts)
    return AccountSummary(
        collected=sum(int(chain.call("PaymentVault", "channelOf", c)["collected"]) for c in channels),
        cumulative_total=int(chain.call("Settlement", "stateOf", operator)["cumulativeTotal"]),
        pot=int(chain.call("PaymentVault", "potOf", chain.address("Settlement"), operator)),
        credited={account: ledger.balances[account] for account in accounts},
        claimed=claimed,
        received={a: (now[a] - funds_before.get(a, 0)) * UNIT for a in accounts},
        is_proven=_is_paid_by(chain, operator, ledger),
    )


def funds(chain: Chain, accounts: Iterable[Account]) -> dict[Account, int]:
    """Token units that each account holds."""
    return {account: int(chain.call(PAYMENT_TOKEN, "balanceOf", account)) for account in accounts}


def verify_on_chain(
    installation: Installation, number: int, receipt: ReceiptId, accounts: Sequence[Account]
) -> dict[str, bool]:
    """Ask the contract about the receipt in the batch, and about the latest entry of one of `accounts`."""
    proofs, auditor, operator = installation.proofs, installation.auditor, installation.operator.account
    entries = (
        (earlier, entry)
        for earlier in range(number, 0, -1)
        for account in accounts
        for entry in auditor.batch(operator, earlier).entries_of(account)
    )
    holder, entry = next(entries, (0, None))
    return {
        "receipt": proofs.receipt_stands(operator, number, receipt),
        "entry": entry is not None and proofs.entry_stands(operator, holder, entry),
    }


def fee_of(installation: Installation, number: int) -> int:
    """The protocol fee, ppm, of the parameter set that a batch names on chain."""
    with installation.database.read() as tx:
        batches = tx.chain.batches(installation.operator.account)
        header = next(batch.header for batch in batches if batch.number == number)
        terms = tx.chain.parameter_set(int(header["parameterSet"]))
    return 0 if terms is None else terms.fee_ppm


def _is_paid_by(chain: Chain, operator: Account, ledger: Ledger) -> bool:
    """Whether the contract pays claims by exactly these balances."""
    tree = ledger.balances_tree()
    expected = balances_hash(to_hash(tree.root), tree.count, ledger.cumulative_total)
    return bool(chain.call("Settlement", "balancesHashOf", operator) == expected)
