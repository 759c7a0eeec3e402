"""Payout wallets: the addresses that accounts' earnings are paid to, changed by transaction or signature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.eip712 import build_typed_data
from backend.domain.hashing import PAYOUT_TYPE, TypedDomain
from backend.domain.money import AMOUNT, UNIT, in_dollars
from backend.domain.signatures import signature_hex
from backend.services.accounts.claims import NothingToClaim

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Chain
    from backend.services.accounts.claims import Claims
    from backend.services.transactions.relays import Relays

SETTLEMENT = "Settlement"
DEADLINE_SECONDS = 3600
"""Validity of a signature."""


@dataclass(frozen=True, slots=True)
class PreparedPayout:
    """Either the account sends `transaction`, or it signs `typed_data` and has the change relayed."""

    transaction: PreparedTransaction
    wallet: Account
    nonce: int
    deadline: int
    typed_data: dict[str, Any]


class Payouts:
    """Relays changes for accounts whose claims the operator would relay."""

    def __init__(self, chain: Chain, claims: Claims, relays: Relays) -> None:
        self._chain, self._claims, self._relays = chain, claims, relays

    def wallet_of(self, account: Account) -> Account:
        """The account's payout wallet: the account itself unless it set another one."""
        found: Account = self._chain.call(SETTLEMENT, "payoutWalletOf", account)
        return found

    def prepare(self, account: Account, wallet: Account) -> PreparedPayout:
        """Prepare a change of the payout wallet. Errors: `Reverted` for the vault, which cannot be one."""
        transaction = self._chain.prepare(SETTLEMENT, "setPayoutWallet", wallet, sender=account)
        nonce = int(self._chain.call(SETTLEMENT, "nonces", account))
        deadline = self._chain.head().timestamp + DEADLINE_SECONDS
        message = {
            "account": account,
            "newWallet": wallet,
            "nonce": str(nonce),
            "deadline": str(deadline),
        }
        domain = TypedDomain(self._chain.chain_id, self._chain.address(SETTLEMENT))
        typed_data = build_typed_data(domain.fields, PAYOUT_TYPE, message)
        return PreparedPayout(transaction, wallet, nonce, deadline, typed_data)

    def relay(
        self,
        account: Account,
        wallet: Account,
        nonce: int,
        deadline: int,
        signature: str,
        min_units: int,
    ) -> int:
        """Queue the change; returns the transaction's id.

        Errors, after which nothing is queued: `NothingToClaim` if the account can claim less than `min_units`
        token units, which is not worth the gas; those of `Relays.relay`.
        """
        page = self._claims.claimable(account)
        claimable = sum(one.claimable for one in page.found)
        if claimable < (minimum := min_units * UNIT):
            reasons = "".join(f"; not counted: {one.unverifiable}" for one in page.found if one.unverifiable)
            reasons += "; there are more operators, which were not asked" if page.rest else ""
            raise NothingToClaim(
                f"{account} can claim {in_dollars(claimable)}; a change is relayed from "
                f"{in_dollars(minimum)} on, below that the account's wallet sends it{reasons}",
                details={"claimable": AMOUNT.render(claimable), "minimum": AMOUNT.render(minimum)},
            )
        args = [account, wallet, str(nonce), str(deadline), signature_hex(signature)]
        call, key = (SETTLEMENT, "setPayoutWalletWithSig"), f"payout:{account}:{nonce}:{wallet}"
        return self._relays.relay(account, call, args, key)
