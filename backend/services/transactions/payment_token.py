"""The ERC-20 payment token: balances, allowances and the EIP-712 domain of its EIP-3009 authorisations."""

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
"""EIP-712 version of tokens without `version()`, as in EIP-2612."""


class PaymentToken:
    """Payment token of the deployment that `chain` connects to."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def balance(self, account: Account) -> int:
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
        """EIP-712 domain in which `owner` signs an EIP-3009 authorisation; None if the token has no EIP-3009.

        It is read by ERC-5267 where the token has it. Otherwise it is built from name and version, and used
        only if its hash equals the token's `DOMAIN_SEPARATOR`: signatures in a wrong domain would be invalid.
        """
        if self._call("authorizationState", owner, ZERO_HASH) is None:
            return None
        stated = self._call("eip712Domain")
        return self._built_domain() if stated is None else _parse_domain(*stated)

    def _built_domain(self) -> dict[str, Any] | None:
        domain = {
            "name": self._call("name"),
            "version": self._call("version") or DEFAULT_VERSION,
            "chainId": self._chain.chain_id,
            "verifyingContract": self._chain.address(PAYMENT_TOKEN),
        }
        is_known = domain["name"] is not None and separator(domain) == self._call("DOMAIN_SEPARATOR")
        return domain if is_known else None

    def _call(self, function: str, *args: Any) -> Any:
        """Result of a read; None if the token has no such function."""
        try:
            return self._chain.call(PAYMENT_TOKEN, function, *args)
        except Reverted:
            return None


def _parse_domain(fields: str, *values: Any) -> dict[str, Any]:
    """Domain from the results of `eip712Domain()`. Bit i of `fields` is set if the domain has field i."""
    used = int(fields, 16)
    named = zip(DOMAIN_FIELDS, values, strict=False)  # extensions come last and have no bit
    return {name: value for i, (name, value) in enumerate(named) if used >> i & 1}
