"""The ERC-20 in which payers deposit: what a wallet holds, and how it authorises a deposit by signature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.chain import Reverted
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.eip712 import DOMAIN_FIELDS, separator
from backend.domain.ids import ZERO_HASH

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Chain

DEFAULT_VERSION = "1"
"""Of a token that states none: EIP-2612 tokens without `version()` sign under it."""


class PaymentToken:
    """Of the deployment that `chain` knows."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def held(self, account: Account) -> int:
        """Token units."""
        return int(self._chain.call(PAYMENT_TOKEN, "balanceOf", account))

    def allowance(self, owner: Account, spender: Account) -> int:
        """Token units."""
        return int(self._chain.call(PAYMENT_TOKEN, "allowance", owner, spender))

    def allows(self, owner: Account, spender: Account, units: int) -> bool:
        return self.allowance(owner, spender) >= units

    def approval(self, owner: Account, spender: Account, units: int) -> PreparedTransaction:
        return self._chain.prepare(PAYMENT_TOKEN, "approve", spender, units, sender=owner)

    def signing_domain(self, owner: Account) -> dict[str, Any] | None:
        """The EIP-712 domain in which `owner` signs an EIP-3009 authorisation; None if the token takes none.

        As the token states it by ERC-5267. A token without that is asked for name and version, and taken at
        its word only if they make its `DOMAIN_SEPARATOR`: a signature in a guessed domain would be worthless.
        """
        if self._ask("authorizationState", owner, ZERO_HASH) is None:
            return None
        stated = self._ask("eip712Domain")
        return self._guessed_domain() if stated is None else _stated_domain(*stated)

    def _guessed_domain(self) -> dict[str, Any] | None:
        domain = {
            "name": self._ask("name"),
            "version": self._ask("version") or DEFAULT_VERSION,
            "chainId": self._chain.chain_id,
            "verifyingContract": self._chain.address(PAYMENT_TOKEN),
        }
        is_known = domain["name"] is not None and separator(domain) == self._ask("DOMAIN_SEPARATOR")
        return domain if is_known else None

    def _ask(self, function: str, *args: Any) -> Any:
        """None if the token has no such function."""
        try:
            return self._chain.call(PAYMENT_TOKEN, function, *args)
        except Reverted:
            return None


def _stated_domain(fields: str, *values: Any) -> dict[str, Any]:
    """From the results of `eip712Domain()`: bit i of `fields` says whether the domain has the i-th field."""
    used = int(fields, 16)
    named = zip(DOMAIN_FIELDS, values, strict=False)  # extensions come last, and have no bit
    return {name: value for i, (name, value) in enumerate(named) if used >> i & 1}
