"""Checks of what an operator must have on the chain to earn. `/ready` leaves them out, as no answer fails
without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import Conflict
from backend.domain.money import COIN
from backend.installation.readiness import Part

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.installation.installation import Installation


ENOUGH_GAS = 10_000_000
"""For a few batches, or answers to demands; the limit of the alert on gas in deployments/monitoring too."""


def _check_can_settle(installation: Installation) -> None:
    if obstacles := installation.membership.status().obstacles:
        raise Conflict(f"The operator cannot settle: {'; '.join(obstacles)}.")


def _check_gas(installation: Installation) -> None:
    needed = ENOUGH_GAS * installation.chain.gas_price()
    balances = {who: installation.chain.balance(account) for who, account in _senders(installation).items()}
    short = [f"the {who} has {balance / COIN:.9f}" for who, balance in balances.items() if balance < needed]
    if short:
        cost = f"{ENOUGH_GAS:,} gas cost {needed / COIN:.9f} of the chain's coin"
        raise Conflict(f"{cost}: {', '.join(short)}.")


def _senders(installation: Installation) -> dict[str, Account]:
    """The accounts that pay for transactions, by name; a watcher whose key is elsewhere is not known."""
    senders = {f"operator {installation.operator.account}": installation.operator.account}
    if installation.settings.watcher:
        watcher = installation.watcher_key.account
        senders[f"watcher {watcher}"] = watcher
    return senders


def _check_is_sold(installation: Installation) -> None:
    for base in installation.bases:
        installation.catalogue.resolve(base.name)
    with installation.database.read() as tx:
        installation.training_payments.check_registered(tx.chain)


OPERATOR_PARTS: tuple[Part[Installation], ...] = (
    Part(
        "operator",
        _check_can_settle,
        "The operator's status on the chain cannot be read.",
        "Run `loraledger operator show` for its status.",
    ),
    Part(
        "gas",
        _check_gas,
        "The balances for gas cannot be read.",
        "Send the account some of the chain's coin: the operator's pays for batches, the watcher's for "
        "answers to demands, without which a batch is voided and stake slashed.",
    ),
    Part(
        "base",
        _check_is_sold,
        "The records by which the base models are sold cannot be read.",
        "Run `loraledger operator base --prices PROMPT COMPLETION` to register the prices of the base "
        "models and of training on them; they are valid once `loraledger index` has indexed them.",
    ),
)
